"""A package's records for people: ``model-card.md``, and the facts for regulators.

The headings of the card are those of Mitchell et al. 2019, "Model Cards for Model Reporting" (arXiv 1810.03993). Every
sentence and number follows from the other files, so whoever verifies a package writes both files again and compares.
"""

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from salus.common.canonical import canonical_json
from salus.common.estimates import Metrics, from_plain, metric_text
from salus.common.job import Job
from salus.common.names import visible
from salus.common.package import layout
from salus.common.roster import Roster
from salus.common.subgroups.results import results_from_plain, table_of
from salus.privacy.records.card import ModelCard
from salus.privacy.records.documentation import documentation_of, left_the_hospitals
from salus.privacy.records.privacy import PrivacyRecord

MAX_TEXT = 300  # characters of a name in the card
UNSAID = "not recorded"


@dataclass(frozen=True)
class Records:
    """What a package's readable files follow from.

    Args:
        evaluation: ``evaluation.json``.
        software: ``versions.json``.
        sums: finished sums in the transcript; None without one.
    """

    job: Job
    roster: Roster
    card: ModelCard
    privacy: PrivacyRecord
    evaluation: Mapping[str, Any]
    software: Mapping[str, Any]
    sums: int | None


def readable_files(records: Records) -> dict[str, bytes]:
    """Return ``documentation.json`` and ``model-card.md``."""
    # In the order of the keys in the package's files, so that whoever reads them writes the same text.
    evaluation, software = (json.loads(canonical_json(part)) for part in (records.evaluation, records.software))
    records = replace(records, evaluation=evaluation, software=software)
    found = documentation_of(records.job, records.roster, records.card, evaluation, software, records.sums)
    known = {str(fact["what"]): fact["value"] for fact in found["facts"]}
    return {
        layout.DOCUMENTATION: canonical_json(found),
        layout.MODEL_CARD: "\n".join(_card(records, known)).encode(),
    }


def _card(records: Records, known: Mapping[str, Any]) -> list[str]:
    job = records.job
    missing = [what for what, value in known.items() if value is None]
    return [
        f"# Model card: {_text(job.job.name)}",
        "",
        "Salus wrote this card from the records of this package, none of it by hand. `salus verify` writes it again and",
        f"compares. A fact that no record has is called {UNSAID}.",
        "",
        *_section("Model details", _details(records, known)),
        *_section(
            "Intended use",
            [
                f"- Intended purpose: {UNSAID}. Nothing in this package says that the model may be used on patients.",
                f"- Regulatory status: {UNSAID}.",
                f"- Inputs: {_inputs(job)}. `inputs.json` has every transform and unit.",
            ],
        ),
        *_section("Factors", [_factors(records)]),
        *_section("Metrics", _measured(records)),
        *_section("Evaluation data", [f"- {_text(_upper(known['validation data']))}."]),
        *_section("Training data", _training(records)),
        *_section("Quantitative analyses", _results(records)),
        *_section("Ethical considerations: privacy of the patients", _privacy(records)),
        *_section(
            "Caveats and recommendations",
            [
                *(f"- {_text(_upper(one))}." for one in known["limitations"]),
                f"- {UNSAID.capitalize()}, so whoever uses the model has to find out: {_text(', '.join(missing))}.",
                "- `release.json`, if it is there, says on what terms the package is released.",
            ],
        ),
    ]


