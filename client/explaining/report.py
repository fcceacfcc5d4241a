"""A run as JSON and as a page that a radiologist can read; both stay where the images are."""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from salus.client.explaining.cases import CaseResult, MapResult
from salus.client.explaining.nearest import Counterexample
from salus.client.explaining.pictures import strongest
from salus.client.explaining.run import Finished
from salus.client.explaining.subject import Method
from salus.common.errors import ConfigError
from salus.common.files import replace_whole
from salus.common.job import Job
from salus.common.pages import Section, write_page

FORMAT = "salus/explain/1"
MOST_COLUMNS = 40  # of a row on the page; all are in the JSON
NO_GAIN = 0.03  # deletion and insertion together, against random orders: below, a map is said to mark nothing
ALIKE = 0.5  # similarity from which a map with random weights is said to be about the same
HOW_TO_READ = (
    "Each picture colours what speaks for the answer (orange) and against it (blue); the bar on the right is the scale, and its "
    "ends are the strength in the caption. A cyan line is what was annotated. A map shows what the model used, not whether that "
    "is right: look first whether the checks below hold."
)
CHECKS = (
    "Deletion: how much of the answer's score is left while the marked pixels are blurred away, the strongest first. Lower is "
    "better. In brackets the same for random orders.",
    "Insertion: how much comes back while they are put into an empty image. Higher is better. In brackets the same for random "
    "orders. A map that is no better than random orders marks nothing that the model uses.",
    "Random weights: how similar the map is to that of a network that has learned nothing (1 is the same). A map that stays the "
    "same shows the image and not the model.",
    "Same method again: the similarity when only the method's own random numbers change. Far below 1, another run would show "
    "another map.",
    "Pointing game: whether the strongest place lies in what was annotated, and in brackets the chance of a random place. Played "
    "where the answer is right and something is annotated.",
)


def check_folder(folder: Path) -> None:
    """Raise ConfigError for a place where no folder of results can be."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder.name!r} is a file.", remedy="Give a folder with --output.")


def write_report(
    folder: Path,
    job: Job,
    model_sha256: str,
    finished: Finished,
    methods: Mapping[str, Method],
    missing: Mapping[str, str],
) -> dict[str, Any]:
    """Write ``explain.json`` and ``explain.html``, and return the JSON object.

    Args:
        missing: methods whose packages are not installed, with what to do.
    """
    summary = {
        "format": FORMAT,
        "job": job.job.name,
        "job_sha256": job.digest().hex(),
        "model_sha256": model_sha256,
        "images": finished.found,
        "compared": finished.compared,
        "labels_not_used": finished.problem or None,
        "methods": summaries(finished.cases),
        "not_applied": {**missing, **finished.unfit},
        "refused": [
            {"item": one.item, "files": one.files, "reason": one.reason, "detail": one.detail, "remedy": one.remedy}
            for one in finished.refused
        ],
        "cases": [_case(one) for one in finished.cases],
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = (json.dumps(summary, indent=1, allow_nan=False) + "\n").encode()
    replace_whole(folder / "explain.json", lambda beside: _write_own(beside, text))
    lead = (
        f"{len(finished.cases)} of {finished.found} images or rows; model {model_sha256[:16]} of the job {job.job.name}. "
        "For research. This page shows patients' data: keep it where they are."
    )
    titles = {name: method.title for name, method in methods.items()}
    write_page(
        folder / "explain.html", f"Explanations: {job.job.name}", lead, _sections(job, finished, titles, missing)
    )
    return summary


def _write_own(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read."""
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)


def summaries(cases: Sequence[CaseResult]) -> dict[str, dict[str, float | int | None]]:
    """Return by method the means of its checks over the cases."""
    names = dict.fromkeys(name for case in cases for name in case.maps)
    return {name: _summary([(case, case.maps[name]) for case in cases if name in case.maps]) for name in names}


