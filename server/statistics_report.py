"""Results of statistics for people: tables, a page with plots, and a section to copy into a training job."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from salus.common.events import Event
from salus.common.job import Job
from salus.common.job_statistics import Statistics
from salus.common.pages import Section, write_page
from salus.privacy.protection import protection_of
from salus.privacy.records.card import PrivacyCard
from salus.server.survival_report import survival_sections

LONG = 20  # a block with more cells is shown as a plot


def transforms_section(job: Job, result: Mapping[str, Any]) -> str:
    """Return the ``[[task.transforms]]`` of a training job that uses this result, or an empty string.

    Names come from a job that another person may have written; a TOML writer quotes them, so that none can add a key.
    """
    assert job.statistics is not None  # Safe because only results of statistics come here.
    step: dict[str, object] = {}
    match job.statistics.kind:
        case "nyul":
            step = {"kind": "nyul", "landmarks": _numbers(result["landmarks"])}
        case "combat":
            step = {
                "kind": "combat",
                "constants": _numbers(result["constants"]),
                "intensity_low": job.statistics.intensity_low,
                "intensity_high": job.statistics.intensity_high,
            }
        case "codebook":
            step = codebook_step(job, result)
        case "quantiles":
            groups = [
                [str(name), float(found["centre"]), float(found["scale"])]
                for name, found in result.get("groups", {}).items()
                if "centre" in found
            ]
            step = {"kind": "zscore", "groups": groups} if groups else {}
    if not step:
        return ""
    size = (
        [] if step["kind"] in ("combat", "bag-of-words") else [{"kind": "resize"}]
    )  # a chain ends with images of one size
    return tomli_w.dumps({"task": {"transforms": [step, *size]}})


def codebook_step(job: Job, result: Mapping[str, Any]) -> dict[str, object]:
    """Return the step that counts the words of a codebook, with the settings of local features that made it."""
    settings = job.statistics
    assert settings is not None  # Safe because only results of statistics come here.
    own = settings.model_dump(mode="json", exclude_defaults=True)
    kept = {key: value for key, value in own.items() if key not in {*Statistics.model_fields, "words"}}
    low, high = settings.intensity_low, settings.intensity_high
    range_ = {"intensity_low": low, "intensity_high": high}
    return {"kind": "bag-of-words", **kept, **range_, "codebook": str(result["codebook"])}


def _numbers(values: list[float]) -> list[float]:
    return [float(value) for value in values]


def tables_of(result: Mapping[str, Any]) -> list[Section]:
    """Return the results as sections with rows."""
    rows: list[tuple[object, ...]] = [
        ("patients", _shown(result["patients"])),
        ("images", _shown(result["images"])),
    ]
    if result.get("noise_sd"):
        rows.append(("standard deviation of the noise in each number", f"{result['noise_sd']:.3g}"))
    small = "Below, small cells of a site are suppressed or merged with neighbouring cells."
    small = "" if result.get("noise_sd") else small
    sections = [Section("Cohort", text=small, rows=rows)]
    for name, cells in result.get("blocks", {}).items():
        filled = [(cell, value) for cell, value in zip(_ranges(list(cells)), cells.values(), strict=True) if value]
        if len(cells) > LONG:
            sections.append(Section(name, bars=list(cells.items())))
        else:
            sections.append(Section(name, rows=[(cell, _shown(value)) for cell, value in filled]))
    for name, found in result.get("groups", {}).items():
        rows = [(f"quantile {p}", _shown(value)) for p, value in found["quantiles"].items()]
        of = "of all images" if name == "ALL" else f"of {name}"
        sections.append(Section(f"Intensities {of}", rows=rows))
    if "landmarks" in result:
        pairs = zip(result["percentiles"], result["landmarks"], strict=True)
        sections.append(
            Section("Standard scale", columns=("percentile", "landmark"), rows=[(p, f"{v:.4f}") for p, v in pairs])
        )
    if result.get("kind") == "logistic":
        values = zip(result["columns"], result["coefficients"], result["standard_errors"], strict=True)
        rows = [(name, f"{value:.4g}", f"{error:.2g}", f"{_odds(value):.4g}") for name, value, error in values]
        columns = ("column", "coefficient", "standard error", "odds ratio")
        sections.append(
            Section(
                "Logistic regression",
                columns=columns,
                rows=[("intercept", f"{result['intercept']:.4g}", "", ""), *rows],
            )
        )
    sections += survival_sections(result)
    if result.get("kind") == "kmeans":
        rows = [
            (number, _shown(round(size)), *(f"{value:.4g}" for value in centre))
            for number, (size, centre) in enumerate(zip(result["sizes"], result["centres"], strict=True), start=1)
        ]
        sections.append(Section("Centres", columns=("cluster", "images", *result["columns"]), rows=rows))
    if result.get("kind") == "codebook":
        rows = [(number, f"{share:.2%}") for number, share in enumerate(result["shares"], start=1)]
        sections.append(Section("Words", columns=("word", "share of the local features"), rows=rows))
    if result.get("importance"):
        shares = sorted(result["importance"].items(), key=lambda pair: -pair[1])
        rows = [(name, f"{share:.1%}") for name, share in shares]
        sections.append(Section("Columns of the trees", columns=("column", "share of the gain"), rows=rows))
    if "features" in result:
        rows = [(name, f"{f['alpha']:.5g}", f"{f['sigma']:.5g}") for name, f in result["features"].items()]
        sections.append(Section("Common model of features", columns=("feature", "alpha", "sigma"), rows=rows))
    return sections


def _ranges(cells: list[str]) -> list[str]:
    """Return the cells' names for people: where they are bins between edges, with both edges."""
    if not any(cell.startswith("below ") for cell in cells):
        return cells
    following = [*cells[1:], ""]
    return [
        cell if not cell[0].isdigit() else f"{cell} to below {above}" if above else f"{cell} or more"
        for cell, above in zip(cells, following, strict=True)
    ]


def _odds(coefficient: float) -> float:
    return math.exp(min(700.0, coefficient))


def _shown(value: float) -> str:
    return f"{value:,.0f}" if float(value) == round(value) else f"{value:,.4g}"


def write_statistics_report(
    path: Path,
    job: Job,
    job_id: str,
    records: list[dict[str, Any]],
    card: PrivacyCard,
    events: Sequence[Event] = (),
) -> None:
    """Write the page of finished statistics to `path`; `events` tell which sites did not take part, and why."""
    result = records[-1]["result"]
    assert job.statistics is not None  # Safe because only results of statistics come here.
    least = job.statistics.min_patients
    privacy = Section(
        "Privacy",
        rows=[
            ("the coordinator can read", protection_of(job).promise(len(card.sites))),
            ("differential privacy per patient", card.statement),
            ("assumption", card.assumes),
            (
                "small cells",
                "every number has noise added"
                if job.privacy.noised
                else f"each site suppresses cells with fewer than {least} of its patients or merges them",
            ),
            ("sites in each step", "; ".join(", ".join(map(str, record["sites"])) for record in records)),
        ],
    )
    section = transforms_section(job, result)
    further = [Section("For a training job", "Copy this into the job file.", code=section)] if section else []
    absent = [
        (event.at.strftime("%Y-%m-%d %H:%M"), f"site {event.fields.get('site', '')}", event.fields.get("text", ""))
        for event in events
        if event.kind in ("not-asked", "left-out")
    ]
    if absent:
        further.append(Section("Sites that did not take part", columns=("when", "site", "reason"), rows=absent))
    write_page(path, f"Statistics {job_id}", f"Data set {job.task.dataset}.", [*tables_of(result), *further, privacy])