def _section(title: str, lines: Iterable[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""]


def _details(records: Records, known: Mapping[str, Any]) -> list[str]:
    job, roster = records.job, records.roster
    rows = [
        ("Job", records.card.job_id),
        ("Hash of the job", records.card.job_sha256),
        ("Model", _model(job)),
        *(
            [("Starts from the package", job.start.package), ("with the weights", job.start.weights)]
            if job.start
            else []
        ),
        ("Classes", ", ".join(job.task.classes)),
        ("Provider", f"{roster.consortium}, coordinated by {roster.coordinator.name}"),
        ("Rounds", str(job.job.rounds)),
        *([] if job.statistics else [("Strategy", job.strategy), ("Optimiser", str(job.training.optimizer))]),
        ("Written by", f"Salus {records.software.get('salus', UNSAID)}"),
        ("Licence of the model", UNSAID),
    ]
    return _table(["", ""], rows)


def _model(job: Job) -> str:
    if job.statistics is not None:
        return f"{job.statistics.kind}, computed from sums over the hospitals"
    return f"{job.task.model} for {job.task.kind}, trained at the hospitals"


def _inputs(job: Job) -> str:
    task = job.task
    if not task.shape:
        return "rows of a table, or what the transforms make of an image"
    of = "volumes" if len(task.shape) == 3 else "images"
    shape, channels = " x ".join(map(str, task.shape)), f"{task.channels} channel{'s' if task.channels > 1 else ''}"
    return _text(f"{of} of {shape} with {channels}, {task.modality or 'any modality'}, after the transforms")


def _factors(records: Records) -> str:
    groups = results_from_plain(records.evaluation.get("subgroups"))
    if not groups:
        return "- Groups of patients: none were compared."
    return f"- Groups of patients that were compared: {_text(', '.join(one.attribute for one in groups))}."


def _measured(records: Records) -> list[str]:
    metrics = from_plain(records.evaluation.get("sites"))
    if not metrics:
        return ["- None: the model was not evaluated at the hospitals."]
    noise = " Each has noise, and its standard error is stated." if records.job.privacy.noised else ""
    return [f"- {_text(', '.join(metrics))}, over all hospitals together, from one protected sum.{noise}"]


def _training(records: Records) -> list[str]:
    job, roster = records.job, records.roster
    return [
        f"- Data set: {_text(job.task.dataset)}, modality {_text(job.task.modality or 'any')}.",
        f"- Hospitals: {_text(', '.join(site.name for site in roster.sites[:50]))}"
        f"{f' and {len(roster.sites) - 50} more' if len(roster.sites) > 50 else ''}.",
        f"- Left the hospitals: {left_the_hospitals(job)}. Sums that the hospitals signed: "
        f"{UNSAID if records.sums is None else records.sums}.",
        *(
            f"- Not in every round: {_text(row.name)}, missing in {row.rounds}, last in round {row.last}: {_text(row.reason)}"
            for row in records.card.left_out[:50]
        ),
        f"- Patients, time span, selection and annotation: {UNSAID}.",
    ]


def _results(records: Records) -> list[str]:
    found = _metrics("At the hospitals, on patients who were not trained on", records.evaluation.get("sites"))
    heads, rows = table_of(results_from_plain(records.evaluation.get("subgroups")))
    if rows:
        found += ["By subgroup:", "", *_table(heads, rows), ""]
    found += _metrics("On test patients whom no site holds (simulation only)", records.evaluation.get("test"))
    return found[:-1] or ["- None."]


def _metrics(title: str, values: object) -> list[str]:
    metrics: Metrics = from_plain(values)
    if not metrics:
        return []
    return [
        f"{title}:",
        "",
        *_table(["metric", "value"], [(name, metric_text(one)) for name, one in metrics.items()]),
        "",
    ]


def _privacy(records: Records) -> list[str]:
    card = records.privacy.card
    heads = {line.site: line.opened(records.roster).length for line in records.privacy.heads}
    rows = [
        (
            row.name,
            str(row.attempts),
            "none" if row.epsilon is None else f"{row.epsilon:.3f}",
            "none" if row.delta is None else f"{row.delta:g}",
            f"{heads[row.site]} entries" if row.site in heads else "-",
        )
        for row in card.sites
    ]
    return [
        f"- {_text(_upper(card.statement))}.",
        f"- Assumes: {_text(card.assumes)}.",
        f"- Protection of the hospitals' updates: {_text(records.job.aggregation.protection)}.",
        f"- Counted from the {_text(card.source)}.",
        "",
        *_table(["hospital", "vectors sent", "epsilon", "delta", "signed ledger"], rows),
    ]


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [list(heads), ["---"] * len(heads), *([_text(cell) for cell in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _text(value: object) -> str:
    """Return a text in which nothing is markup, of Markdown or of HTML."""
    text = visible(str(value))
    short = text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "..."
    return re.sub(r"([\\`*\[\]|#])", r"\\\1", html.escape(short, quote=False))
