"""A commented job file to begin with: every key that counts in such a job, its meaning, its default and the reason for it."""

import itertools
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from salus.common.errors import JobError
from salus.common.explain import NOTHING, summary_of, words_of
from salus.common.idle import without_effect
from salus.common.job import Job, TaskSettings
from salus.common.models import MODELS, build_model
from salus.common.registry import Registry
from salus.common.sections import Section, registry_at, takes_several
from salus.common.strict import Strict, validate
from salus.common.sums import sums_of
from salus.common.tasks import make_task
from salus.common.tasks.steps import check_outputs

WIDTH = 100
DATASET = "my-data"
CLASSES = {"classes": ["first", "second"]}
COLUMNS = [{"name": "age", "centre": 50.0, "scale": 15.0}, {"name": "sex", "values": [0.0, 1.0]}]
# What a task may need to be stated; the first that the task and the model accept is written.
SAMPLES: Sequence[Mapping[str, Any]] = (
    {**CLASSES, "shape": [64, 64]},
    {**CLASSES, "shape": [32, 32, 32]},
    {**CLASSES, "columns": COLUMNS},
    {**CLASSES, "shape": [64, 64], "columns": COLUMNS},
    {"times": [365, 730, 1095], "shape": [64, 64]},
    {"classes": ["value"], "shape": [64, 64]},
    {"classes": ["value"], "columns": COLUMNS},
    {"classes": ["cell"], "shape": [16, 64, 64]},
)
USUAL_MODELS = ("cnn", "unet", "logistic", "gru", "bag")  # tried first
ROUNDS, NOISED_ROUNDS = 20, 300
STEPS_WITH_OTHERS_BETWEEN = 10  # noised steps of a round, if the task has steps that read no data and lie between these
MOST_STEPS = 200  # of an analysis
HEAD = """\
# {title}
# Lines marked "change this" are yours to fill in; every other line states its default and may be left out.
# Check the file with `salus job validate`, and try it with `salus simulate`.
# For an editor: `salus job schema > job.schema.json`, then begin this file with "#:schema ./job.schema.json".
format = 1
"""


def new_job(task: str, statistics: str, choices: Mapping[str, Mapping[str, str]]) -> str:
    """Return the text of a job file that is valid as it is.

    Args:
        task: kind of the task; empty for statistics.
        statistics: kind of the statistics; empty for training.
        choices: further settings that decide which keys there are, by section, such as the optimizer.

    Raises:
        JobError: an unknown name, or choices that do not go together.
    """
    values: dict[str, dict[str, Any]] = {name: dict(section) for name, section in choices.items()}
    values["job"] = {"name": statistics or task, "rounds": 1, "min_sites": 3}
    if values.get("aggregation", {}).get("protection") == "encryption":
        values["aggregation"]["key_holder"] = 1
    if statistics:
        values["statistics"] = {"kind": statistics}
        return _text(_measuring(values))
    values["task"] = _task(task, str(values.get("task", {}).get("model", "")))
    job = _job(values)
    if job.privacy.noise == "local" and not all(step.data for step in make_task(job.task).steps):
        values["privacy"] = {**values.get("privacy", {}), "steps_per_round": STEPS_WITH_OTHERS_BETWEEN}
        job = _job(values)
    values["job"]["rounds"] = NOISED_ROUNDS if job.one_step else ROUNDS
    return _text(_job(values))


def _job(values: Mapping[str, Any]) -> Job:
    return validate(Job, values, error=JobError, what="job")


def _task(kind: str, model: str) -> dict[str, Any]:
    """Return the first sample of a section [task] that the task and the model accept."""
    problem: JobError | None = None
    usual = [name for name in USUAL_MODELS if name in MODELS.names()]
    for name in [model] if model else [*usual, *(name for name in MODELS.names() if name not in usual)]:
        for sample in SAMPLES:
            values = {"kind": kind, "model": name, "dataset": DATASET, **sample}
            try:
                settings = validate(TaskSettings.for_values(values), values, error=JobError, what="section [task]")
                check_outputs(build_model(settings, 0), make_task(settings))
            except JobError as found:
                problem = problem or found
            else:
                return values
    assert problem is not None  # Safe because there is at least one sample and one model.
    raise problem


def _measuring(values: dict[str, dict[str, Any]]) -> Job:
    """Return a job of statistics with as many rounds as its kind has steps, and with noise if the kind supports it."""
    problem: JobError | None = None
    stated = values.get("privacy", {})
    inputs: tuple[dict[str, Any], ...] = ({"shape": [64, 64]}, {"columns": COLUMNS})  # some kinds need columns
    for own, noise, rounds in itertools.product(inputs, ["local", "none"], range(1, MOST_STEPS + 1)):
        values["task"] = {"dataset": DATASET, **CLASSES, **own}
        values["job"]["rounds"] = rounds
        job = _job({**values, "privacy": {"noise": noise, **stated}})
        try:
            sums_of(job)
        except JobError as found:
            problem = problem or found
        else:
            return job
    assert problem is not None  # Safe because the loop runs at least once.
    raise problem


