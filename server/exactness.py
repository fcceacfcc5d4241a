"""How exact the evaluation of a job with noise will be, computed from the job alone before it starts."""

from salus.common.estimates import NOTHING, Estimate
from salus.common.job import Job
from salus.common.subgroups import groups_of
from salus.common.subgroups.noisy import total_noise
from salus.common.tasks import make_task
from salus.privacy.noise_in_sum import noise_in_sum
from salus.privacy.shapes import shape_of

# The metrics worth a sentence, in the words of the field; a task of a plug-in may have none of them.
WORDS = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "dice_mean": "mean Dice",
    "mae_of_range": "mean absolute error as a share of the range",
}


def foretold(job: Job, sites: int, share: float = 1.0) -> dict[str, Estimate]:
    """Return the metrics of a typical model with their expected errors if `sites` sites answer; empty without noise.

    Args:
        share: below 1, the share of the patients that are in one subgroup; 1 for all patients.

    Each site is assumed to have ``privacy.patients_per_site`` patients, ``training.validation_fraction`` of them for validation.
    """
    if not job.privacy.noised or job.statistics is not None or job.privacy.evaluation_share == 0:
        return {}
    task = make_task(job.task)
    noise = noise_in_sum(job, shape_of(job, "evaluate", 0, task), roster=sites, sites=sites)
    groups = groups_of(job)
    noise *= groups.norm_l2 * (total_noise(groups) if share == 1 else 1)
    metrics = task.foretold(share * sites * validation_patients(job), noise)
    return {name: metric for name, metric in metrics.items() if isinstance(metric, Estimate)}


def validation_patients(job: Job) -> float:
    """Return the expected number of validation patients of one site."""
    return job.privacy.patients_per_site * job.training.validation_fraction


def exactness(job: Job, sites: int) -> str:
    """Return one sentence on how exact the final metrics of a job with noise will be; empty for a job without noise.

    Args:
        sites: number of sites on the roster; all are assumed to answer.
    """
    if not job.privacy.noised or job.statistics is not None:
        return ""
    if job.privacy.evaluation_share == 0:
        return "The final model will not be evaluated, because privacy.evaluation_share is 0."
    found = foretold(job, sites)
    worth = [(WORDS[name], metric) for name, metric in found.items() if name in WORDS]
    known = [
        f"{word} {'will be known ' if place == 0 else ''}to about {_about(metric)}"
        for place, (word, metric) in enumerate(pair for pair in worth if not pair[1].too_noisy)
    ]
    size = f"{job.privacy.patients_per_site} patients, {validation_patients(job):.0f} of them for validation"
    cohort = f"with {sites} sites of {size}"
    if not known:
        first = worth[0][0] if worth else "evaluation"
        return (
            f"The final {first} will be too noisy to say {cohort}: raise privacy.evaluation_share or privacy.epsilon."
        )
    return f"The final {' and the '.join(known)} (one standard error) {cohort}.{_in_subgroups(job, sites)}"


def _about(metric: Estimate) -> str:
    """Return a standard error with as many decimals as show it, at most three: never as nothing."""
    error = metric.standard_error or 0.0
    return f"+- {error:.2f}" if error >= 0.01 else f"+- {max(error, 0.001):.3f}"


def _in_subgroups(job: Job, sites: int) -> str:
    """Return a sentence on the subgroups of a job, for groups of equal size; empty without subgroups."""
    parts = []
    for name, attribute in groups_of(job).attributes.items():
        found = foretold(job, sites, 1 / attribute.usual)
        metric, word = next(
            ((found[key], word) for key, word in WORDS.items() if key in found), (NOTHING, "evaluation")
        )
        exact = "too noisy to say" if metric.too_noisy else _about(metric)
        parts.append(f"{word} by {name} ({attribute.usual} groups) {exact}")
    return f" In subgroups of equal size: {'; '.join(parts)}." if parts else ""
