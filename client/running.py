"""A verified job at a site, and the site's contribution to each of its rounds: with or without differential privacy.

plain      update weighted by patients, together with the statistics of the validation patients
private    update of weight one and nothing else; every failure becomes a contribution without patients
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol as Interface

import numpy as np

from salus.client.account import Account
from salus.client.data.loading import LocalData
from salus.client.data.troubles import Finding
from salus.client.data.withdrawals import REASON as WITHDRAWN
from salus.client.grouping import GroupSums
from salus.client.local_half import LocalHalf
from salus.client.model_checks import check_first_model
from salus.client.private_training import DoubleVector, PrivateTrainer
from salus.client.training import Trainer, training_seed
from salus.client.using import sums_ended
from salus.common.errors import DataError, OtherPast, describe, no_space, where
from salus.common.events import EventSink
from salus.common.job import Job
from salus.common.packets import Request
from salus.common.start.weights import Weights
from salus.common.strategies.base import PLAIN, LocalRule
from salus.common.subgroups import groups_of
from salus.common.subgroups.exact import GroupTotals, nobody, to_entries
from salus.common.sums.exact import to_limbs
from salus.common.tasks.base import Totals
from salus.common.vectors import FloatVector
from salus.privacy.contribution import Contribution, DataKind, Kind, Shape, scale_of
from salus.privacy.dp.plan import Plan
from salus.privacy.protection import Protection
from salus.privacy.shapes import COHORT, shape_of


class Running(Interface):
    """A verified job of either kind, with everything that is kept for it between rounds.

    Attributes:
        ended: whether sums without noise over its data have ended at this site, see `using`.
    """

    job: Job
    job_id: str
    document: bytes
    protection: Protection
    account: Account | None
    ended: bool

    @property
    def usable(self) -> bool:
        """Whether it can continue as it is; otherwise it is prepared again."""

    def used(self) -> Mapping[str, DataKind]:
        """Return the patients whose data it may read now, with the kind of data."""

    def without_withdrawn(self) -> None:
        """Forget what is kept of patients who have withdrawn meanwhile."""

    def trouble(self) -> Finding | None:
        """Return the problem with the data since the last step, for the site's operator only; None if there is none."""

    def mended(self) -> None:
        """Note that samples which could not be read are available again."""

    def shape(self, request: Request, kind: Kind) -> Shape:
        """Return the shape of the vectors that a request asks for."""

    def contribution(
        self, request: Request, blob: bytes, shape: Shape, site: int, late: DataKind = DataKind.NONE
    ) -> Contribution:
        """Return this site's contribution in answer to `request`, ready to be protected.

        Args:
            late: kinds of data that this site must leave out, see `privacy.protocol.contributors.late_data`.

        Guarantees: under differential privacy its cost is in the ledger, on disk, before this returns.

        Raises:
            LedgerError: the reservation is used up.
        """


@dataclass
class Private:
    """The additional state of training with noise.

    Args:
        broken: training has failed once; from then on this job gets noise only.
    """

    trainer: PrivateTrainer
    broken: bool = False


