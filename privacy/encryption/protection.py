"""The protection named ``encryption``: the two ends of the encrypted sum behind the common interface."""

from collections.abc import Mapping

from salus.common.errors import ProtectionError
from salus.common.job import Job
from salus.common.registry import settings_of
from salus.privacy.contribution import Shape
from salus.privacy.encryption.coordinator import EncryptedCoordinator
from salus.privacy.encryption.packing import choose_packing
from salus.privacy.encryption.settings import EncryptionSettings
from salus.privacy.encryption.site import EncryptedSite
from salus.privacy.protocol.parameters import thresholds
from salus.privacy.protocol.party import SiteParty
from salus.privacy.protocol.session import Session
from salus.privacy.protocol.transcript import Recorder
from salus.privacy.shapes import shapes_of


class Encryption:
    """Sites encrypt to a key holder; one upload, no exchanges between sites."""

    Settings = EncryptionSettings
    name = "encryption"
    protects = True
    transcript = False

    def check(self, job: Job, sites: int, parameters: int | None = None) -> None:
        """Refuse a job whose sums are too large, or that can never have enough sites."""
        for shape in shapes_of(job, parameters):
            choose_packing(sites, shape.clip_norm_l2)
        if sites < self.needed(job, sites):
            raise ProtectionError(
                f"Expected a roster of at least {self.needed(job, sites)} sites, found {sites}.", remedy="Add sites."
            )

    def promise(self, sites: int) -> str:
        """Return what the coordinator and the key holder can read, in a sentence for people."""
        limits = thresholds(sites)
        return (
            "sums over several sites, never a single site's update, also together with up to "
            f"{limits.colluders} of {sites} sites other than the key holder. Each sum then includes at least {limits.honest} "
            "sites that do not collude. The key holder can read every update that the coordinator sends to it, so each site "
            "must allow it in its policy; masking is stronger"
        )

    def needed(self, job: Job, sites: int) -> int:
        """Return the fewest sites with which a round can finish, for a roster of `sites`."""
        return thresholds(sites, noised=job.privacy.noised).needed

    def key_holder(self, job: Job) -> int:
        """Return the site that the job names."""
        return settings_of(job.aggregation, EncryptionSettings).key_holder

    def site_end(self, session: Session, shape: Shape, job: Job, party: SiteParty) -> EncryptedSite:
        """Return the site's end."""
        packing = choose_packing(len(session.roster), shape.clip_norm_l2)
        return EncryptedSite(session, shape, packing, self.key_holder(job), party, job.job.min_sites)

    def coordinator_end(
        self, session: Session, shape: Shape, job: Job, keys: Mapping[int, bytes], record: Recorder
    ) -> EncryptedCoordinator:
        """Return the coordinator's end."""
        packing = choose_packing(len(session.roster), shape.clip_norm_l2)
        holder = self.key_holder(job)
        return EncryptedCoordinator(session, shape, packing, holder, keys, record, noised=job.privacy.noised)


ENCRYPTION = Encryption()
