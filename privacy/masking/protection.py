"""The protection named ``masking``: the two ends of the masked sum behind the common interface."""

import math
from collections.abc import Mapping

from salus.common.errors import ProtectionError
from salus.common.job import Job
from salus.privacy.contribution import Shape
from salus.privacy.dp.accounting import SMOOTHING_VARIANCE
from salus.privacy.dp.plan import plan_of, sensitivity_l2
from salus.privacy.masking.coordinator import MaskingCoordinator
from salus.privacy.masking.site import MaskingSite
from salus.privacy.protocol.encoding import FixedPoint, choose_encoding
from salus.privacy.protocol.parameters import thresholds
from salus.privacy.protocol.party import SiteParty
from salus.privacy.protocol.session import Session
from salus.privacy.protocol.transcript import Recorder
from salus.privacy.shapes import shapes_of

NARROWEST_SIGMA = 8.0


class Masking:
    """Only the site itself sees its update; the default of a job."""

    name = "masking"
    protects = True
    transcript = True

    def check(self, job: Job, sites: int, parameters: int | None = None) -> None:
        """Refuse a job whose sums are too large, or that can never have enough sites."""
        needed = self.needed(job, sites)
        if sites < needed:
            raise ProtectionError(
                f"Expected a roster of at least {needed} sites for masking "
                f"{'with' if job.privacy.noised else 'without'} differential privacy, found {sites}.",
                remedy="Add sites; with fewer, a sum reveals too much about each site.",
            )
        for shape in shapes_of(job, parameters):
            noise_share(job, shape, sites)

    def promise(self, sites: int) -> str:
        """Return what the coordinator can read, in a sentence for people."""
        limits = thresholds(sites)
        return (
            f"sums over several sites, never a single site's update. Each sum includes at least {limits.honest} sites that "
            f"do not collude with the coordinator, if at most {limits.colluders} of {sites} do"
        )

    def needed(self, job: Job, sites: int) -> int:
        """Return the fewest sites with which a round can finish, for a roster of `sites`."""
        return thresholds(sites, noised=job.privacy.noised).needed

    def key_holder(self, job: Job) -> int:
        """Return 0: no site has a key of its own."""
        return 0

    def site_end(self, session: Session, shape: Shape, job: Job, party: SiteParty) -> MaskingSite:
        """Return the site's end."""
        if job.privacy.noised != party.noised:
            raise ProtectionError(
                "Expected a privacy ledger for a job with noise.",
                remedy="Install the newest version of Salus at the site.",
            )
        encoding, sigma = noise_share(job, shape, len(session.roster))
        return MaskingSite(session, shape, encoding, party, job_minimum=job.job.min_sites, noise_sigma=sigma)

    def coordinator_end(
        self, session: Session, shape: Shape, job: Job, keys: Mapping[int, bytes], record: Recorder
    ) -> MaskingCoordinator:
        """Return the coordinator's end."""
        encoding, _ = noise_share(job, shape, len(session.roster))
        return MaskingCoordinator(session, shape, encoding, keys, record, noised=job.privacy.noised)


def noise_share(job: Job, shape: Shape, sites: int) -> tuple[FixedPoint, float]:
    """Return the encoding of a session and the standard deviation, in words, of one site's share of distributed noise.

    One patient moves the words of a site by at most ``S = sensitivity / grid + sqrt(d)``, the second term for the rounding
    of each entry. The sum must carry noise of variance ``(z S)^2 + tau^2`` when only h = t - c survivors are honest, so each
    adds its h-th part; with tau = 2 grid steps the sum is a rounded Gaussian of multiplier z (docs/decisions/0005).

    Raises:
        ProtectionError: the sum does not fit 31 bits, or the noise would be too narrow for that statement.
    """
    plan = plan_of(job)
    if plan is None or plan.mode == "local":
        return choose_encoding(sites, shape.clip_norm_l2), 0.0
    limits = thresholds(sites, noised=True)
    z = plan.multiplier(shape.kind)
    reach = sensitivity_l2(job, shape.kind)
    spread = math.sqrt(sites / limits.honest)
    # The rounding term is not known before the grid is: a first grid without it, then the final one with it.
    coarse = choose_encoding(sites, shape.clip_norm_l2, z * reach * spread)
    rounding = math.sqrt(shape.parameters) / coarse.scale
    encoding = choose_encoding(sites, shape.clip_norm_l2, z * (reach + rounding) * spread)
    change = reach * encoding.scale + math.sqrt(shape.parameters)
    sigma = math.sqrt(((z * change) ** 2 + SMOOTHING_VARIANCE) / limits.honest)
    if sigma < NARROWEST_SIGMA:
        raise ProtectionError(
            f"Expected noise of at least {NARROWEST_SIGMA} grid steps, got {sigma:.3g}.",
            remedy="Raise privacy.clip_norm_l2 or lower aggregation.update_clip_norm_l2.",
        )
    return encoding, sigma


MASKING = Masking()
