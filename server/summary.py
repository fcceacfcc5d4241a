"""The first lines of a report, for readers who know neither machine learning nor cryptography; only what holds for this job."""

import math
from collections.abc import Mapping, Sequence

from salus.common.estimates import Estimate, Metrics, metric_text
from salus.common.job import Job
from salus.server.card import PrivacyCard


def plain_lines(
    job: Job, card: PrivacyCard, metrics: Metrics, records: Sequence[Mapping[str, object]]
) -> list[tuple[str, bool]]:
    """Return sentences, each with whether it is a warning.

    Args:
        metrics: of the final model at the sites.
        records: of the rounds, which say which sites took part.
    """
    used = {site for record in records for site in _numbers(record.get("sites"))}
    hospitals = len(used) or len(card.sites)
    return [
        (
            f"{hospitals} hospitals trained one model together to tell {_listed(job.task.classes)} apart. "
            "Their images and records never left them; changes to the model and sums of counts did.",
            False,
        ),
        _who_saw(job, card),
        _about_patients(job),
        _how_good(metrics),
    ]


def _numbers(value: object) -> list[int]:
    return [number for number in value if isinstance(number, int)] if isinstance(value, list) else []


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _who_saw(job: Job, card: PrivacyCard) -> tuple[str, bool]:
    match job.aggregation.protection:
        case "masking":
            return (
                "Nobody but the hospital itself saw a single hospital's changes: the coordinator learned only their sum.",
                False,
            )
        case "encryption":
            holder = next((row.name for row in card.sites if row.site == job.aggregation.key_holder), "one hospital")
            return (
                f"The coordinator learned only the sum of the hospitals' changes. {holder} held the key and could have read "
                "single changes.",
                True,
            )
    noise = ", with noise added at the hospital" if job.privacy.noised else ""
    return f"Not protected: the coordinator could read the changes of each single hospital{noise}.", True


def _about_patients(job: Job) -> tuple[str, bool]:
    if not job.privacy.noised:
        return (
            "Nothing limits what the finished model may reveal about a single patient: it was trained without "
            "differential privacy.",
            True,
        )
    factor = math.exp(job.privacy.epsilon)
    times = f"{factor:.0f}" if factor >= 10 else f"{factor:.1f}"
    assumption = "" if job.privacy.noise == "local" else " This counts on most hospitals being honest."
    return (
        "What the finished model can reveal about a single patient is limited: any result is at most "
        f"{times} times as likely with the patient's data as without, or as without them as with them "
        f"(epsilon {job.privacy.epsilon:g} at each hospital; except with probability {job.privacy.delta:g}).{assumption}",
        False,
    )


def _how_good(metrics: Metrics) -> tuple[str, bool]:
    auc = metrics.get("auc")
    if auc is None:
        return "How good the final model is was not measured at the hospitals.", True
    if isinstance(auc, Estimate) and auc.too_noisy:
        return "How good the final model is cannot be said: the noise that protects the patients is too large.", True
    meaning = "1 would be perfect, 0.5 is guessing"
    error = "; +- is one standard error" if isinstance(auc, Estimate) else ""
    return (
        f"On patients that were not used for training, the final model's AUC is {metric_text(auc)} ({meaning}{error}).",
        False,
    )


def why_no_roc(job: Job, measured: bool) -> str:
    """Return why a report has no ROC curve."""
    if not measured:
        return "There is no ROC curve, because the final model was not measured at the hospitals."
    if job.privacy.noised:
        return "There is no ROC curve: under the noise that protects the patients it is too uncertain to draw."
    return "There is no ROC curve: the validation patients do not hold both sides of any class."


def why_no_confusion(job: Job, measured: bool) -> str:
    """Return why a report has no confusion matrix."""
    if not measured:
        return "There is no confusion matrix, because the final model was not measured at the hospitals."
    if job.privacy.noised:
        return (
            "There is no confusion matrix: for more than two classes it is not among the few numbers that are asked of each "
            "patient, because every further number would make all of them noisier."
        )
    return "There is no confusion matrix: no site had validation patients."
