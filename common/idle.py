"""Settings of a job file that would have no effect: they are refused, because their author expects one.

Only what a file states is looked at. A signed job names every key, and what it names need not have an effect.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from salus.common.errors import JobError
from salus.common.job_sections import Privacy, Training
from salus.common.registry import own_settings
from salus.common.sections import Section, registry_at

if TYPE_CHECKING:
    from salus.common.job import Job

STEPS = {"optimizer", "learning_rate", "weight_decay"}  # of a site's own steps
ALWAYS = {"unit", "noise"}
OF_TRAINING = ("sampling_rate", "steps_per_round")  # of the keys of the section privacy


def refuse_idle(job: "Job") -> None:
    """Raise JobError for the first setting without effect that the job file states, with the reason."""
    for place, reason in without_effect(job).items():
        section, _, key = place.partition(".")
        if key in getattr(job, section).model_fields_set:
            raise JobError(
                f"Expected no {place} in this job: {reason}.", remedy="Remove the line, or change the other setting."
            )


def without_effect(job: "Job") -> Mapping[str, str]:
    """Return the keys, as ``section.key``, that have no effect in this job, each with the reason."""
    found: dict[str, str] = {}
    if not job.privacy.noised:
        idle = sorted(set(Privacy.model_fields) - ALWAYS)
        found |= dict.fromkeys((f"privacy.{key}" for key in idle), 'privacy.noise is "none"')
    elif job.statistics is not None:
        found |= dict.fromkeys(
            (f"privacy.{key}" for key in OF_TRAINING), "every patient takes part in statistics once a step"
        )
        found["privacy.evaluation_share"] = "statistics train no model that could be evaluated"
    if not job.evaluation.subgroups:
        found["evaluation.min_patients"] = "evaluation.subgroups is empty"
    elif job.privacy.noised:
        found["evaluation.min_patients"] = "noise, and not the size of a group, protects its patients"
    if job.statistics is not None and not job.statistics.held_out:
        found["evaluation.subgroups"] = "statistics.held_out is 0, so no model is evaluated"
    stepless = ""
    if job.statistics is not None:
        stepless = "a job with a section statistics trains nothing"
    elif job.one_step:
        stepless = "a round is one noised step, which the coordinator takes with aggregation.server_learning_rate"
    if stepless:
        keys = STEPS | (set(type(job.training).model_fields) - set(Training.model_fields))
        found |= dict.fromkeys((f"training.{key}" for key in sorted(keys)), stepless)
    for key in _of_others(job.aggregation, "strategy", job.strategy):
        found[f"aggregation.{key}"] = f"its strategy is {job.strategy!r}"
    return found


def _of_others(section: Section, key: str, used: str) -> list[str]:
    """Return the keys of the plug-ins that `key` could name, as it is omitted, but that are not `used`."""
    if getattr(section, key) is not None:
        return []
    registry = registry_at(section.plugins[key])
    effective = own_settings(registry.get(used))
    others = [own_settings(registry.get(name)) for name in section.omitted.get(key, ())]
    return [name for own in others if own is not None and own is not effective for name in own.model_fields]