def _summary(found: Sequence[tuple[CaseResult, MapResult]]) -> dict[str, float | int | None]:
    maps = [one for _, one in found]
    played = [(case, one) for case, one in found if one.hit is not None]

    def mean(read: Callable[[MapResult], float]) -> float:
        return float(np.mean([read(one) for one in maps]))

    randoms = [one.random_weights for one in maps if one.random_weights is not None]
    return {
        "cases": len(maps),
        "deletion": mean(lambda one: one.curves.deletion),
        "random_deletion": mean(lambda one: one.curves.random_deletion),
        "insertion": mean(lambda one: one.curves.insertion),
        "random_insertion": mean(lambda one: one.curves.random_insertion),
        "same_method_again": mean(lambda one: one.again),
        "random_weights": float(np.mean(randoms)) if randoms else None,
        "pointing_cases": len(played),
        "pointing_game": float(np.mean([bool(one.hit) for _, one in played])) if played else None,
        "pointing_game_random_weights": (
            float(np.mean([one.random_hit or 0.0 for _, one in played])) if played and randoms else None
        ),
        "pointing_chance": float(np.mean([case.chance or 0.0 for case, _ in played])) if played else None,
    }


def _case(one: CaseResult) -> dict[str, Any]:
    return {
        "item": one.case.one.item,
        "explained": one.what,
        "said": one.case.said,
        "probability": one.case.probability,
        "truth": one.case.truth or None,
        "annotated": bool(one.annotated),
        "slice": None if one.view is None else one.view.place,
        "maps": {name: _map(found, one) for name, found in one.maps.items()},
        "not_applied": dict(one.unfit),
        "counterexamples": [
            {"item": c.other.one.item, "said": c.other.said, "truth": c.other.truth or None, "distance": c.distance}
            for c in one.counterexamples
        ],
    }


def _map(found: MapResult, case: CaseResult) -> dict[str, Any]:
    own = found.curves
    values: dict[str, Any] = {
        "strongest": found.strongest,
        "deletion": own.deletion,
        "random_deletion": own.random_deletion,
        "insertion": own.insertion,
        "random_insertion": own.random_insertion,
        "deletion_curve": list(own.deletion_curve),
        "insertion_curve": list(own.insertion_curve),
        "same_method_again": found.again,
        "random_weights": found.random_weights,
        "pointing_game": found.hit,
        "pointing_game_random_weights": found.random_hit,
    }
    if case.view is None:
        values["columns"] = dict(zip(case.values, map(float, found.found), strict=True))
    return values


def _sections(job: Job, finished: Finished, titles: Mapping[str, str], missing: Mapping[str, str]) -> list[Section]:
    rows = [[titles[name], *_checks(values)] for name, values in summaries(finished.cases).items()]
    sections = [
        Section("How to read this page", HOW_TO_READ),
        *(
            Section("Checks of the methods, means over all cases" if place == 0 else "", text)
            for place, text in enumerate(CHECKS)
        ),
        Section("", columns=("method", *HEADS), rows=rows),
    ]
    empty = [titles[name] for name, values in summaries(finished.cases).items() if _gain(values) < NO_GAIN]
    if empty:
        text = (
            f"Hardly better than random orders, so these maps do not show what the model uses: {', '.join(empty)}. If it is "
            "all methods, the answers hardly depend on the image."
        )
        sections.append(Section("", text, warns=True))
    doubtful = [
        titles[name] for name, values in summaries(finished.cases).items() if (values["random_weights"] or 0.0) > ALIKE
    ]
    if doubtful:
        local = job.task.kind in ("segmentation", "detection")
        why = (
            "The question is about one place, near which the map of any network lies" if local else "Do not rely on it"
        )
        text = f"With random weights a similar map comes out of: {', '.join(doubtful)}. {why}; compare deletion and insertion."
        sections.append(Section("", text, warns=True))
    if finished.problem:
        sections.append(Section("", f"The label file was not used. {finished.problem}", warns=True))
    for name, reason in {**missing, **finished.unfit}.items():
        sections.append(Section("", f"{titles.get(name, name)} was not applied: {reason}.", warns=True))
    for number, one in enumerate(finished.cases, start=1):
        sections += _of_case(number, one, titles)
    if finished.refused:
        counted = Counter((one.reason, one.detail) for one in finished.refused)
        text = "These were left out."
        listed = [(reason, detail, count) for (reason, detail), count in counted.most_common(50)]
        sections.append(Section("Not used", text, columns=("reason", "what was found", "images"), rows=listed))
    return sections


HEADS = ("deletion", "insertion", "random weights", "same method again", "pointing game")


def _gain(values: Mapping[str, Any]) -> float:
    """Return by how much deletion and insertion together are better than for random orders."""
    return float(values["random_deletion"] - values["deletion"] + values["insertion"] - values["random_insertion"])


