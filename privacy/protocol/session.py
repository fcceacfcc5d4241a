"""The session of one protected sum: job, round, attempt, manifest, model and roster."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from salus.common.canonical import hash_parts, u32, u64

PROTOCOL = "salus/masked-sum/1"


def ids(sites: tuple[int, ...] | list[int] | set[int] | frozenset[int]) -> bytes:
    """Return the site ids as u32, ascending, concatenated."""
    return b"".join(u32(site) for site in sorted(sites))


def manifest_hash(document: bytes, kind: str, parameters: int, statistics: int) -> bytes:
    """Return the hash that binds a session to the signed job and to the kind and length of its vectors.

    Training and evaluation of one round, and vectors of different lengths, must never share a session: the mask of a
    shorter vector is a prefix of the mask of a longer one, so the rest of the longer vector would be revealed.
    """
    return hash_parts("salus/manifest/1", hashlib.sha256(document).digest(), kind, u64(parameters), u64(statistics))


def canary_hash(document: bytes, kind: str, parameters: int, statistics: int) -> bytes:
    """Return the same for a canary, in which every vector is zero; no message of it fits a session of the job."""
    return hash_parts("salus/canary/1", manifest_hash(document, kind, parameters, statistics))


@dataclass(frozen=True)
class Session:
    """One attempt at one round of one job, as one site sees it.

    Args:
        job_id: the job's name and the coordinator's submission number.
        manifest_hash: of the signed job and the vectors' kind and length, see `manifest_hash`.
        model_hash: SHA-256 of the global model bytes that this party holds.
        roster: ids of all sites that were asked to take part.
    """

    job_id: str
    round: int
    attempt: int
    manifest_hash: bytes
    model_hash: bytes
    roster: tuple[int, ...]

    @cached_property
    def id(self) -> bytes:
        """The session id, 32 bytes; two parties that disagree on anything above hold different ids."""
        return hash_parts(
            PROTOCOL,
            self.job_id,
            u32(self.round),
            u32(self.attempt),
            self.manifest_hash,
            self.model_hash,
            ids(self.roster),
        )
