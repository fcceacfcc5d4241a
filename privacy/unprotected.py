"""No protection: the coordinator reads every site's vector. For simulations and for consortia that trust their coordinator.

It exists so that rounds follow the same steps with and without protection; it protects nothing.
"""

from collections.abc import Mapping

import numpy as np

from salus.common.errors import ProtectionError
from salus.common.job import Job
from salus.privacy.contribution import Contribution, Shape, Sum, to_vector
from salus.privacy.protocol.party import SiteParty
from salus.privacy.protocol.session import Session
from salus.privacy.protocol.transcript import Recorder

WIRE = np.dtype("<f4")
ROUNDING = 1e-5  # relative rounding error of a clipped norm sent as float32


class UnprotectedSite:
    """Sends the vector unprotected."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape

    @property
    def finished(self) -> bool:
        """Always: there is only one exchange."""
        return True

    def open(self, contribution: Contribution) -> bytes:
        """Return the vector as float32, little-endian."""
        return to_vector(contribution, self._shape).astype(WIRE).tobytes()

    def answer(self, request: bytes) -> bytes:
        """Refuse: there is only one exchange."""
        raise ProtectionError(
            "Expected a single exchange without protection, got a second request.", remedy="The coordinator is faulty."
        )


class UnprotectedCoordinator:
    """Adds each vector as it arrives and frees it; memory does not grow with the number of sites."""

    def __init__(self, session: Session, shape: Shape) -> None:
        self._roster = frozenset(session.roster)
        self._shape = shape
        self._sum = np.zeros(shape.length)
        self._sites: set[int] = set()

    def receive(self, site: int, reply: bytes) -> None:
        """Check one site's vector (length, finite, norm, ranges) and add it."""
        if site not in self._roster or site in self._sites:
            raise self._bad(site, "the site was not asked, or answered twice")
        if len(reply) != self._shape.length * WIRE.itemsize:
            raise self._bad(site, f"expected {self._shape.length} numbers, got {len(reply)} bytes")
        vector = np.frombuffer(reply, dtype=WIRE)
        update, tail = vector[: self._shape.parameters], vector[self._shape.parameters :]
        if not np.isfinite(vector).all():
            raise self._bad(site, "it holds NaN or infinity")
        limit = float(tail[0]) * self._shape.clip_norm_l2 * (1 + ROUNDING) + 1e-12
        if (tail < 0).any() or (tail > 1).any() or float(np.linalg.norm(update.astype(np.float64))) > limit:
            raise self._bad(site, "a norm, weight or statistic exceeds its public bound")
        self._sum += vector
        self._sites.add(site)

    def close(self) -> Mapping[int, bytes] | None:
        """End the only exchange."""
        return None

    @property
    def result(self) -> Sum:
        """The plain sum."""
        return Sum(self._sum, tuple(sorted(self._sites)))

    def _bad(self, site: int, reason: str) -> ProtectionError:
        return ProtectionError(
            f"The vector of site {site} is not valid: {reason}.", remedy="The site is left out of this round."
        )


class Unprotected:
    """The protection named ``none``."""

    name = "none"
    protects = False
    transcript = False

    def check(self, job: Job, sites: int, parameters: int | None = None) -> None:
        """Every job can run without protection."""

    def promise(self, sites: int) -> str:
        """Return what the coordinator can read, in a sentence for people."""
        return "every site's update"

    def needed(self, job: Job, sites: int) -> int:
        return 1

    def key_holder(self, job: Job) -> int:
        """Return 0: nothing is encrypted."""
        return 0

    def site_end(self, session: Session, shape: Shape, job: Job, party: SiteParty) -> UnprotectedSite:
        return UnprotectedSite(shape)

    def coordinator_end(
        self, session: Session, shape: Shape, job: Job, keys: Mapping[int, bytes], record: Recorder
    ) -> UnprotectedCoordinator:
        return UnprotectedCoordinator(session, shape)


UNPROTECTED = Unprotected()
