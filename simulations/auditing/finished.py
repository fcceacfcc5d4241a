"""The folder of a finished simulation, read without trusting it: plain files of bounded size, and no link is followed."""

import re
import shutil
from pathlib import Path

from salus.common.errors import ConfigError
from salus.common.start.store import STARTS, CoordinatorStarts
from salus.server.checkpoints import Checkpoints
from salus.simulations.auditing.asked import Target

SITE = re.compile(r"site-([1-9][0-9]{0,3})")
MOST_SITES = 1000
LARGEST_FILE = 2**32  # bytes; a catalogue of a million images has about a quarter of this
PARTS = ("", "-wal", "-shm")  # of a SQLite database


def finished_run(run: Path, folder: Path) -> Target:
    """Return the job of a finished simulation, over copies of its catalogues, so that nothing in its folder changes.

    The catalogues name where the images lie, so only a folder from a person who may name files of this machine should be audited.

    Raises:
        ConfigError: the folder is not one of `salus simulate --output`, or holds links, or files that are too large.
        StartError: the weights with which the job starts are damaged.
    """
    if not (run / "coordinator" / "coordinator.sqlite").is_file():
        raise ConfigError(
            f"Expected a folder of `salus simulate --output`, but {run.name!r} holds no finished job.",
            remedy="Give a job file with --data, or the folder of a simulation.",
        )
    copied = folder / "copied"
    _copy(run / "coordinator", copied / "coordinator", "coordinator.sqlite")
    try:
        jobs = [row.job for row in Checkpoints(copied / "coordinator").jobs()]
    except (ValueError, RecursionError):  # of a signed job that is none
        raise _odd(run, "its job cannot be read") from None
    if not jobs:
        raise _odd(run, "it holds no job")
    names = [SITE.fullmatch(place.name) for place in run.iterdir() if place.is_dir()]
    sites = sorted(int(match.group(1)) for match in names if match is not None)
    if sites != list(range(1, len(sites) + 1)) or not 1 <= len(sites) <= MOST_SITES:
        raise _odd(run, f"expected the folders site-1, site-2 and so on, of at most {MOST_SITES} sites")
    for site in sites:
        _copy(run / f"site-{site}", copied / f"site-{site}", "catalogue.sqlite")
    job, starts = jobs[-1], Path("coordinator") / STARTS
    if job.start is not None:
        _copy(run / starts, copied / starts, CoordinatorStarts.name_of(job.start))
    return Target(job, copied, len(sites), start=CoordinatorStarts(copied / starts).of(job))


def _copy(source: Path, target: Path, name: str) -> None:
    """Copy a database; raises ConfigError for a link, for anything but a file, and for a file that is too large."""
    target.mkdir(parents=True)
    if source.is_symlink():
        raise _odd(source, "it is a link")
    for part in PARTS:
        file = source / f"{name}{part}"
        if file.is_symlink():
            raise _odd(file, "it is a link")
        if not file.exists():
            if not part:
                raise _odd(file, "it is missing")
            continue
        if not file.is_file() or file.stat().st_size > LARGEST_FILE:
            raise _odd(file, f"expected a file of at most {LARGEST_FILE // 2**30} GiB")
        shutil.copyfile(file, target / file.name)


def _odd(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{path.name!r} is not as `salus simulate --output` writes it: {what}.",
        remedy="Run the simulation again, and audit its folder.",
    )
