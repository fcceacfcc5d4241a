"""Compares a job with a site's declarations: a pure function of public documents, with one message for both sides.

A job that does not fit is refused before a budget is reserved or a file is read, under every protection. The declaration
also limits the job's classes and columns: a job cannot add classes that no site has in order to widen a model.
"""

import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence

from salus.common.declaration import Declaration, target_of
from salus.common.errors import JobError, UnfitError
from salus.common.job import Job, TaskSettings
from salus.common.outcomes import CENSORED
from salus.common.sums import SUMS
from salus.common.tasks import TASKS
from salus.common.transforms import kind_of
from salus.common.verdict import MAX_PROBLEMS, MAX_TEXT, Problem, Requirement

MAX_LISTED = 8
MOST_COMPARED = 1000  # names among which the nearest is looked for


def require_fit(job: Job, declarations: Mapping[str, Declaration | None]) -> None:
    """Raise UnfitError, with the first problems, unless the job fits this site's declarations."""
    found = problems_of(job, declarations)
    if found:
        raise UnfitError(
            " ".join(problem.text for problem in found[:4]),
            remedy="Correct the job, or ask the site's operator to correct the declaration: salus dataset declare.",
        )


def problems_of(job: Job, declarations: Mapping[str, Declaration | None]) -> list[Problem]:
    """Return the requirements of a job that a site's declarations do not meet; empty if the job fits.

    Args:
        declarations: declarations by data set name; None for a data set that is registered but not declared.
    """
    name = job.task.dataset
    if name not in declarations:
        known = f"has {_listed(declarations)}" if declarations else "has none"
        text = f"The job needs the data set {name!r}{_meant(name, declarations)}; this site {known}."
        return [_problem("data set", text)]
    declared = declarations[name]
    if declared is None:
        text = (
            f"The data set {name!r} is registered here but not declared yet; its operator runs: salus dataset declare."
        )
        return [_problem("data set", text)]
    found = itertools.chain(
        _annotations(job, declared),
        _labels(job, declared),
        _classes(job, declared),
        _inputs(job, declared),
        _modality(job, declared),
        _patients(job, declared),
    )
    return list(
        itertools.islice(found, MAX_PROBLEMS)
    )  # each costs a search for the nearest name; a job may have 10 000


def _needs(job: Job) -> Mapping[str, str]:
    """Return the kind of each annotation that a job's task reads, by the name that it has in the data set; empty for a label."""
    if job.task.kind == "none":
        return {}
    kinds: Mapping[str, str] = getattr(TASKS.get(job.task.kind, error=JobError), "annotations", {})
    named = job.task.targets
    return {named.get(field, field): kind for field, kind in kinds.items()}


def _annotations(job: Job, declared: Declaration) -> Iterable[Problem]:
    """Yield a problem for each annotation that the data set does not have, and each of its structures that is not declared."""
    name = job.task.dataset
    for target, kind in _needs(job).items():
        found = declared.target(target)
        if found is None or found.kind != kind:
            have = {one.name: one.kind for one in declared.targets}
            listed = _listed([f"{kind} {one}" for one, kind in have.items()])
            yield _problem("annotations", f"The job needs a {kind} named {target!r}, but {name!r} has {listed} here.")
            continue
        numbers = all(word.isdecimal() for word in found.names)
        for place, wanted in enumerate(job.task.classes, start=1):
            if wanted not in found.names and not (numbers and str(place) in found.names):
                text = (
                    f"The job's structure {wanted!r} is not in the {kind} {target!r} of {name!r} here"
                    f"{_meant(wanted, found.names)}; declared: {_listed(found.names)}."
                )
                yield _problem("classes", text)


def _labels(job: Job, declared: Declaration) -> Iterable[Problem]:
    if _wants_numbers(job):
        if "measurement" not in declared.annotations and not all(map(_is_number, declared.classes)):
            text = f"The job needs a number for each item, but {job.task.dataset!r} is labelled with classes here."
            yield _problem("labels", text)
    elif "class" not in declared.annotations and not _needs(job):
        have = " and ".join(declared.annotations) or "nothing"
        yield _problem("labels", f"The job needs classes, but {job.task.dataset!r} is labelled with {have} here.")


def _classes(job: Job, declared: Declaration) -> Iterable[Problem]:
    """Yield a problem for each class without a declared label."""
    if "class" not in declared.annotations or _needs(job) or _wants_numbers(job):
        return
    classes = job.task.classes
    stood_for = {target_of(label, classes) for label in declared.classes}
    for number, name in enumerate(classes):
        if number not in stood_for:
            text = (
                f"The job's class {name!r} is not a class of {job.task.dataset!r} here"
                f"{_meant(name, declared.classes)}; declared: {_listed(declared.classes)}."
            )
            yield _problem("classes", text)
    there = {name: number for number, name in enumerate(declared.classes)}
    if declared.numbered and any(there.get(name, number) != number for number, name in enumerate(classes)):
        text = (
            f"The labels of {job.task.dataset!r} are numbers here, and the job's classes are in another order, so it would "
            f"exchange them. The declared order is: {_listed(declared.classes)}."
        )
        yield _problem("classes", text)


