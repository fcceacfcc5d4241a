"""Transcripts of protected sums, one file of JSON lines per job, for anyone who wants to verify them later.

A transcript begins with its format and the signed roster of the job, so it can be verified after the consortium has changed
and by newer versions of Salus.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salus.common.canonical import canonical_json
from salus.common.errors import ConfigError, JobError, ProtectionError, storage_error
from salus.common.identity import Signed
from salus.common.job import Job, job_from_canonical
from salus.common.roster import Roster, read_roster
from salus.common.strict import validate
from salus.common.versions import check_format
from salus.privacy.encryption.transcript import EncryptedCheck
from salus.privacy.masking.transcript import MaskedCheck
from salus.privacy.protocol.transcript import Entry, SessionCheck, Verified, verify_transcript

FORMAT = 1
HEAD, ROSTER = "transcript", "roster"
CHECKS: Mapping[str, type[SessionCheck]] = {"masking": MaskedCheck, "encryption": EncryptedCheck}


class Transcript:
    """Appends entries to a file; raises StorageError, because no sum may be made without a transcript."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_half_line(path)
        if not path.exists() or path.stat().st_size == 0:
            self(HEAD, format=FORMAT)

    def __call__(self, kind: str, **fields: Any) -> None:
        """Append an entry."""
        try:
            with self._path.open("ab") as file:
                file.write(canonical_json({"kind": kind, **fields}) + b"\n")
        except OSError as problem:
            raise storage_error(problem) or problem from None


def _drop_half_line(path: Path) -> None:
    """Remove an incomplete last line left by a killed process, so that the next entry is not read as part of it."""
    data = path.read_bytes() if path.exists() else b""
    if data and not data.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)


@dataclass(frozen=True)
class Checked:
    """A verified transcript.

    Args:
        roster: the job's roster, signed by the consortium.
        unproven: sentences on what such a transcript cannot prove.
    """

    verified: Verified
    roster: Roster
    unproven: Sequence[str]


def verify_file(path: Path, consortium_key: bytes) -> Checked:
    """Verify a transcript file with the roster that it names, regardless of the roster's dates; see `verify_transcript`.

    Args:
        consortium_key: the consortium's public key that every member pins, 32 bytes; it must have signed the roster.

    Raises:
        ProtectionError: the transcript is not valid, or the file is not a transcript.
        IdentityError: the roster is not signed by this consortium.
    """
    entries = _entries(path)
    rosters = [entry for entry in entries if entry["kind"] == ROSTER]
    if not entries or entries[0]["kind"] != ROSTER:
        raise ProtectionError(
            f"Expected the transcript {path.name!r} to begin with the roster of its job.",
            remedy="Ask the coordinator for the whole file.",
        )
    if any(entry != rosters[0] for entry in rosters):
        raise ProtectionError(
            "The transcript is not valid: it names several rosters.",
            remedy="Ask the coordinator for the original file.",
        )
    signed = validate(Signed, entries[0].get("signed"), error=ProtectionError, what="transcript's roster")
    roster = read_roster(signed, consortium_key)
    verified = _verify(entries, roster.keys())
    return Checked(verified, roster, CHECKS[verified.job.aggregation.protection].UNPROVEN)


def verify_entries(path: Path, keys: Mapping[int, bytes]) -> Verified:
    """Verify a transcript file against the sites' keys; errors as in `verify_file`."""
    return _verify(_entries(path), keys)


def _verify(entries: Sequence[Entry], keys: Mapping[int, bytes]) -> Verified:
    rest = [entry for entry in entries if entry["kind"] != ROSTER]
    name = _job(rest).aggregation.protection
    if name not in CHECKS:
        raise ProtectionError(
            f"A transcript of a job with protection {name!r} cannot be verified: it has no signatures of sites.",
            remedy="Use protection masking or encryption.",
        )
    return verify_transcript(rest, keys, CHECKS[name])


def _job(entries: Sequence[Entry]) -> Job:
    try:
        return job_from_canonical(str(entries[0]["document"]).encode())
    except (JobError, KeyError, IndexError, UnicodeEncodeError):
        raise ProtectionError(
            "The transcript is not valid: it does not begin with its job.",
            remedy="Ask the coordinator for the whole file.",
        ) from None


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        entries = [json.loads(line) for line in path.read_bytes().splitlines()]
    except (OSError, ValueError, RecursionError):
        raise ConfigError(f"Expected a transcript in {path.name!r}.", remedy="Check the path.") from None
    if not all(isinstance(entry, dict) and isinstance(entry.get("kind"), str) for entry in entries):
        raise ProtectionError(f"Expected a transcript in {path.name!r}.", remedy="Check the path.")
    if not entries or entries[0]["kind"] != HEAD:
        raise ProtectionError(
            f"Expected the transcript {path.name!r} to begin with its format.",
            remedy="Ask the coordinator for the whole file.",
        )
    check_format(entries[0].get("format"), FORMAT, what=f"transcript {path.name!r}", error=ProtectionError)
    return entries[1:]
