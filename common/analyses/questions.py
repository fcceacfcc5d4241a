"""What a job of exact statistics asks about a data set, so that a site can refuse a second, overlapping question.

Small cells are hidden within one answer. Two answers about the same quantity with slightly different bins can be subtracted,
and what is left may be of one patient. So without noise a site answers one question about each quantity.
"""

from collections.abc import Mapping

from salus.common.canonical import canonical_json
from salus.common.job import Job


def questions_of(job: Job, least: int) -> Mapping[str, str]:
    """Return for each quantity that a job of statistics asks about, how it asks: text that is equal for equal questions.

    Args:
        least: fewest patients in a cell; another number joins other bins.

    A `summary` asks about labels, each column and intensities by themselves; any other kind asks one question as a whole. Two
    kinds about the same images are two quantities here, although their answers overlap.
    """
    settings, task = job.statistics, job.task
    assert settings is not None  # Safe because only jobs of statistics ask.
    if settings.kind != "summary":
        whole = [
            settings.model_dump(mode="json"),
            list(task.classes),
            [c.model_dump(mode="json") for c in task.columns],
        ]
        return {settings.kind: _text([*whole, least])}
    questions = {"summary: labels": _text([list(task.classes), least])}
    for column in task.columns:
        questions[f"summary: column {column.name}"] = _text([column.model_dump(mode="json"), settings.bins, least])
    if not task.columns:
        bins = [settings.intensity_low, settings.intensity_high, settings.bins, list(settings.modalities)]
        questions["summary: intensities"] = _text([*bins, least])
    return questions


def _text(values: list[object]) -> str:
    return canonical_json(values).decode()
