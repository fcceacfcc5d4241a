"""A verified job at a site, and what the site says in one round of it: with or without differential privacy.

plain      update weighted by patients, beside it the statistics of the validation patients
private    update of weight one, nothing beside it; every failure becomes a contribution without patients
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from salus.client.data.loading import LocalData
from salus.client.ledger.store import Ledger
from salus.client.private_training import DoubleVector, PrivateTrainer
from salus.client.training import Trainer, training_seed
from salus.common.errors import DataError, describe, where
from salus.common.events import EventSink
from salus.common.job import Job
from salus.common.packets import Request
from salus.common.vectors import FloatVector
from salus.privacy.contribution import Contribution, Shape, scale_of
from salus.privacy.dp.plan import Plan
from salus.privacy.protection import Protection


@dataclass
class Private:
    """What a job with noise has besides.

    Args:
        account: the ledger's name of the job.
        broken: training has failed once; from then on this job gets noise only.
        sent: the last contribution with local noise, by round and model: sent again, it costs nothing again.
    """

    plan: Plan
    trainer: PrivateTrainer
    ledger: Ledger
    account: str
    broken: bool = False
    sent: dict[tuple[int, bytes], Contribution] = field(default_factory=dict)


@dataclass
class RunningJob:
    """A verified job with all that is kept for it between rounds."""

    job: Job
    job_id: str
    document: bytes
    protection: Protection
    trainer: Trainer
    data: LocalData | None
    events: EventSink
    private: Private | None

    def contribution(self, request: Request, model: FloatVector, shape: Shape, site: int) -> Contribution:
        """Return what this site says in answer to `request`, ready to be protected.

        Guarantees: under differential privacy its cost is in the ledger, on disk, before this returns.

        Raises:
            LedgerError: nothing is left of what was reserved.
        """
        if self.private is not None:
            return self._private(self.private, request, model, shape)
        try:
            contribution = self._plain(request, model, shape, site)
            scale_of(contribution, shape)  # raises for NaN, infinity or values beyond their bounds
            return contribution
        except Exception as problem:
            # Whether a site refuses would otherwise tell the coordinator something about its patients.
            if not self.protection.protects:
                raise
            self._nothing(request, problem)
            return Contribution(np.zeros(shape.parameters, np.float32), 0.0, np.zeros(shape.statistics))

    def _plain(self, request: Request, model: FloatVector, shape: Shape, site: int) -> Contribution:
        job, trainer, data = self.job, self.trainer, self.data
        if data is None:
            raise DataError("This site has no usable data for this job.", remedy="See its log.")
        bound = job.aggregation.max_patients
        statistics = trainer.evaluate(model, data.validation) / bound
        if shape.kind == "evaluate":
            return Contribution(np.zeros(0, np.float32), 0.0, statistics)
        update = trainer.train(model, data.train, training_seed(job, site, request.round))
        self._trained(request, data)
        return Contribution(update, min(data.train.patients, bound) / bound, statistics)

    def _private(self, private: Private, request: Request, model: FloatVector, shape: Shape) -> Contribution:
        key = request.round, hashlib.sha256(model.tobytes()).digest()
        if key in private.sent:
            return private.sent[key]
        private.ledger.commit(private.account, request.round, request.attempt, private.plan.charge(shape.kind))
        try:
            update = self._noised(private, self.data, model, shape)
            if self.data is not None and shape.kind == "train":
                self._trained(request, self.data)
        except Exception as problem:
            # Unreadable patients were left out one by one before this. What is left is a fault of the machine; from now on the
            # site sends noise, because falling silent now and then would say which samples make it fail.
            self._nothing(request, problem)
            self.data = None
            private.broken = True
            update = self._noised(private, None, model, shape)
        contribution = Contribution(update, 1.0, np.zeros(0))
        if private.plan.mode == "local":
            private.sent = {key: contribution}
        return contribution

    def _noised(
        self, private: Private, data: LocalData | None, model: FloatVector, shape: Shape
    ) -> FloatVector | DoubleVector:
        update: FloatVector | DoubleVector
        if shape.kind == "evaluate":
            update = private.trainer.statistics(model, data.validation if data else None)
        elif private.plan.mode == "local":
            update = private.trainer.train(model, data.train if data else None)
        else:
            update = private.trainer.direction(model, data.train if data else None)
        scale_of(Contribution(update, 1.0, np.zeros(0)), shape)
        return update

    def _trained(self, request: Request, data: LocalData) -> None:
        self.events.emit(
            "trained",
            job=request.job_id,
            round=request.round,
            patients=data.train.patients,
            images=len(data.train),
            validation_images=len(data.validation),
            left_out=data.left_out,
        )

    def _nothing(self, request: Request, problem: Exception) -> None:
        self.events.emit(
            "contributed-nothing",
            job=request.job_id,
            round=request.round,
            text=describe(problem),
            where=where(problem),
        )
