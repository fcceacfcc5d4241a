"""A canary: a job is tried out at a site, through to a protected sum over zeros, before it is submitted.

The site checks everything that it checks of a job, reads its data and takes one training step with them, and forgets the result.
Then it takes part in a sum with a vector of zeros: nothing in its answers depends on a patient.

    told to the coordinator       policy, declarations, budget (as yes or no), memory, network, engine, the start, protection
    told to its operator only     what is wrong with the data, or in the step; a coordinator could otherwise ask about one patient

Nothing is reserved or spent, and the sum's sessions and consents are kept in memory only, under another name than those of jobs:
what the site may consent to afterwards is the same as before.
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from salus.client.checking import check_sites, session_of
from salus.client.measuring import MeasuringJob
from salus.client.model_checks import check_first_model
from salus.client.running import Running, RunningJob
from salus.common.errors import UnfitError, describe, where
from salus.common.job import Job
from salus.common.packets import Request
from salus.common.strategies.base import LocalRule
from salus.common.sums.state import state_from_bytes
from salus.common.verdict import Verdict
from salus.privacy.contribution import Contribution, DataKind, Shape
from salus.privacy.dp.plan import Plan, plan_of
from salus.privacy.protection import SiteEnd
from salus.privacy.protocol.head import HASH_BYTES, Head
from salus.privacy.protocol.session import canary_hash
from salus.privacy.protocol.store import MemoryStore

if TYPE_CHECKING:
    from salus.client.site import Site

NO_HEAD = Head(0, bytes(HASH_BYTES))  # a canary shows nobody where a ledger is


def try_out(site: "Site", request: Request, blob: bytes) -> tuple[bytes, SiteEnd]:
    """Return the reply to a canary and the site's end of its session; a part of what `Site` does.

    Raises:
        UnfitError: this site could not run the job, with every reason that may be told.
        SalusError: a check of the job failed.
    """
    require(site.verdict(request))
    job, document = site.opened(request)
    keys = site.newest_keys()
    check_sites(request, job, keys, site.site_id)
    running = site.prepare(job, document, request.job_id, reserving=False)
    shape = running.shape(request, "train" if job.statistics is None else "measure")
    check_public(running, blob)
    try:
        step(running, blob)
    except Exception as problem:
        site.events.emit("canary-failed", job=job.job.name, text=describe(problem), where=where(problem))
    else:
        site.events.emit("canary", job=job.job.name)
    session = session_of(request, canary_hash(document, shape.kind, shape.parameters, shape.statistics), blob)
    party = site.party(keys, MemoryStore(), scope="canary", head=(lambda: NO_HEAD) if job.privacy.noised else None)
    end = running.protection.site_end(session, shape, job, party)
    return end.open(zeros(shape, noised=job.privacy.noised)), end


def require(verdict: Verdict) -> None:
    """Raise UnfitError with all problems of a verdict."""
    if not verdict.fits:
        raise UnfitError(" ".join(problem.text for problem in verdict.problems)[:1800], remedy="")


def check_public(running: Running, blob: bytes) -> None:
    """Raise SalusError for a model or state that is not the one with which the job begins; both are public."""
    if isinstance(running, RunningJob):
        model, _ = running.local.opened(blob, "train", 1)
        check_first_model(running.job, running.trainer.layout, model, running.start())


def step(running: Running, blob: bytes) -> None:
    """Take one step of training, or of the statistics, with the site's data; the result is forgotten.

    Raises:
        Exception: whatever would fail in the job; for the site's operator only.
    """
    if isinstance(running, MeasuringJob):
        measurer = running.measurer
        state = state_from_bytes(blob, measurer.sums.state_size(1))
        if running.account is None:
            measurer.exact(1, state)
        else:
            measurer.noised(1, state, running.account.plan)
        return
    assert isinstance(running, RunningJob)  # Safe because there are no other kinds.
    if running.data is None:
        raise UnfitError(running.finding.problem if running.finding else "This site has no usable data.", remedy="")
    model, _ = running.local.opened(blob, "train", 1)
    if running.private is None or running.account is None:
        running.trainer.train(model, running.data.train, 1, LocalRule(steps=1))
        return
    trainer = running.private.trainer
    (trainer.train if running.account.plan.mode == "local" else trainer.direction)(model, running.data.train)
    if trainer.left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(trainer.left_out.items()))
        raise UnfitError(f"Some patients of one step contributed nothing ({reasons}).", remedy="Check their images.")


def zeros(shape: Shape, *, noised: bool) -> Contribution:
    """Return the contribution of a canary: of the job's size, the same at every site, and of no data."""
    return Contribution(np.zeros(shape.parameters), 1.0 if noised else 0.0, np.zeros(shape.statistics), DataKind.ALL)


def one_step_of(job: Job) -> Plan | None:
    """Return the plan of a job with a single step; None for a job without noise."""
    plan = plan_of(job)
    return None if plan is None else dataclasses.replace(plan, steps=1)
