"""Transcripts of protected sums, one file of JSON lines per job, for anyone who wants to verify them later.

A transcript begins with its format and the signed roster of the job, so it can be verified after the consortium has changed
and by newer versions of Salus.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from salus.common.canonical import canonical_json
from salus.common.errors import ConfigError, ProtectionError, storage_error
from salus.common.files import append_line, drop_half_line
from salus.common.roster import roster_hash
from salus.privacy.protocol.transcript import Verified
from salus.privacy.records.transcripts import FORMAT, HEAD, Checked, roster_in, verify_bytes
from salus.privacy.records.transcripts import verify_entries as _verify_entries


class Transcript:
    """Appends entries to a file; raises StorageError, because no sum may be made without a transcript."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        drop_half_line(path)
        if not path.exists() or path.stat().st_size == 0:
            self(HEAD, format=FORMAT)

    def __call__(self, kind: str, **fields: Any) -> None:
        """Append an entry."""
        try:
            append_line(self._path, canonical_json({"kind": kind, **fields}))
        except OSError as problem:
            raise storage_error(problem) or problem from None


def opened(path: Path, attempted: bool) -> Transcript:
    """Open the transcript of a job that begins or continues.

    Args:
        attempted: whether the records say that a site was asked for a sum. If none was, a transcript that has only a roster
            is begun anew, because the roster may have been replaced since. One with a session is never deleted, whatever the
            records say: they may have been restored from a backup.
    """
    if not attempted and not has(path, "session"):
        path.unlink(missing_ok=True)
    return Transcript(path)


def began_with(path: Path) -> str:
    """Return the hash of the roster of a transcript with a session; empty before any site was asked for a sum.

    A job keeps this roster, whatever the records say: they may have been restored from a backup.

    An incomplete last line, left by a loss of power, is not looked at: `Transcript` removes it.

    Raises:
        ProtectionError: the transcript is damaged, or does not begin with one roster.
    """
    if not has(path, "session"):
        return ""
    data = path.read_bytes()
    try:
        return roster_hash(roster_in(data[: data.rfind(b"\n") + 1], path.name))
    except (ConfigError, ProtectionError) as problem:
        raise ProtectionError(
            f"The job cannot continue: its transcript is damaged. {problem.problem}",
            remedy="Put the file back from a backup and resume the job, or abort it and submit a new one.",
        ) from None


def has(path: Path, kind: str) -> bool:
    """Return whether a transcript has an entry of this kind; False if there is no transcript."""
    return path.exists() and f'"kind":"{kind}"'.encode() in path.read_bytes()


def verify_file(path: Path, consortium_key: bytes) -> Checked:
    """Verify a transcript file; see `verify_bytes`."""
    return verify_bytes(_bytes_of(path), path.name, consortium_key)


def verify_entries(path: Path, keys: Mapping[int, bytes]) -> Verified:
    """Verify a transcript file against the sites' keys; errors as in `verify_bytes`."""
    return _verify_entries(_bytes_of(path), path.name, keys)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise ConfigError(f"Expected a transcript in {path.name!r}.", remedy="Check the path.") from None
