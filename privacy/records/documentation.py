"""The facts that regulators ask for about a model, each from a record of the job and none typed.

Headings follow Annex IV of Regulation (EU) 2024/1689 (the AI Act) and the model card in the FDA's draft guidance "Artificial
Intelligence-Enabled Device Software Functions" (January 2025, appendix F). A fact that no record holds is null: somebody who
places a product on the market has to write it, and this file says which ones these are. It is no legal advice.
"""

from collections.abc import Mapping
from typing import Any

from salus import __version__
from salus.common.job import Job, Start
from salus.common.roster import Roster
from salus.privacy.records.card import ModelCard

ANNEX, FDA = "EU AI Act, Annex IV", "FDA model card"
NOT_RECORDED = (
    (f"{ANNEX} 1(a)", "intended purpose"),
    (f"{ANNEX} 1(h)", "instructions for use"),
    (f"{ANNEX} 2(e)", "human oversight"),
    (f"{ANNEX} 5", "risk management system"),
    (f"{ANNEX} 7", "harmonised standards applied"),
    (f"{ANNEX} 8", "declaration of conformity"),
    (f"{ANNEX} 9", "post-market monitoring plan"),
    (FDA, "regulatory status"),
    (FDA, "clinical validation"),
)


def documentation_of(
    job: Job,
    roster: Roster,
    card: ModelCard,
    evaluation: Mapping[str, Any],
    software: Mapping[str, Any],
    sums: int | None,
) -> dict[str, Any]:
    """Return the facts as plain JSON, each with its heading and the record that it is from.

    Args:
        sums: finished sums in the transcript; None without one.
    """
    facts = [
        (f"{ANNEX} 1(a)", "name and version", {"job": card.job_id, "sha256": card.job_sha256}, "job.json"),
        (f"{ANNEX} 1(a)", "provider", {"consortium": roster.consortium, "coordinator": roster.coordinator.name}, "roster.json"),
        (f"{ANNEX} 1(c)", "software", dict(software), "versions.json, sbom.json"),
        (f"{ANNEX} 1(d)", "forms", "a package as folder and zip; see manifest.json", "manifest.json"),
        (f"{ANNEX} 2(b)", "task and algorithm", _algorithm(job), "job.json"),
        *([(f"{ANNEX} 2(a)", "pre-trained model that it starts from", _start(job, job.start), "job.json, start.json")]
          if job.start is not None else []),
        (f"{ANNEX} 2(b)", "optimisation", _optimisation(job), "job.json"),
        (f"{ANNEX} 2(c)", "inputs and transforms", "see inputs.json", "inputs.json"),
        (f"{ANNEX} 2(d)", "training data", _data(job, roster), "job.json, roster.json"),
        (f"{ANNEX} 2(g)", "validation data", _validation(job, job.training.validation_fraction), "job.json"),
        (f"{ANNEX} 2(g)", "metrics", evaluation.get("sites") or None, "evaluation.json"),
        (f"{ANNEX} 2(h)", "cybersecurity", _security(job, sums), "job.json, transcript.jsonl"),
        (f"{ANNEX} 3", "performance on groups of persons", evaluation.get("subgroups") or None, "evaluation.json"),
        (f"{ANNEX} 6", "changes since the first version", f"none recorded; written by Salus {__version__}", "manifest.json"),
        (FDA, "privacy of the patients", card.privacy.statement, "privacy.json"),
        (FDA, "limitations", _limitations(job, evaluation), "job.json, evaluation.json"),
        *((heading, what, None, "") for heading, what in NOT_RECORDED),
    ]  # fmt: skip
    return {
        "format": 1,
        "facts": [
            {"heading": heading, "what": what, "value": value, "from": source} for heading, what, value, source in facts
        ],
    }


def _algorithm(job: Job) -> dict[str, Any]:
    return {"task": job.task.kind, "model": job.task.model, "classes": list(job.task.classes)}


def _start(job: Job, start: Start) -> dict[str, Any]:
    """Return the package from which a job starts, and what it trains of it; Annex IV asks how pre-trained systems were used."""
    return {
        **start.model_dump(mode="json"),
        "trained": list(job.task.trainable) or ("adapters only" if job.task.lora else "all parameters"),
        "not trained": list(job.task.frozen),
        "adapters": None if job.task.lora is None else job.task.lora.model_dump(mode="json"),
        "privacy": "the patients of the start are not counted here: see the start's own package",
    }


def _optimisation(job: Job) -> dict[str, Any]:
    if job.statistics is not None:
        return {"statistics": job.statistics.model_dump(mode="json")}
    return {
        "rounds": job.job.rounds,
        "strategy": job.strategy,
        "seed": job.job.seed,
        "training": job.training.model_dump(mode="json"),
    }


def _data(job: Job, roster: Roster) -> dict[str, Any]:
    return {
        "data set": job.task.dataset,
        "hospitals": [site.name for site in roster.sites],
        "modality": job.task.modality or "any",
        "left the hospitals": left_the_hospitals(job),
    }


def left_the_hospitals(job: Job) -> str:
    """Return what left the hospitals in a job, and who could read it."""
    if job.aggregation.protection == "none":
        return "the update of each hospital, which the coordinator could read; no images or records"
    return "only protected sums of updates and counts; no images or records"


def _validation(job: Job, share: float) -> str:
    if job.statistics is not None and not job.statistics.held_out:
        return "none: this model from sums was not evaluated at the sites"
    if job.statistics is not None:
        return (
            f"each site's own validation split, or else {job.statistics.held_out:g} of its patients, who are in no sum"
        )
    return f"each site's own validation split, or else {share:g} of its patients, who are not trained on"


def _security(job: Job, sums: int | None) -> dict[str, Any]:
    return {
        "protection of updates": job.aggregation.protection,
        "noise": job.privacy.noise,
        "signed sums in the transcript": sums,
    }


def _limitations(job: Job, evaluation: Mapping[str, Any]) -> list[str]:
    found = []
    if not job.privacy.noised:
        found.append("nothing limits what the model reveals about one patient")
    if not evaluation.get("sites"):
        found.append("the model was not evaluated at the sites")
    if not evaluation.get("subgroups"):
        found.append("the model was not evaluated by subgroup")
    if evaluation.get("not_evaluated"):
        found.append(str(evaluation["not_evaluated"]))
    return found
