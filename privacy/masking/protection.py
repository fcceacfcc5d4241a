"""The protection named ``masking``: the two ends of the masked sum behind the common interface."""

from collections.abc import Mapping

from salus.common.errors import ProtectionError
from salus.common.job import Job
from salus.privacy.contribution import Shape
from salus.privacy.masking.coordinator import MaskingCoordinator
from salus.privacy.masking.encoding import choose_encoding
from salus.privacy.masking.parameters import thresholds
from salus.privacy.masking.site import MaskingSite, Member
from salus.privacy.masking.transcript import Recorder
from salus.privacy.protection import SiteParty
from salus.privacy.session import Session


class Masking:
    """Nobody but the site sees its update; the default of a job."""

    name = "masking"
    protects = True
    promise = "the sum over at least t - c honest sites, never a single update"

    def check(self, job: Job, sites: int) -> None:
        """Refuse a job whose sums would not fit, or that can never have enough sites."""
        choose_encoding(sites, job.aggregation.update_clip_norm_l2)
        needed = self.needed(sites)
        if sites < needed:
            raise ProtectionError(
                f"Expected a roster of at least {needed} sites for masking without differential privacy, found {sites}.",
                remedy="Add sites; with fewer, a sum says too much about each.",
            )

    def needed(self, sites: int) -> int:
        """Return the fewest sites with which a round can end, for a roster of `sites`."""
        return thresholds(sites).needed

    def site_end(self, session: Session, shape: Shape, job: Job, party: SiteParty) -> MaskingSite:
        """Return the site's end."""
        encoding = choose_encoding(len(session.roster), shape.clip_norm_l2)
        member = Member(
            party.site, party.identity, party.keys, party.store, party.minimum_cohort, party.random, party.scope
        )
        return MaskingSite(session, shape, encoding, member)

    def coordinator_end(
        self, session: Session, shape: Shape, job: Job, keys: Mapping[int, bytes], record: Recorder
    ) -> MaskingCoordinator:
        """Return the coordinator's end."""
        return MaskingCoordinator(
            session, shape, choose_encoding(len(session.roster), shape.clip_norm_l2), keys, record
        )


MASKING = Masking()