def _inputs(job: Job, declared: Declaration) -> Iterable[Problem]:
    if getattr(job.task, "modalities", ()) and not job.task.shape:
        return _columns(job, declared) if declared.kind == "table" else _columns_beside(job, declared)
    if takes_rows_for_images(job.task):
        return _columns(job, declared) if declared.kind == "table" else _images_with_rows(job, declared)
    if job.statistics is not None and not job.task.columns and getattr(_kind_of(job), "labels_only", False):
        return ()
    return _columns(job, declared) if _wants_table(job) else _images(job, declared)


def takes_rows_for_images(task: TaskSettings) -> bool:
    """Return whether a job can use a table's rows, too, although it is on images: of patients whose images are missing."""
    return bool(task.shape) and "row" in getattr(task, "modalities", ())


def _images_with_rows(job: Job, declared: Declaration) -> Iterable[Problem]:
    """Yield the problems of images, and of the columns beside them; a data set may have no columns at all."""
    yield from _images(job, declared)
    yield from _columns_beside(job, declared)


def _columns_beside(job: Job, declared: Declaration) -> Iterable[Problem]:
    """Yield a problem for each column that a data set has not beside its images, if it has columns there at all."""
    found = declared.target(job.task.targets.get("row", "row"))
    if found is None:
        return
    for column in job.task.columns:
        if column.name not in found.names:
            text = (
                f"The job's column {column.name!r} is not beside the images of {job.task.dataset!r} here"
                f"{_meant(column.name, found.names)}."
            )
            yield _problem("columns", text)


def _wants_numbers(job: Job) -> bool:
    """Return whether the labels of a job's task are numbers, not classes."""
    return getattr(_kind_of(job), "label_is", "class") == "measurement"


def _kind_of(job: Job) -> object:
    """Return the class of a job's task or statistics."""
    if job.statistics is not None:
        return SUMS.get(job.statistics.kind, error=JobError)
    return TASKS.get(job.task.kind, error=JobError)


def _is_number(text: str) -> bool:
    try:
        float(text.removesuffix(CENSORED))
    except ValueError:
        return False
    return True


def _wants_table(job: Job) -> bool:
    """Return whether the job reads a table; the columns of a job on image features are computed from images."""
    return bool(job.task.columns) and not any(kind_of(step).rows for step in job.task.transforms)


def _images(job: Job, declared: Declaration) -> Iterable[Problem]:
    name, task = job.task.dataset, job.task
    if declared.kind != "images":
        yield _problem("images", f"The job needs images, but {name!r} is a table here.")
        return
    if not task.shape:
        return  # statistics and image features take images of any size
    if len(task.shape) not in declared.dimensions:
        have = " and ".join(f"{sides}-D" for sides in declared.dimensions)
        yield _problem("images", f"The job needs {len(task.shape)}-D images, but those of {name!r} are {have} here.")
    if task.channels not in declared.channels:
        have = " or ".join(map(str, declared.channels))
        yield _problem(
            "images", f"The job needs images of {task.channels} channel(s), but those of {name!r} have {have} here."
        )


def _columns(job: Job, declared: Declaration) -> Iterable[Problem]:
    name = job.task.dataset
    if declared.kind != "table":
        yield _problem("columns", f"The job needs a table, but {name!r} holds images here.")
        return
    units = {column.name: column.unit for column in declared.columns}
    for column in job.task.columns:
        if column.name not in units:
            text = f"The job's column {column.name!r} is not in {name!r} here{_meant(column.name, units)}."
            yield _problem("columns", text)
        elif column.unit and column.unit != units[column.name]:
            have = repr(units[column.name]) if units[column.name] else "not declared"
            yield _problem(
                "columns", f"The job's column {column.name!r} is in {column.unit!r}, but its unit here is {have}."
            )


def _modality(job: Job, declared: Declaration) -> Iterable[Problem]:
    wanted, name = job.task.modality, job.task.dataset
    if wanted and declared.modalities != (wanted,):
        have = " and ".join(declared.modalities) or "of unknown modality"
        yield _problem("modality", f"The job needs {wanted} images only, but {name!r} is {have} here.")
    counted = job.statistics.modalities if job.statistics is not None and job.statistics.kind == "summary" else ()
    if counted and declared.modalities and not set(counted) & set(declared.modalities):
        text = (
            f"The job counts {_listed(counted)} separately, but {name!r} has {_listed(declared.modalities)} here: "
            "every image would be counted as 'OTHER'."
        )
        yield _problem("modality", text)


def _patients(job: Job, declared: Declaration) -> Iterable[Problem]:
    exact = job.statistics if not job.privacy.noised else None
    if exact is not None and declared.min_patients < exact.min_patients:
        text = (
            f"The job suppresses cells of fewer than {exact.min_patients} patients, but this site declares only at least "
            f"{declared.min_patients}; its operator can declare a higher lower bound: salus dataset declare --min-patients."
        )
        yield _problem("patients", text)


def _problem(requirement: Requirement, text: str) -> Problem:
    return Problem(requirement=requirement, text=text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}...")


def _meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(itertools.islice(known, MOST_COMPARED)), n=1, cutoff=0.5)
    return f" (did it mean {near[0]!r}?)" if near else ""


def _listed(names: Iterable[str]) -> str:
    every: Sequence[str] = list(names)
    shown = ", ".join(map(repr, every[:MAX_LISTED])) or "none"
    return f"{shown} and {len(every) - MAX_LISTED} more" if len(every) > MAX_LISTED else shown
