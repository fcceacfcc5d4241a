"""The results of a run in one table, one JSON file and one page."""

import base64
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from salus.client.outgoing.overlays import legend
from salus.client.outgoing.tables import write_table
from salus.client.predicting.outputs import OBJECTS, OVERLAYS
from salus.client.predicting.record import FORMAT, Outcome, columns_of, row_of
from salus.client.predicting.run import Finished
from salus.common.errors import DataError
from salus.common.files import write_whole
from salus.common.job import Job
from salus.common.pages import Section, write_page

MOST_PICTURES = 500  # a page with more is too large for a browser; the files are in the folder


def write_report(folder: Path, job: Job, model_sha256: str, finished: Finished) -> dict[str, Any]:
    """Write ``predictions.csv``, ``predictions.json`` and ``predictions.html`` and return the JSON object."""
    outcomes = list(finished.outcomes.values())
    write_table(folder / "predictions.csv", columns_of(outcomes), [row_of(one) for one in outcomes])
    summary = {
        "format": FORMAT,
        "job": job.job.name,
        "job_sha256": job.digest().hex(),
        "model_sha256": model_sha256,
        "predicted": len(outcomes),
        "refused": [
            {"item": one.item, "files": one.files, "reason": one.reason, "detail": one.detail, "remedy": one.remedy}
            for one in finished.refused
        ],
        "items": [one.model_dump(mode="json") for one in outcomes],
    }
    write_whole(folder / "predictions.json", (json.dumps(summary, indent=1, allow_nan=False) + "\n").encode())
    shown = "patients' images" if any(OVERLAYS in one.files for one in outcomes) else "results of patients"
    lead = (
        f"{len(outcomes)} results, {len(finished.refused)} refused; model {model_sha256[:16]} of the job {job.job.name}. "
        f"For research use only. This page shows {shown}: keep it where their data are."
    )
    write_page(
        folder / "predictions.html",
        f"Predictions: {job.job.name}",
        lead,
        _sections(folder, finished, job.task.classes),
    )
    return summary


def refusal_of(finished: Finished) -> DataError | None:
    """Return the error with which a run ends that had to refuse something; None if it had not."""
    if not finished.refused:
        return None
    first = finished.refused[0]
    count = len(finished.refused)
    were = "was" if count == 1 else "were"
    return DataError(
        f"{count} of {count + len(finished.outcomes)} images {were} refused; the first is {first.item!r} "
        f"({first.reason}: {first.detail}).",
        remedy=first.remedy,
    )


def _sections(folder: Path, finished: Finished, classes: Sequence[str]) -> list[Section]:
    outcomes = list(finished.outcomes.values())
    labels = Counter(one.label for one in outcomes if one.label and (one.probabilities or not one.values))
    columns = columns_of(outcomes)
    rows = [[_shown(row_of(one).get(column, "")) for column in columns] for one in outcomes]
    sections = [
        *(
            Section(
                "Refused" if place == 0 else "", f"{one.item}: {one.reason}: {one.detail}. {one.remedy}", warns=True
            )
            for place, one in enumerate(finished.refused)
        ),
        *([Section("Classes", columns=("class", "results"), rows=labels.most_common())] if labels else []),
    ]
    left_out = Counter(reason for one in outcomes for reason in one.left_out.values())
    if left_out:
        sections.append(
            Section(
                "DICOM objects that could not be written", columns=("reason", "images"), rows=left_out.most_common()
            )
        )
    pictures = [
        (_caption(one), _url(folder / one.files[OVERLAYS])) for one in outcomes[:MOST_PICTURES] if OVERLAYS in one.files
    ]
    if pictures:
        more = (
            "" if len(outcomes) <= MOST_PICTURES else f"The first {MOST_PICTURES}; all are in the folder {OVERLAYS}. "
        )
        if any(OBJECTS in one.files for one in outcomes):
            text = f"{more}Each object has a colour, in a clip the same in all its frames. Of a clip, frames at even distances."
        else:
            text = f"{more}Of a volume, the slice with most of what was found. {legend(classes)}"
        sections.append(Section("Overlays", text, pictures=pictures, large=True))
    sections.append(Section("All results", columns=[_words(column) for column in columns], rows=rows))
    return sections


def _caption(one: Outcome) -> str:
    if OBJECTS in one.files:
        return f"{one.item}: {one.values.get('count', 0):.0f} found"
    sizes = ", ".join(f"{name} {value:.3g} {one.unit}" for name, value in one.volumes.items())
    return f"{one.item}: {sizes or one.label}"


def _words(column: str) -> str:
    """Return the name of a column of the table for people."""
    name = column.removeprefix("probability_")
    return column if name == column else f"probability of {name}"


def _shown(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value


def _url(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
