"""What a site writes down before a job uses patients, and which sums it no longer takes part in once one of them has withdrawn.

Without noise, two sums over the same data, before and after a withdrawal, differ by that patient: with masking and clipping alone
the coordinator could subtract them. So after the withdrawal of a patient who was in a sum of a cohort epoch, the site
contributes nothing to further sums without noise over that data set in that epoch. The other sites then do not open these
sums, for the same reason as when a site's data are lost, and learn no more than that. Operators agree on a new epoch.

With noise nothing ends: one patient more or less is what the guarantee is about, and a sampled patient may always be absent.
"""

import hashlib
from collections.abc import Mapping
from typing import Protocol as Interface

from salus.client.data.uses import UsedJob, Uses
from salus.common.errors import DataError
from salus.common.job import Job
from salus.privacy.contribution import DataKind
from salus.privacy.protection import Protection
from salus.privacy.protocol.store import SessionStore


class UsingJob(Interface):
    """What is asked of a job that is about to use patients."""

    job: Job
    protection: Protection

    def used(self) -> Mapping[str, DataKind]:
        """Return the patients whose data it may read now, with the kind of data."""


class UseRecord:
    """Keeps the record of one site.

    Args:
        store: what the site remembers of sums that were opened.
    """

    def __init__(self, uses: Uses, store: SessionStore, site: int) -> None:
        self._uses, self._store, self._site = uses, store, site
        self._noted: tuple[str, Mapping[str, DataKind]] = ("", {})

    def begin(self, running: UsingJob, name: str, scope: str, round_: int) -> bool:
        """Note who may be used in a round, on disk when this returns, and return whether sums of this scope have ended here.

        Args:
            name: of the job, as in the ledger.
            scope: data set and cohort epoch.
        """
        noised, protects = running.job.privacy.noised, running.protection.protects
        used = running.used()
        if self._noted != (name, used):
            self._uses.note(UsedJob(name, scope, noised, protects), used, round_)
            self._noted = name, used
        return not noised and self._ended(scope)

    def _ended(self, scope: str) -> bool:
        """Return whether an earlier vector that others may know held a patient who has withdrawn.

        One that was protected and never opened does not count, unless another sum of the scope was: which of its vectors were
        in that one is not remembered.
        """
        protected, plain = self._uses.ended(scope)
        return plain or (protected and any(self._contributed(c.contributors) for c in self._store.consents(scope)))

    def _contributed(self, contributors: Mapping[DataKind, frozenset[int]] | None) -> bool:
        return contributors is None or any(self._site in sites for sites in contributors.values())


def ledger_name(job_id: str, document: bytes) -> str:
    """Return a job's name in the ledger: the coordinator's id of it, and the beginning of the signed job's hash."""
    return f"{job_id}/{hashlib.sha256(document).hexdigest()[:16]}"


def sums_ended() -> DataError:
    """Return the reason, for the operator only, why a site contributes nothing."""
    return DataError(
        "A patient has withdrawn who was in an earlier sum without noise over this data set: the difference of two sums would "
        "be this patient's data. So this site contributes nothing to such sums in this cohort_epoch.",
        remedy="Use jobs with noise, or agree with all operators on a new cohort_epoch; see docs/withdrawal.md.",
    )
