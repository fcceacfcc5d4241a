"""The first lines of a report, for readers without knowledge of machine learning or cryptography."""

import math
from collections.abc import Mapping, Sequence

from salus.common.estimates import Estimate, Metrics, metric_text
from salus.common.job import Job
from salus.privacy.protection import key_holder_of
from salus.privacy.records.card import PrivacyCard


def plain_lines(
    job: Job, card: PrivacyCard, metrics: Metrics, records: Sequence[Mapping[str, object]]
) -> list[tuple[str, bool]]:
    """Return sentences, each with whether it is a warning.

    Args:
        metrics: metrics of the final model at the sites.
        records: records of the rounds, which name the sites that took part.
    """
    used = {site for record in records for site in _numbers(record.get("sites"))}
    hospitals = len(used) or len(card.sites)
    return [
        (
            f"{hospitals} hospitals trained one model together to distinguish {_listed(job.task.classes)}. "
            "Their images and records never left the hospitals; only changes to the model and sums of counts did.",
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
            holder = next((row.name for row in card.sites if row.site == key_holder_of(job)), "one hospital")
            return (
                f"The coordinator learned only the sum of the hospitals' changes. {holder} held the decryption key and could "
                "have read the changes of each hospital.",
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
    assumption = "" if job.privacy.noise == "local" else " This assumes that most hospitals are honest."
    return (
        "What the finished model can reveal about a single patient is limited: any result is at most "
        f"{times} times as likely with the patient's data as without, or as without them as with them "
        f"(epsilon {job.privacy.epsilon:g} at each hospital; except with probability {job.privacy.delta:g}).{assumption}",
        False,
    )


def _how_good(metrics: Metrics) -> tuple[str, bool]:
    auc = metrics.get("auc")
    if auc is None:
        return "The final model was not evaluated at the hospitals.", True
    if isinstance(auc, Estimate) and auc.too_noisy:
        return "The quality of the final model is unknown: the noise that protects the patients is too large.", True
    meaning = "1 would be perfect, 0.5 is guessing"
    error = "; +- is one standard error" if isinstance(auc, Estimate) else ""
    return (
        f"On patients that were not used for training, the final model's AUC is {metric_text(auc)} ({meaning}{error}).",
        False,
    )


def why_no_roc(job: Job, measured: bool) -> str:
    """Return why a report has no ROC curve."""
    if not measured:
        return "There is no ROC curve, because the final model was not evaluated at the hospitals."
    if job.privacy.noised:
        return "There is no ROC curve: the noise that protects the patients makes it too uncertain to draw."
    return "There is no ROC curve: for no class do the validation patients include both positives and negatives."


def why_no_confusion(job: Job, measured: bool) -> str:
    """Return why a report has no confusion matrix."""
    if not measured:
        return "There is no confusion matrix, because the final model was not evaluated at the hospitals."
    if job.privacy.noised:
        return (
            "There is no confusion matrix: with more than two classes it is not among the few numbers computed for each "
            "patient, because every further number would make all of them noisier."
        )
    return "There is no confusion matrix: no site had validation patients."
