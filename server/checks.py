"""Whether a job can run at all, before it is accepted: names, settings, number of sites, and the key holder."""

from collections.abc import Sequence

from salus.common.cost import check_cost
from salus.common.errors import JobError
from salus.common.job import Job
from salus.common.models import build_model
from salus.common.start.applying import check_new
from salus.common.strategies import strategy_of
from salus.common.sums import sums_of
from salus.common.tasks import make_task
from salus.common.tasks.steps import check_outputs, check_steps, stepping
from salus.common.transforms.checks import check_chain
from salus.privacy.dp.plan import plan_of
from salus.privacy.protection import key_holder_of, protection_of
from salus.server.outline import Outline

MAX_JOB_BYTES = 256 * 2**30  # more than hospital machines have; each site has its own limit


def check_job(job: Job, sites: int | Sequence[int], outline: Outline | None = None) -> None:
    """Refuse a job that can never run: unknown names, incompatible settings, or more sites than the roster has.

    Args:
        sites: the ids of the roster's sites; a number n means the ids 1 to n.
        outline: of the job's network, which was checked when the outline was made; None checks the network here.

    Raises:
        JobError, ProtectionError: with what to change.
    """
    if job.statistics is not None:
        check_cost(job, MAX_JOB_BYTES, _too_large)
        plan_of(job)  # raises if no noise suffices
        sums_of(job)
    elif outline is None:
        check_network(job)
    else:
        plan_of(job)
        make_task(job.task)
        strategy_of(job)
    ids = range(1, sites + 1) if isinstance(sites, int) else sites
    holder = key_holder_of(job)
    if holder and holder not in ids:
        raise JobError(
            f"The job names site {holder} as the key holder, but the roster has the sites {', '.join(map(str, ids))}.",
            remedy="Set aggregation.key_holder to a site on the roster; the coordinator cannot be the key holder.",
        )
    protection_of(job).check(job, len(ids), None if outline is None else outline.layout.size)
    if job.job.min_sites > len(ids):
        raise JobError(
            f"The job needs {job.job.min_sites} sites, but the roster has {len(ids)}.",
            remedy="Lower min_sites or add sites.",
        )


def check_network(job: Job) -> None:
    """Refuse a training job whose network, transforms, loss or noise cannot work; needs torch.

    Raises:
        JobError: with what to change.
        ConfigError: torch is not installed.
    """
    from salus.privacy.dp.checks import checked_clipper, steps_under_noise  # imports torch

    check_cost(job, MAX_JOB_BYTES, _too_large)
    plan = plan_of(job)  # raises if no noise suffices
    task = make_task(job.task)
    check_chain(task)
    strategy_of(job)
    model = build_model(job.task, job.job.seed)
    if job.start is not None:
        check_new(job.task, job.start, model)
    check_steps(model, task)
    check_outputs(model, task)
    if plan is not None:
        step, _ = steps_under_noise(task, plan)
        with stepping(model, step):
            checked_clipper(model, task, step)


def _too_large(problem: str, remedy: str) -> JobError:
    return JobError(problem, remedy=remedy)
