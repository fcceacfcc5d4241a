"""Tasks: how an example becomes tensors, the loss of each item, the additive statistics and the metrics.

To add one: write `common/tasks/<name>.py` with a class that fulfils `Task`, one test, and one line below. A site adds
its own without changing Salus through the entry-point group ``salus.tasks``.
"""

from salus.common.errors import JobError
from salus.common.job import TaskSettings
from salus.common.registry import Registry
from salus.common.tasks.base import Task

TASKS = Registry(
    "task",
    "salus.tasks",
    {
        "classification": "salus.common.tasks.classification:Classification",
        "detection": "salus.common.tasks.detection:Detection",
        "diffusion": "salus.common.tasks.diffusion:Diffusion",
        "explained-classification": "salus.common.tasks.explained:ExplainedClassification",
        "fusion": "salus.common.tasks.fusion:Fusion",
        "multi-instance": "salus.common.tasks.multi_instance:MultiInstance",
        "multi-instance-findings": "salus.common.tasks.multi_instance:MultiInstanceFindings",
        "instances": "salus.common.tasks.instances:Instances",
        "segmentation": "salus.common.tasks.segmentation:Segmentation",
        "gan": "salus.common.tasks.gan:Gan",
        "generation-rnn": "salus.common.tasks.generation_rnn:GenerationRnn",
        "multilabel": "salus.common.tasks.multilabel:MultiLabel",
        "ordinal": "salus.common.tasks.ordinal:Ordinal",
        "regression": "salus.common.tasks.regression:Regression",
        "sequence": "salus.common.tasks.sequence:Sequence",
        "svm": "salus.common.tasks.svm:Svm",
        "survival": "salus.common.tasks.survival:Survival",
        "tabular": "salus.common.tasks.tabular:Tabular",
        "vae": "salus.common.tasks.vae:Vae",
        "tracking": "salus.common.tasks.tracking:Tracking",
    },
)


def make_task(settings: TaskSettings) -> Task:
    """Return the task of a job.

    Raises:
        JobError: an unknown kind, or settings that this kind does not support.
    """
    task: Task = TASKS.get(settings.kind, error=JobError)(settings)
    return task