@dataclass
class RunningJob:
    """Training.

    Args:
        local: the site's half of the job's strategy.
        order: secret from which the order of training without noise follows, see `training_seed`.
        least: fewest validation patients with which the site evaluates the model, and in a subgroup that it does not hide. A site
            with fewer in all sends no metrics in any round of a job with subgroups: otherwise they would be the difference
            between the total and the groups.
        start: returns the weights with which the job starts, from the disk; None for a job without a start.
    """

    job: Job
    job_id: str
    document: bytes
    protection: Protection
    trainer: Trainer
    data: LocalData | None
    events: EventSink
    account: Account | None
    private: Private | None
    local: LocalHalf
    finding: Finding | None = None
    order: bytes = b""
    least: int = 1
    ended: bool = False
    start: Callable[[], Weights | None] = lambda: None

    def __post_init__(self) -> None:
        self.groups = groups_of(self.job)

    @property
    def usable(self) -> bool:
        return self.data is not None or (self.private is not None and self.private.broken)

    def used(self) -> Mapping[str, DataKind]:
        return {} if self.data is None else self.data.used()

    def without_withdrawn(self) -> None:
        if self.data is not None and not self.data.without_withdrawn():
            self.data = None  # prepared again with the next request

    def trouble(self) -> Finding | None:
        return self.finding or (None if self.data is None else self.data.trouble())

    def mended(self) -> None:
        if self.data is not None:
            self.data.mended()

    def shape(self, request: Request, kind: Kind) -> Shape:
        return shape_of(self.job, kind, self.trainer.layout.size, self.trainer.task)

    def contribution(
        self, request: Request, blob: bytes, shape: Shape, site: int, late: DataKind = DataKind.NONE
    ) -> Contribution:
        model, sent = self.local.opened(blob, shape.kind, request.round)
        if self.data is not None:
            self.finding = None
        if shape.kind == "train" and request.round == 1:
            check_first_model(self.job, self.trainer.layout, model, self.start())
        if self.private is not None and self.account is not None:
            private, account = self.private, self.account
            private.trainer.check(model)  # before anything is spent or read
            rule = self.local.rule(request.round, model, sent) if shape.kind == "train" else PLAIN
            return account.spend(
                request, shape.kind, blob, lambda: self._private(private, account.plan, request, model, rule, shape)
            )
        try:
            data = self._usable(late)
            rule = self.local.rule(request.round, model, sent) if shape.kind == "train" else PLAIN
            contribution = self._plain(request, data, model, rule, shape, site, late)
            scale_of(contribution, shape)  # raises for NaN, infinity or values beyond their bounds
            self.local.finished(request.round, rule, contribution.update, shape)
            return contribution
        except Exception as problem:
            # A refusal would tell the coordinator something about the site's patients; that of a full disk does not, and
            # neither does that of a site which has usable data and lacks only what it kept.
            if not self.protection.protects or no_space(problem) or isinstance(problem, OtherPast):
                raise
            self._nothing(request, problem)
            size = self.trainer.task.statistics_size
            statistics = self._statistics(np.zeros(size), (0,) * len(COHORT), None, shape.kind)
            return Contribution(np.zeros(shape.parameters, np.float32), 0.0, statistics)

    def _usable(self, late: DataKind) -> LocalData:
        """Return the data of this site; raises DataError if it contributes none."""
        if self.ended:
            raise sums_ended()
        if self.data is None:
            raise DataError("This site has no usable data for this job.", remedy="See its log.")
        if DataKind.TRAINING in late:
            raise DataError(
                "This site contributed no training data to an earlier sum over this data set, so it contributes none now.",
                remedy="It takes part from the next cohort_epoch on, when all operators agree on one.",
            )
        return self.data

    def _plain(
        self,
        request: Request,
        data: LocalData,
        model: FloatVector,
        rule: LocalRule,
        shape: Shape,
        site: int,
        late: DataKind,
    ) -> Contribution:
        job, trainer = self.job, self.trainer
        used = data.train.patients, len(data.train), sum(data.left_out.values()), int(rule.restarted)
        validated = data.validation.patients >= self.least and DataKind.VALIDATION not in late
        size = trainer.task.statistics_size
        groups = GroupSums(self.groups, size) if self.groups.count and shape.kind == "evaluate" else None
        metrics = trainer.evaluate(model, data.validation, groups) if validated else np.zeros(size)
        kinds = DataKind.TRAINING | (DataKind.VALIDATION if validated else DataKind.NONE)
        grouped = groups.totals(data.validation, self.least) if groups is not None and validated else None
        statistics = self._statistics(metrics, used, grouped, shape.kind)
        if shape.kind == "evaluate":
            data.require()
            return Contribution(np.zeros(0, np.float32), 0.0, statistics, kinds)
        update = trainer.train(model, data.train, training_seed(job, site, request.round, self.order), rule)
        data.require()  # whose last batch was before the withdrawal is in the update, too
        self._trained(request, data)
        bound = job.aggregation.max_patients
        return Contribution(update, min(data.train.patients, bound) / bound, statistics, kinds)

    def _statistics(
        self, metrics: Totals, used: tuple[int, ...], grouped: GroupTotals | None, kind: Kind
    ) -> DoubleVector:
        """Return the statistics of a round without noise, each entry from 0 to 1.

        Args:
            used: the numbers of `COHORT`.
            grouped: sums of the subgroups; None for a site that evaluates nothing.
        """
        bound = self.job.aggregation.max_patients
        parts = [metrics / bound, to_limbs(np.array(used, float))]
        if kind == "evaluate":
            parts.append(to_entries(grouped or nobody(self.groups, len(metrics)), bound))
        return np.concatenate(parts)

    def _private(
        self, private: Private, plan: Plan, request: Request, model: FloatVector, rule: LocalRule, shape: Shape
    ) -> Contribution:
        try:
            update = self._noised(private, plan, self.data, model, rule, shape)
            if self.data is not None and shape.kind == "train":
                self._trained(request, self.data, private.trainer.left_out)
            self._tell(private.trainer.left_out)
        except Exception as problem:
            if no_space(problem):
                raise
            # Unreadable patients were left out one by one before this. What is left is a fault of the machine; from now on the
            # site sends noise, because occasional silence would reveal which samples make it fail.
            self._nothing(request, problem)
            self.data = None
            private.broken = True
            update = self._noised(private, plan, None, model, rule, shape)
        self.local.finished(request.round, rule, update, shape)  # of the noised update, so it costs nothing
        return Contribution(update, 1.0, np.zeros(0))

    def _tell(self, left_out: Mapping[str, int]) -> None:
        """Tell the operator about patients that added nothing, unless unreadable files already explain it."""
        counted = {reason: count for reason, count in left_out.items() if reason != WITHDRAWN}
        if counted and self.trouble() is None:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counted.items()))
            self.finding = Finding(
                f"Some patients contributed nothing to the running job ({reasons}). "
                "Check their images, or the model if there are many."
            )

    def _noised(
        self,
        private: Private,
        plan: Plan,
        data: LocalData | None,
        model: FloatVector,
        rule: LocalRule,
        shape: Shape,
    ) -> FloatVector | DoubleVector:
        update: FloatVector | DoubleVector
        if shape.kind == "evaluate":
            update = private.trainer.statistics(model, data.validation if data else None)
        elif plan.mode == "local":
            update = private.trainer.train(model, data.train if data else None, rule)
        else:
            update = private.trainer.direction(model, data.train if data else None)
        scale_of(Contribution(update, 1.0, np.zeros(0)), shape)
        return update

    def _trained(self, request: Request, data: LocalData, also: Mapping[str, int] | None = None) -> None:
        self.events.emit(
            "trained",
            job=request.job_id,
            round=request.round,
            patients=data.train.patients,
            images=len(data.train),
            validation_images=len(data.validation),
            left_out=dict(Counter(data.left_out) + Counter(also or {})),
        )

    def _nothing(self, request: Request, problem: Exception) -> None:
        self.finding = self.finding or Finding(f"The running job received no data from it. {describe(problem)}")
        self.events.emit(
            "contributed-nothing",
            job=request.job_id,
            round=request.round,
            text=describe(problem),
            where=where(problem),
        )
