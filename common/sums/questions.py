"""What a job without noise asks about a data set, so that a site can refuse a second, overlapping question.

Small cells are suppressed within one answer. But two answers about the same quantity with slightly different bins can be
subtracted, and the difference may be due to one patient. So without noise a site answers one question about each quantity.

Training is such a question, too. Two sums over the same sites that differ in the bound on a site's weight only, between the
patients of the largest site and of the second largest, differ by the largest site's update. The same holds for every setting
that selects, weights, cuts or changes the images of some sites or patients and not of others: the order of two classes, the
weight of a rare one, a window whose upper end only one patient's implant exceeds, or the momentum of the second step, which
only the one site takes that has more images than a batch. So a setting may differ between two jobs
only if it is known to act on every image alike (`ALIKE`, and `Transform.alike`); settings of plug-ins are not known to.
"""

from collections.abc import Mapping

from salus.common.canonical import canonical_json
from salus.common.columns import columns_of
from salus.common.errors import JobError
from salus.common.job import Aggregation, Job, TaskSettings, Training
from salus.common.models import MODELS
from salus.common.registry import own_settings
from salus.common.strategies import STRATEGIES
from salus.common.strategies.base import OneSided
from salus.common.strict import Strict
from salus.common.subgroups import groups_of
from salus.common.transforms import kind_of

# Settings of the section task in which two jobs may differ; the settings of models are such, too, but for their `selective`.
ALIKE = frozenset({
    "dataset",  # part of the scope
    "model", "trainable", "frozen", "lora", "codes", "copies",
    "loss", "smooth", "include_background", "focal_gamma", "false_positive_weight", "false_negative_weight",
    "test_flips",
})  # fmt: skip
# Kinds whose cells are drawn from the job's seed: another seed counts the same patients in other cells.
DRAWN = frozenset({"codebook", "forest", "least-squares", "random-boosting"})
STEPWISE = frozenset({"shape", "transforms"})  # compared by themselves, see `_changes`


def questions_of(job: Job, least: int) -> Mapping[str, str]:
    """Return the question about each quantity of a job, as text that is equal for equal questions.

    Args:
        least: fewest patients in a cell of statistics or in a subgroup; another number merges or hides other ones.

    A `summary` asks about labels, each column and intensities by themselves; any other kind asks one question as a whole. Two
    kinds about the same images are two quantities here, although their answers overlap.
    """
    settings, task = job.statistics, job.task
    if settings is None:
        return {**_training(job), **_subgroups(job, least)}
    # Steps leave out the images that they cannot use, so they are part of every question, that about labels included.
    steps = [[[step.kind, _plain(step)] for step in task.transforms], *_taken(task)] if task.transforms else []
    if settings.kind != "summary":
        whole = [
            _plain(settings),
            list(task.classes),
            [_plain(column) for column in task.columns],
            *steps,
            *([{"seed": job.job.seed}] if settings.kind in DRAWN else []),
        ]
        return {settings.kind: _text([*whole, least]), **_subgroups(job, least)}
    questions = {"summary: labels": _text([list(task.classes), *steps, least])}
    for column in columns_of(task):
        questions[f"summary: column {column.name}"] = _text([_plain(column), settings.bins, *steps, least])
    if not columns_of(task):
        bins = [settings.intensity_low, settings.intensity_high, settings.bins, list(settings.modalities)]
        questions["summary: intensities"] = _text([*bins, *steps, least])
    return questions


def _taken(task: TaskSettings) -> list[object]:
    """Return which images the transforms of statistics take; nothing where the job takes all."""
    sides = list(task.shape) if _framed(task) else len(task.shape)
    taken = {"plane": task.plane, "sides": sides, "inputs": task.inputs, "targets": task.targets}
    channels = {"channels": task.channels} if task.channels != 1 else {}
    found = {key: value for key, value in taken.items() if value} | channels
    return [found] if found else []


def _training(job: Job) -> Mapping[str, str]:
    """Return the settings that select, weigh or cut some data only; the others change what every image adds to an update."""
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
        "task, such as its kind, labels, order and weights of classes": _fixed(task),
        "task.transforms other than random changes": _changes(task),
        "training.weight_decay, and settings of the optimizer such as momentum": _later_steps(training),
        "aggregation.strategy at the sites": _corrections(job),
    }
    return {f"training: {name}": _text([value]) for name, value in settings.items()}


def _fixed(task: TaskSettings) -> Mapping[str, object]:
    """Return the settings of a task, without defaults, that may act on some images only."""
    model = own_settings(MODELS.get(task.model, error=JobError))
    of_model = set() if model is None else set(model.model_fields) - set(TaskSettings.model_fields)
    of_model -= getattr(model, "selective", frozenset())
    values = task.model_dump(mode="json", exclude_defaults=True)
    return {"kind": task.kind} | {key: value for key, value in values.items() if key not in ALIKE | STEPWISE | of_model}


def _changes(task: TaskSettings) -> list[object]:
    """Return the steps that may act on some images only, and the shape where one of them takes its size from it."""
    steps = [step for step in task.transforms if not kind_of(step).alike]
    # The kind is the default of its own settings, so `_plain` leaves it out.
    return [*([step.kind, _plain(step)] for step in steps), *([list(task.shape)] if _framed(task) else [])]


def _framed(task: TaskSettings) -> bool:
    """Return whether a step that may act on some images only takes its size from the job's shape."""
    steps = [step for step in task.transforms if not kind_of(step).alike]
    return any(step.kind != "resize" and not getattr(step, "size", True) for step in steps)


def _subgroups(job: Job, least: int) -> Mapping[str, str]:
    """Return a question for each attribute of subgroups: age bands that differ by a year would show that year's patients."""
    groups = groups_of(job)
    return {
        f"subgroups: {name}": _text([list(attribute.values), least]) for name, attribute in groups.attributes.items()
    }


def _later_steps(training: Training) -> Mapping[str, object]:
    """Return the settings that act from the second step on only: a site of one batch takes one step and does not feel them."""
    own = training.model_dump(mode="json", exclude_defaults=True)
    return {key: value for key, value in own.items() if key == "weight_decay" or key not in Training.model_fields}


def _corrections(job: Job) -> list[object]:
    """Return the strategy and its settings if it corrects a site's steps or counts them; nothing if only the server differs."""
    kind = STRATEGIES.get(job.strategy, error=JobError)
    if getattr(kind, "local", None) is OneSided.local:
        return []
    own = job.aggregation.model_dump(mode="json", exclude_defaults=True)
    return [job.strategy, {key: value for key, value in own.items() if key not in Aggregation.model_fields}]


def _plain(settings: Strict) -> object:
    """Return settings without their defaults: a key that a later version adds must not change the question."""
    return settings.model_dump(mode="json", exclude_defaults=True)


def _text(values: list[object]) -> str:
    return canonical_json(values).decode()