def _checks(values: Mapping[str, Any]) -> list[str]:
    chance, game = values["pointing_chance"], values["pointing_game"]
    random = values["random_weights"]
    return [
        f"{values['deletion']:.2f} ({values['random_deletion']:.2f})",
        f"{values['insertion']:.2f} ({values['random_insertion']:.2f})",
        "no weights" if random is None else f"{random:.2f}",
        f"{values['same_method_again']:.2f}",
        "" if game is None else f"{game:.2f} of {values['pointing_cases']} ({chance:.2f})",
    ]


def _percent(share: float) -> str:
    """Return a share in percent; no answer of a model is certain."""
    return "above 99%" if share >= 0.995 else f"{share:.0%}"


def _of_case(number: int, one: CaseResult, titles: Mapping[str, str]) -> list[Section]:
    case = one.case
    sure = "" if case.probability is None else f" (probability {_percent(case.probability)})"
    truth = f"Truth: {case.truth}." if case.truth else "Truth: not known, because no label was found."
    if not case.truth and one.annotated is not None:
        truth = f"Annotated: {'the region with the cyan line' if one.annotated else 'nothing'}."
    verdict = " The model is wrong." if case.wrong else ""
    text = f"Prediction: {case.said}{sure}. {truth}{verdict} Explained is {one.what}."
    sections = [Section(f"Case {number}: {case.one.item}", text, warns=case.wrong)]
    if one.view is not None:
        sections.append(Section("", pictures=_pictures(one, titles), large=True))
    else:
        names = list(one.values)
        totals = (
            np.sum([np.abs(found.found) for found in one.maps.values()], axis=0) if one.maps else np.zeros(len(names))
        )
        order = np.argsort(-totals, kind="stable")[:MOST_COLUMNS]
        rows = [
            [
                names[place],
                _value(one.values[names[place]]),
                *(f"{found.found[place]:+.3g}" for found in one.maps.values()),
            ]
            for place in order
        ]
        more = f"The {MOST_COLUMNS} strongest of {len(names)} columns. " if len(names) > MOST_COLUMNS else ""
        head = ("column", "value", *(titles[name] for name in one.maps))
        sections.append(
            Section("", f"{more}Above 0 speaks for the answer, below 0 against it.", columns=head, rows=rows)
        )
    checks = [[titles[name], *_checks(_summary([(one, found)]))] for name, found in one.maps.items()]
    sections.append(Section("", columns=("method", *HEADS), rows=checks))
    sections += _counter_sections(one)
    return sections


def _pictures(one: CaseResult, titles: Mapping[str, str]) -> list[tuple[str, str]]:
    assert one.view is not None  # Safe because rows have no pictures.
    where = "" if one.view.place is None else f", slice {one.view.place + 1}"
    found = [(f"Image{where}", one.view.plain())]
    if one.view.region is not None and one.view.region.any():
        found.append((f"Annotated{where}", one.view.annotated()))
    for name, own in one.maps.items():
        best = ""
        if one.view.place is not None:
            best = "" if own.peak in (None, one.view.place) else f"; strongest in slice {own.peak + 1}"
        scale = f"scale to {strongest(own.found):.2g}" if own.found.any() else "nothing is marked here"
        found.append((f"{titles[name]}: {scale}{best}", one.view.overlay(own.found)))
    return found


def _counter_sections(one: CaseResult) -> list[Section]:
    if not one.counterexamples:
        return [Section("", "Counterexamples: among the compared images or rows none of another patient differs.")]
    text = "Nearest counterexamples of this site: to the model most like this case, but another answer or truth."
    captions = [_caption(counter) for counter in one.counterexamples]
    if one.pictures:
        pictures = [(caption, view.plain()) for caption, view in zip(captions, one.pictures, strict=True)]
        return [Section("", text, pictures=pictures, large=True)]
    return [Section("", text, columns=("row",), rows=[[caption] for caption in captions])]


def _caption(counter: Counterexample) -> str:
    other = counter.other
    truth = f", truth {other.truth}" if other.truth else ""
    return f"{other.one.item}: model says {other.said}{truth}; at {counter.distance:.2f} of the usual distance"


def _value(value: float) -> str:
    return "missing" if np.isnan(value) else f"{value:.4g}"
