"""What a job without noise asks about a data set, so that a site can refuse a second, overlapping question.

Small cells are suppressed within one answer. But two answers about the same quantity with slightly different bins can be
subtracted, and the difference may be due to one patient. So without noise a site answers one question about each quantity.

Training is such a question, too. Two sums over the same sites that differ in the bound on a site's weight only, between the
patients of the largest site and of the second largest, differ by the largest site's update. The same holds for every setting
that selects, weights or clips something at some sites and not at others.
"""

from collections.abc import Mapping

from salus.common.canonical import canonical_json
from salus.common.job import Job
from salus.common.strict import Strict
from salus.common.transforms import kind_of


def questions_of(job: Job, least: int) -> Mapping[str, str]:
    """Return the question about each quantity of a job, as text that is equal for equal questions.

    Args:
        least: fewest patients in a cell of statistics; another number merges other bins.

    A `summary` asks about labels, each column and intensities by themselves; any other kind asks one question as a whole. Two
    kinds about the same images are two quantities here, although their answers overlap.
    """
    settings, task = job.statistics, job.task
    if settings is None:
        return _training(job)
    if settings.kind != "summary":
        whole = [
            _plain(settings),
            list(task.classes),
            [_plain(column) for column in task.columns],
        ]
        return {settings.kind: _text([*whole, least])}
    questions = {"summary: labels": _text([list(task.classes), least])}
    for column in task.columns:
        questions[f"summary: column {column.name}"] = _text([_plain(column), settings.bins, least])
    if not task.columns:
        bins = [settings.intensity_low, settings.intensity_high, settings.bins, list(settings.modalities)]
        questions["summary: intensities"] = _text([*bins, least])
    return questions


def _training(job: Job) -> Mapping[str, str]:
    """Return the settings that select, weigh or cut the data of some sites only; the others change every site's update."""
    task, training, aggregation = job.task, job.training, job.aggregation
    settings: Mapping[str, object] = {
        "task.classes": sorted(task.classes),
        "task.columns": [_plain(column) for column in task.columns],
        "dimensions of task.shape": len(task.shape),
        "task.channels": task.channels,
        "training.batch_size": training.batch_size,
        "training.validation_fraction": training.validation_fraction,
        "aggregation.max_patients": aggregation.max_patients,
        "aggregation.update_clip_norm_l2": aggregation.update_clip_norm_l2,
        "task.inputs": task.inputs,
        "task.targets": task.targets,
        "task.transforms": [_plain(step) for step in task.transforms if kind_of(step).selective],
    }
    return {f"training: {name}": _text([value]) for name, value in settings.items()}


def _plain(settings: Strict) -> object:
    """Return settings without their defaults: a key that a later version adds must not change the question."""
    return settings.model_dump(mode="json", exclude_defaults=True)


def _text(values: list[object]) -> str:
    return canonical_json(values).decode()
