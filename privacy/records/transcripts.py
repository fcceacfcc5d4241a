"""A transcript of protected sums, verified by anyone: the signed roster of its job, then everything that the sites signed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from salus.common.errors import ConfigError, JobError, ProtectionError
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


@dataclass(frozen=True)
class Checked:
    """A verified transcript.

    Args:
        signed: the job's roster as the consortium signed it.
        roster: the same, read.
        unproven: sentences on what such a transcript cannot prove.
    """

    verified: Verified
    signed: Signed
    roster: Roster
    unproven: Sequence[str]


def verify_bytes(data: bytes, name: str, consortium_key: bytes) -> Checked:
    """Verify a transcript with the roster that it names, regardless of the roster's dates; see `verify_transcript`.

    Args:
        data: the file.
        name: of the file, for messages.
        consortium_key: the consortium's public key that every member pins, 32 bytes; it must have signed the roster.

    Raises:
        ProtectionError: the transcript is not valid, or the file is not a transcript.
        IdentityError: the roster is not signed by this consortium.
    """
    entries = _entries(data, name)
    signed = _roster_in(entries, name)
    roster = read_roster(signed, consortium_key)
    verified = _verify(entries, roster.keys())
    return Checked(verified, signed, roster, CHECKS[verified.job.aggregation.protection].UNPROVEN)


def verify_entries(data: bytes, name: str, keys: Mapping[int, bytes]) -> Verified:
    """Verify a transcript against the sites' keys; errors as in `verify_bytes`."""
    return _verify(_entries(data, name), keys)


def roster_in(data: bytes, name: str) -> Signed:
    """Return the signed roster with which a transcript begins, unchecked; errors as in `verify_bytes`."""
    return _roster_in(_entries(data, name), name)


def _roster_in(entries: Sequence[Entry], name: str) -> Signed:
    rosters = [entry for entry in entries if entry["kind"] == ROSTER]
    if not entries or entries[0]["kind"] != ROSTER:
        raise ProtectionError(
            f"Expected the transcript {name!r} to begin with the roster of its job.",
            remedy="Ask the coordinator for the whole file.",
        )
    if any(entry != rosters[0] for entry in rosters):
        raise ProtectionError(
            "The transcript is not valid: it names several rosters.",
            remedy="Ask the coordinator for the original file.",
        )
    return validate(Signed, entries[0].get("signed"), error=ProtectionError, what="transcript's roster")


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


def _entries(data: bytes, name: str) -> list[dict[str, Any]]:
    try:
        entries = [json.loads(line) for line in data.splitlines()]
    except (ValueError, RecursionError):
        raise ConfigError(f"Expected a transcript in {name!r}.", remedy="Check the path.") from None
    if not all(isinstance(entry, dict) and isinstance(entry.get("kind"), str) for entry in entries):
        raise ProtectionError(f"Expected a transcript in {name!r}.", remedy="Check the path.")
    if not entries or entries[0]["kind"] != HEAD:
        raise ProtectionError(
            f"Expected the transcript {name!r} to begin with its format.",
            remedy="Ask the coordinator for the whole file.",
        )
    check_format(entries[0].get("format"), FORMAT, what=f"transcript {name!r}", error=ProtectionError)
    return entries[1:]
