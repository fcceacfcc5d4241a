"""The model that a command is given: a package, which has its job, or a file together with the job file."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from salus.client.predicting import model as networks
from salus.client.predicting.from_sums import SumsModelFile, key_of, load_sums_model
from salus.client.predicting.model import FinishedModel
from salus.common.clock import SystemClock
from salus.common.errors import ConfigError
from salus.common.identity import unhex
from salus.common.job import Job, load_job
from salus.common.package.checking import checked_package
from salus.common.package.files import is_package, must_exist
from salus.common.package.pinning import pinned_key
from salus.common.trust import KIT, TRUST


@dataclass(frozen=True)
class Given:
    """A job and its model, which is read only when it is asked for.

    Args:
        load: returns the model, checked; errors as in `load_model` and `load_sums_model`.
    """

    job: Job
    load: Callable[[], FinishedModel | SumsModelFile]

    def network(self) -> FinishedModel:
        """Return the model of a job that trains a network; raises ConfigError for a model from sums."""
        found = self.load() if self.job.statistics is None else None
        if not isinstance(found, FinishedModel):
            raise ConfigError("Expected a model that was trained, got one from sums.", remedy="Use salus predict.")
        return found


@contextmanager
def given_model(model: Path, job: Path | None, site: Path | None = None, signed_by: str = "") -> Iterator[Given]:
    """Open the model that a command is given.

    Args:
        model: a package's folder or zip, or a model's file.
        job: the job file; None for a package.
        site: a member's folder, whose key of the consortium is compared with that of a package.
        signed_by: for a model from sums in a file: whose key it must be signed with, see `key_of`.

    Raises:
        ConfigError: a file without its job, or a package with another one beside it.
        PackageError: the package is not as it was signed.
    """
    if not is_package(model):
        if job is None:
            must_exist(model)
            if model.is_dir():
                raise ConfigError(
                    f"{model.name!r} is a folder without a manifest.json, so it is no package.",
                    remedy="Give the folder or the zip that salus model export wrote.",
                )
            raise ConfigError(
                f"{model.name!r} is a file, which does not say how its model is used.",
                remedy="Give its job file with --job, or the package of the model.",
            )
        settings = load_job(job)
        yield Given(settings, lambda: _from_file(model, settings, signed_by, site))
        return
    if job is not None or signed_by:
        raise ConfigError("A package has its job and its keys.", remedy="Leave out --job and --signed-by.")
    joined = site is not None and (site / TRUST / KIT).exists()
    key = pinned_key(site, None) if site is not None and joined else None
    with checked_package(model, key) as package, tempfile.TemporaryDirectory(prefix="salus-") as folder:
        name = "model.safetensors" if package.job.statistics is None else "model.json"

        def load() -> FinishedModel | SumsModelFile:
            path = package.write_file(name, Path(folder) / name)
            if package.job.statistics is None:
                return networks.load_model(path, package.job)
            return load_sums_model(path, package.job, unhex(package.roster.coordinator.public_key))

        yield Given(package.job, load)


def _from_file(path: Path, job: Job, signed_by: str, site: Path | None) -> FinishedModel | SumsModelFile:
    if job.statistics is None:
        if signed_by:
            raise ConfigError("The file of a network has no signature.", remedy="Leave out --signed-by.")
        return networks.load_model(path, job)
    return load_sums_model(path, job, key_of(signed_by or str(site or ""), SystemClock()))
