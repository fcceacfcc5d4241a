"""Settings that change only speed and memory, never what is learnt from whom; kept apart from every rule for that reason."""

from typing import Annotated, Literal

import torch
from pydantic import Field

from salus.common.cost import MEBIBYTE, machine_limit_bytes
from salus.common.errors import ConfigError
from salus.common.strict import Strict


class Performance(Strict):
    """How this machine runs a job.

    Args:
        device: ``auto`` takes a GPU where there is one.
        mixed_precision: bfloat16 where the device has it; halves memory, changes results in the third digit.
        cache_mb: prepared samples kept in memory; beyond it they are read again each epoch.
        disk_cache_mb: prepared samples kept on disk between jobs and restarts; 0 for none.
        threads: CPU threads for training; 0 leaves torch's choice.
        decode_memory_mb: memory of the process that decodes images; a whole MedMNIST archive is held there.
        max_job_memory_mb: a job that needs more, by its public settings, is refused; 0 for three quarters of the machine.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    mixed_precision: bool = False
    cache_mb: Annotated[int, Field(ge=0)] = 4096  # the usual workstation has 32 GB or more
    disk_cache_mb: Annotated[int, Field(ge=0)] = 20_000  # a few hundred thousand pictures of 128 x 128
    threads: Annotated[int, Field(ge=0)] = 0
    decode_memory_mb: Annotated[int, Field(ge=256)] = 6144  # a volume of 2^28 voxels while it is turned and scaled
    max_job_memory_mb: Annotated[int, Field(ge=0)] = 0

    def job_limit_bytes(self) -> int:
        """Return how much memory a job may need, as estimated before it is built."""
        return self.max_job_memory_mb * MEBIBYTE or machine_limit_bytes()

    def torch_device(self) -> torch.device:
        """Return the device; raises ConfigError if a GPU was demanded and there is none."""
        available = torch.cuda.is_available()
        if self.device == "cuda" and not available:
            raise ConfigError("Expected a CUDA device, found none.", remedy='Set device = "auto" in site.toml.')
        return torch.device("cuda" if available and self.device != "cpu" else "cpu")
