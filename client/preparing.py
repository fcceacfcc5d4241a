"""Prepares a job at a site: what can be refused without data, then the reservation, then the data.

Used for jobs and for canaries; `Site` verifies the job first.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from salus.client.account import Account
from salus.client.canary import one_step_of
from salus.client.checking import too_large
from salus.client.data.catalogue import Catalogue
from salus.client.data.loading import LocalData, Memory, local_data
from salus.client.data.troubles import Finding
from salus.client.ledger.store import Ledger
from salus.client.local_half import LocalHalf
from salus.client.measuring import Measurer, MeasuringJob
from salus.client.model_checks import check_imprint
from salus.client.performance import Performance
from salus.client.policy import Policy
from salus.client.private_training import PrivateTrainer
from salus.client.reserving import reserve
from salus.client.running import Private, Running, RunningJob
from salus.client.state import JobStates
from salus.client.training import Trainer
from salus.client.using import ledger_name
from salus.client.watch import DataWatch
from salus.common.cost import check_cost
from salus.common.errors import describe, no_space, where
from salus.common.events import EventSink
from salus.common.job import Job
from salus.common.progress import Reporter
from salus.common.start.applying import first_network
from salus.common.start.store import SiteStarts
from salus.common.strategies import strategy_of
from salus.common.sums import sums_of
from salus.common.tasks import make_task
from salus.common.transforms.checks import check_chain
from salus.common.vectors import layout_of
from salus.privacy.dp.plan import plan_of
from salus.privacy.protection import protection_of
from salus.privacy.protocol.store import SessionStore


@dataclass(frozen=True)
class Preparing:
    """What a site prepares jobs with; the arguments are those of `Site`.

    Args:
        sites: number of sites on the roster.
        random: returns this many random bytes.
    """

    site_id: int
    sites: int
    catalogue: Catalogue
    policy: Callable[[], Policy]
    performance: Performance
    events: EventSink
    ledger: Ledger
    store: SessionStore
    states: JobStates
    starts: SiteStarts
    watch: DataWatch
    reporter: Reporter
    random: Callable[[int], bytes]
    cache: Path | None
    order: bytes

    def job(self, job: Job, document: bytes, job_id: str, *, reserving: bool = True) -> Running:
        """Refuse a job that is too large for this machine, reserve its privacy cost, then read its data.

        Args:
            reserving: False for a canary, which takes one step and spends nothing.
        """
        check_cost(job, self.performance.job_limit_bytes(), too_large)
        if job.statistics is None:
            check_imprint(job, self.policy().allow_imprint_models)
        sums = sums_of(job) if job.statistics is not None else None  # refused before anything is spent
        protection_of(job).check(job, self.sites)
        self.starts.of(job)  # refused if it has not arrived
        plan = plan_of(job) if reserving else one_step_of(job)
        account, patients = None, None
        if plan is not None:
            account = Account(plan, self.ledger, ledger_name(job_id, document))
            patients = self.catalogue.patients(job.task.dataset)
            if reserving:
                budget = self.policy().budget
                patients = reserve(account, job, budget, self.catalogue, self.store, self.site_id, self.events)
        if sums is None:
            return self._training(job, document, job_id, account, patients)
        least = lambda: self.policy().min_patients_per_cell  # noqa: E731  # as it is at every step
        measurer = Measurer(self.catalogue, job, sums, patients, least, self.random, self.reporter)
        return MeasuringJob(job, job_id, document, protection_of(job), measurer, self.events, account)

    def _training(
        self, job: Job, document: bytes, job_id: str, account: Account | None, patients: frozenset[str] | None
    ) -> RunningJob:
        task = make_task(job.task)
        check_chain(task)
        model = first_network(job, self.starts.of(job))
        trainer = Trainer(model, layout_of(model), task, job, self.performance, self.reporter)
        protection = protection_of(job)
        name = ledger_name(job_id, document).replace("/", "-")
        local = LocalHalf(strategy_of(job), trainer.layout, self.states, name)
        private = Private(PrivateTrainer(trainer, account.plan, self.random)) if account is not None else None
        finding: Finding | None = None
        loading = functools.partial(self.reporter.at, "loading")
        memory = Memory.of(self.performance, self.cache)
        try:
            data: LocalData | None = local_data(self.catalogue, job, task, memory, patients, self.site_id, loading)
        except Exception as problem:
            finding = Finding(describe(problem))
            self.watch.note(job.task.dataset, finding)
            if no_space(problem) or (not protection.protects and private is None):
                raise
            data = None  # the site takes part without data, see `RunningJob.contribution`
            self.events.emit("no-data", job=job.job.name, text=describe(problem), where=where(problem))
        if data is not None:
            self.events.emit(
                "job-accepted",
                job=job.job.name,
                patients=data.train.patients,
                images=len(data.train),
                validation_patients=data.validation.patients,
                left_out=data.left_out,
            )
        return RunningJob(
            job, job_id, document, protection, trainer, data, self.events, account, private, local,
            finding=finding, order=self.order, least=self.policy().least(job) if job.evaluation.subgroups else 1,
            start=lambda: self.starts.of(job),
        )  # fmt: skip
