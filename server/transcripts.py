"""Transcripts of protected sums, one file of JSON lines per job, for anybody who wants to check them later."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from salus.common.canonical import canonical_json
from salus.common.errors import ProtectionError, storage_error
from salus.common.roster import Roster
from salus.privacy.masking.transcript import Verified, verify_transcript


class Transcript:
    """Appends entries to a file; raises StorageError, because a sum without a transcript must not happen."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, kind: str, **fields: Any) -> None:
        """Append an entry."""
        try:
            with self._path.open("ab") as file:
                file.write(canonical_json({"kind": kind, **fields}) + b"\n")
        except OSError as problem:
            raise storage_error(problem) or problem from None


def verify_file(path: Path, roster: Roster) -> Verified:
    """Check a transcript file against a roster; see `verify_transcript`.

    Raises:
        ProtectionError: it does not hold, or is no transcript.
    """
    return verify_entries(path, roster.keys())


def verify_entries(path: Path, keys: Mapping[int, bytes]) -> Verified:
    """Check a transcript file against the sites' keys; errors as in `verify_file`."""
    try:
        entries = [json.loads(line) for line in path.read_bytes().splitlines()]
    except (OSError, ValueError, RecursionError):
        raise ProtectionError(f"Expected a transcript in {path.name!r}.", remedy="Check the path.") from None
    return verify_transcript(entries, keys)