def _text(job: Job) -> str:
    what = "measures: nothing is trained" if job.statistics is not None else f"trains {job.task.model!r}"
    parts = [HEAD.format(title=f"A job of Salus that {what}.")]
    idle = without_effect(job)
    for name in Job.model_fields:
        section = getattr(job, name)
        if isinstance(section, Strict) and any(f"{name}.{key}" not in idle for key in type(section).model_fields):
            parts.append("\n".join(_section(name, section, idle)))
    return "\n".join(parts)


def _section(name: str, section: Strict, idle: Mapping[str, str]) -> list[str]:
    lines, tables = [f"# {summary_of(type(section))}", f"[{name}]"], list[str]()
    for key in _keys(section):
        value = getattr(section, key)
        if f"{name}.{key}" in idle or (isinstance(section, Section) and value == section.nothing != ""):
            continue
        if _holds_tables(section, key):
            tables += _tables(f"{name}.{key}", value, section, key)
        else:
            lines += _lines(section, key, value)
    return [*lines, *tables, ""]


def _keys(section: Strict) -> list[str]:
    """Return the section's own keys, then those of its plug-ins."""
    model: type[Strict] = type(section)
    base = model.__bases__[-1] if issubclass(model, Section) and model.assembled else model
    own = [key for key in model.model_fields if issubclass(base, Strict) and key in base.model_fields]
    return own + [key for key in model.model_fields if key not in own]


def _lines(section: Strict, key: str, value: object) -> Iterator[str]:
    said, field = words_of(type(section)).get(key, NOTHING), type(section).model_fields[key]
    is_default = not field.is_required() and value == field.get_default(call_default_factory=True)
    reason = f"{said.reason[:1].upper()}{said.reason[1:]}" if is_default else ""
    meaning = f"{said.meaning.rstrip('.')}.{_possible(section, key)}"
    if value is None:
        meaning = f"{meaning} Without it: {said.reason}."
    yield from (f"# {line}" for line in textwrap.wrap(meaning.replace("``", "`"), WIDTH))
    if value is None:
        yield f"# {key} ="
    elif is_default and value in ((), {}, ""):
        yield f"# {key} = {_toml(value)}"
    else:
        beside = "change this" if field.is_required() and not _names_plugin(section, key) else reason
        yield f"{key} = {_toml(value)}" + (f"  # {beside}" if beside else "")


def _possible(section: Strict, key: str) -> str:
    """Return the possible values of a key that names a plug-in or a fixed word, as a sentence."""
    names = _registry(section, key)
    words: Sequence[object] = names.names() if names is not None else _words(type(section).model_fields[key].annotation)
    named = [str(word) for word in words if word != ""]  # what an empty value means is said in the key's own words
    first = "Any of" if takes_several(type(section).model_fields[key].annotation) and names is not None else "One of"
    return f" {first}: {', '.join(named)}." if len(named) > 1 else ""


def _words(annotation: Any) -> Sequence[object]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return [word for argument in get_args(annotation) for word in _words(argument)]


def _registry(section: Strict, key: str) -> Registry | None:
    for owner in type(section).__mro__:
        place = vars(owner).get("plugins", {}).get(key)
        if place is not None:
            return registry_at(place)
    return None


def _names_plugin(section: Strict, key: str) -> bool:
    return _registry(section, key) is not None


def _holds_tables(section: Strict, key: str) -> bool:
    kind = type(section).model_fields[key].annotation
    return any(isinstance(part, type) and issubclass(part, BaseModel) for part in _parts(kind))


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from _parts(argument)


def _tables(place: str, value: Sequence[Strict] | Strict | None, section: Strict, key: str) -> Iterator[str]:
    single = value is None or isinstance(value, Strict)
    values = [value] if isinstance(value, Strict) else value or ()
    head = f"[{place}]" if single else f"[[{place}]]"
    said = words_of(type(section)).get(key, NOTHING)
    yield ""
    yield from (f"# {line}" for line in textwrap.wrap(f"{said.meaning.rstrip('.')}.", WIDTH))
    if not values:
        yield f"# {head}"
    for one in values:
        yield head
        for name in sorted(one.model_fields_set, key=list(type(one).model_fields).index):
            note = words_of(type(one)).get(name, NOTHING).meaning
            yield f"{name} = {_toml(getattr(one, name))}" + (f"  # {note}" if one is values[0] else "")


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return json.dumps(value, ensure_ascii=False)
