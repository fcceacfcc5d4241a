"""Settings that affect only speed and memory, never a guarantee; kept apart from every rule for that reason."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from salus.common.errors import ConfigError
from salus.common.machine import MEBIBYTE, machine_limit_bytes
from salus.common.strict import Strict

if TYPE_CHECKING:
    import torch


class Performance(Strict):
    """How this machine runs a job.

    Args:
        device: device for training; ``auto`` uses a GPU if there is one.
        mixed_precision: train in bfloat16 if the device supports it; halves memory and changes results in the third digit.
        cache_mb: memory in MB for prepared samples; samples that do not fit are read again in each epoch.
        disk_cache_mb: disk space in MB for prepared samples, kept between jobs and restarts; 0 turns the cache off.
        threads: CPU threads for training; 0 leaves the choice to torch.
        decode_memory_mb: memory limit in MB of the process that decodes images; it holds a whole MedMNIST archive.
        max_job_memory_mb: a job is refused if its public settings need more memory than this, in MB; 0 means three quarters of
            the machine's memory.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    mixed_precision: bool = False
    cache_mb: Annotated[int, Field(ge=0)] = 4096  # a typical workstation has 32 GB or more
    disk_cache_mb: Annotated[int, Field(ge=0)] = 20_000  # a few hundred thousand images of 128 x 128
    threads: Annotated[int, Field(ge=0)] = 0
    decode_memory_mb: Annotated[int, Field(ge=256)] = 6144  # enough to reorient and rescale a volume of 2^28 voxels
    max_job_memory_mb: Annotated[int, Field(ge=0)] = 0

    def job_limit_bytes(self) -> int:
        """Return how much memory a job may need, as estimated before it is built."""
        return self.max_job_memory_mb * MEBIBYTE or machine_limit_bytes()

    def torch_device(self) -> "torch.device":
        """Return the device; raises ConfigError if a GPU was requested and there is none."""
        import torch  # here: a site at rest reads these settings, too

        available = torch.cuda.is_available()
        if self.device == "cuda" and not available:
            raise ConfigError("Expected a CUDA device, found none.", remedy='Set device = "auto" in site.toml.')
        return torch.device("cuda" if available and self.device != "cpu" else "cpu")
