"""How updates are protected: one small interface with two ends, and the registry of its implementations.

    site                                  coordinator
    SiteEnd.open(contribution) ─ reply ─> CoordinatorEnd.receive
    SiteEnd.answer(request)    <─ close ─ CoordinatorEnd.close   (once for every further exchange)
                               ─ reply ─> CoordinatorEnd.receive
                                          CoordinatorEnd.close() returns None: CoordinatorEnd.result

Both ends are sans-IO: bytes in, bytes out. The engine that transports the bytes (network, simulation, Flower) is not known
here. To add a protection: one module with an object that fulfils `Protection`, one test, one line in `PROTECTIONS`.
"""

from collections.abc import Mapping
from typing import Protocol as Interface

from salus.common.errors import JobError
from salus.common.job import Job
from salus.common.registry import Registry
from salus.privacy.contribution import Contribution, Shape, Sum
from salus.privacy.protocol.party import SiteParty
from salus.privacy.protocol.session import Session
from salus.privacy.protocol.transcript import Recorder


class SiteEnd(Interface):
    """One site's side of one session; used once."""

    @property
    def finished(self) -> bool:
        """Whether no further request is expected, so that nothing is lost if it is forgotten."""

    def open(self, contribution: Contribution) -> bytes:
        """Take the site's contribution and return the reply to the training task."""

    def answer(self, request: bytes) -> bytes:
        """Return the reply to the coordinator's next request; raises ProtectionError to refuse it."""


class CoordinatorEnd(Interface):
    """The coordinator's side of one session; used once."""

    def receive(self, site: int, reply: bytes) -> None:
        """Accept one site's reply; raises ProtectionError, naming the site and the check, and excludes that site."""

    def close(self) -> Mapping[int, bytes] | None:
        """End the current exchange with the sites that have answered.

        Returns the next request per site, or None when the sum is known. Raises ProtectionError if the session cannot
        finish; then nothing has been revealed, and a new attempt is possible.
        """

    @property
    def result(self) -> Sum:
        """The sum, after `close` has returned None."""


class Protection(Interface):
    """A way of protecting updates."""

    name: str
    protects: (
        bool  # whether single updates are hidden from the coordinator; a site refuses False unless its policy allows it
    )
    transcript: bool  # whether its transcript shows how many vectors each site has sent

    def check(self, job: Job, sites: int, parameters: int | None = None) -> None:
        """Raise ProtectionError for a job that can never run over a roster of `sites`: it checks every shape of `shapes_of`.

        Args:
            parameters: trained ones of the network, if that is known without building it.
        """

    def promise(self, sites: int) -> str:
        """Return what the coordinator can read, in a sentence for people, for a roster of `sites`."""

    def needed(self, job: Job, sites: int) -> int:
        """Return the fewest sites with which a round of this job can finish, for a roster of `sites`."""

    def key_holder(self, job: Job) -> int:
        """Return the roster number of the site that decrypts the sums and must take part in every round; 0 if there is none."""

    def site_end(self, session: Session, shape: Shape, job: Job, party: SiteParty) -> SiteEnd:
        """Return the site's end of a new session."""

    def coordinator_end(
        self, session: Session, shape: Shape, job: Job, keys: Mapping[int, bytes], record: Recorder
    ) -> CoordinatorEnd:
        """Return the coordinator's end of a new session; `record` takes its transcript."""


PROTECTIONS = Registry(
    "protection",
    "salus.protections",
    {
        "encryption": "salus.privacy.encryption.protection:ENCRYPTION",
        "masking": "salus.privacy.masking.protection:MASKING",
        "none": "salus.privacy.unprotected:UNPROTECTED",
    },
)


def protection_of(job: Job) -> Protection:
    """Return the protection that a job names; raises JobError for an unknown one."""
    protection: Protection = PROTECTIONS.get(job.aggregation.protection, error=JobError)
    return protection


def key_holder_of(job: Job) -> int:
    """Return the roster number of the job's key holder, or 0."""
    return protection_of(job).key_holder(job)
