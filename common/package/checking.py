"""A package whose signatures and hashes have been checked: the roster, the manifest, the job, and every file."""

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from salus.common.errors import IdentityError, JobError, PackageError, RosterError
from salus.common.identity import Signed, unhex
from salus.common.job import Job, open_job
from salus.common.package.files import Files, changed, opened, read
from salus.common.package.layout import CONTEXT, JOB, MANIFEST, ROSTER, Manifest, is_added
from salus.common.roster import Roster, read_roster, roster_hash
from salus.common.strict import Strict, validate

M = TypeVar("M", bound=Strict)
MAX_DIGITS = 30  # of a whole number; longer ones are no sizes or counts


@dataclass(frozen=True)
class Package:
    """A package whose files are those that the coordinator signed.

    Args:
        sha256: of the signed manifest, hexadecimal; it stands for the whole package.
        roster: with which the job began.
        pinned: whether the consortium's key was compared with one that is known from elsewhere.
    """

    files: Files
    manifest: Manifest
    sha256: str
    roster: Roster
    job: Job
    pinned: bool

    def has(self, name: str) -> bool:
        """Return whether the package has a file."""
        return name in self.files.sizes

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        return read(self.files, name)

    def json(self, name: str) -> Any:
        """Return the value of a JSON file."""
        return json_of(self.read(name), name)

    def document(self, model: type[M], name: str) -> M:
        """Return a JSON file as a model; raises PackageError if it is none."""
        return validate(model, self.json(name), error=PackageError, what=name, received=True)

    def write_file(self, name: str, path: Path) -> Path:
        """Write a file of the package to a new one of the caller's and return it."""
        with path.open("xb") as file:
            for part in self.files.chunks(name):
                file.write(part)
        return path


@contextmanager
def checked_package(path: Path, consortium_key: bytes | None = None) -> Iterator[Package]:
    """Open a package and check every signature and every hash in it.

    Args:
        consortium_key: the pinned key, 32 bytes; None takes the one that the package names, which proves only that all of its
            parts belong together.

    Raises:
        PackageError: a file is missing, unknown or not the one that was signed, or a signature does not verify.
    """
    with opened(path) as files:
        signed = _signed(files, MANIFEST)
        stated = _manifest(signed.document)
        _check_pinned(stated, consortium_key)
        roster = _roster(files, stated)
        try:
            signed.open(unhex(roster.coordinator.public_key), CONTEXT, who="the coordinator")
        except IdentityError:
            raise changed(f"{MANIFEST} is not signed by the coordinator that the roster names") from None
        _check_files(files, stated)
        digest = hashlib.sha256(signed.document.encode()).hexdigest()
        yield Package(files, stated, digest, roster, _job(files, stated, roster), consortium_key is not None)


def json_of(data: bytes, name: str) -> Any:
    """Return the value of JSON bytes that every program reads alike: UTF-8, each key once, numbers of ordinary size.

    Raises:
        PackageError: anything else.
    """
    try:
        return json.loads(
            data.decode(), object_pairs_hook=_each_once, parse_constant=_number, parse_float=_number, parse_int=_whole
        )
    except (ValueError, RecursionError):
        raise changed(f"{name} is not JSON") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is repeated")  # of which every program would take another one
    return found


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError("not a finite number")
    return number


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError("too large a number")
    return int(text)


def _signed(files: Files, name: str) -> Signed:
    return validate(Signed, json_of(read(files, name), name), error=PackageError, what=name, received=True)


def _manifest(document: str) -> Manifest:
    values = json_of(document.encode(), MANIFEST)
    return validate(Manifest, values, error=PackageError, what=MANIFEST, received=True)


def _check_pinned(stated: Manifest, pinned: bytes | None) -> None:
    if pinned is not None and pinned.hex() != stated.consortium_key:
        raise changed(
            f"it is of another consortium ({stated.consortium}) than the one whose key is pinned here",
            "Refuse the package, or use it apart from this site: with --kit and a kit of the package's consortium where the "
            "command takes one, else without --site.",
        )


def _roster(files: Files, stated: Manifest) -> Roster:
    signed = _signed(files, ROSTER)
    try:
        roster = read_roster(signed, unhex(stated.consortium_key))
    except RosterError as problem:
        raise changed(f"{ROSTER}: {problem.problem.rstrip('.')}") from None
    except IdentityError:
        raise changed(f"{ROSTER} is not signed by the consortium") from None
    if roster_hash(signed) != stated.roster_sha256:
        raise changed(f"{ROSTER} is roster {roster.serial} of the consortium, not the one with which the job began")
    if roster.consortium != stated.consortium:
        raise changed(f"{MANIFEST} names another consortium than {ROSTER}")
    return roster


def _check_files(files: Files, stated: Manifest) -> None:
    listed = {line.name for line in stated.files}
    present = {name for name in files.sizes if not is_added(name)}
    if missing := sorted(listed - present):
        raise changed(f"the file {missing[0]} is missing")
    if extra := sorted(present - listed):
        raise changed(f"the file {extra[0]} is not in the manifest that the coordinator signed")
    for line in stated.files:
        if files.sizes[line.name] != line.size:
            raise changed(f"{line.name} has {files.sizes[line.name]} bytes, the manifest says {line.size}")
        digest = hashlib.sha256()
        for part in files.chunks(line.name):
            digest.update(part)
        if digest.hexdigest() != line.sha256:
            raise changed(f"{line.name} is not the file that the coordinator signed")


def _job(files: Files, stated: Manifest, roster: Roster) -> Job:
    try:
        job, document = open_job(_signed(files, JOB), unhex(roster.coordinator.public_key))
    except IdentityError:
        raise changed(f"{JOB} is not signed by the coordinator that the roster names") from None
    except JobError as problem:
        raise changed(f"{JOB}: {problem.problem.rstrip('.')}", problem.remedy) from None
    if hashlib.sha256(document).hexdigest() != stated.job_sha256:
        raise changed(f"{JOB} is another job than {MANIFEST} names")
    return job
