"""The test split of a simulation, which no virtual site holds: exact metrics of all its patients, and of each hospital's."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salus.client.data.catalogue import CataloguedImage
from salus.client.data.preparing import Item, Preparer, order_of, target_for
from salus.client.data.records import ImageFacts
from salus.client.data.several import items_of
from salus.client.data.tensors import TensorSet
from salus.client.measured_rows import Rows, measured_of
from salus.client.performance import Performance
from salus.client.training import Trainer
from salus.common.declaration import target_of
from salus.common.errors import DataError, UnreadableImage
from salus.common.job import Job
from salus.common.outcomes import outcome_of
from salus.common.start.applying import first_network
from salus.common.start.weights import Weights
from salus.common.sums import sums_of
from salus.common.sums.base import Measured
from salus.common.sums.scoring import Scored
from salus.common.tasks import make_task
from salus.common.tasks.base import Task
from salus.common.vectors import FloatVector, layout_of
from salus.common.vocabulary import OTHER
from salus.simulations.virtual import CENTRAL, GROUP, catalogue_path, open_catalogue

MEAN = "_mean_of_sites"
Metrics = dict[str, float]
Row = tuple[CataloguedImage, ImageFacts]


class SplitEvaluator:
    """Evaluates global models of a training job on the test split; an `Evaluator`.

    Attributes:
        sites: metrics of the last model for each hospital's test patients, if the patients were divided by hospital.
    """

    def __init__(self, trainer: Trainer, task: Task, parts: Mapping[str, TensorSet]) -> None:
        self._trainer, self._task, self._parts = trainer, task, parts
        self.sites: dict[str, Metrics] = {}

    def __call__(self, parameters: FloatVector) -> Metrics:
        """Return the metrics, and the mean over hospitals of those that the task shows first."""
        totals = {name: self._trainer.evaluate(parameters, data) for name, data in self._parts.items()}
        found = self._task.metrics(np.sum(list(totals.values()), axis=0))
        if set(totals) == {""}:
            return found
        self.sites = {name: self._task.metrics(part) for name, part in totals.items()}
        return found | means_of(self.sites, self._task.headline)


def means_of(sites: Mapping[str, Metrics], names: Sequence[str]) -> Metrics:
    """Return each metric's mean over the sites that have it; a site has none for example where no event happened."""
    result = {}
    for name in names:
        known = [metrics[name] for metrics in sites.values() if name in metrics]
        if known:
            result[name + MEAN] = float(np.mean(known))
    return result


def split_evaluator(
    job: Job, folder: Path, performance: Performance, start: Weights | None = None
) -> SplitEvaluator | None:
    """Return what evaluates a training job's models on the test split, or None without a test split.

    Args:
        start: the weights with which the job starts.
    """
    if not catalogue_path(folder, CENTRAL).exists():
        return None
    task = make_task(job.task)
    if task.chain.fitted:  # what it does to an image is known only at the image's own site
        return None
    preparer = Preparer(open_catalogue(folder, CENTRAL).source(job.task.dataset), task)
    parts = {
        name: TensorSet(items, preparer, performance.cache_mb * 2**20)
        for name, items in _items(job, task, folder).items()
    }
    with torch.random.fork_rng(devices=[]):
        model = first_network(job, start)
    return SplitEvaluator(Trainer(model, layout_of(model), task, job, performance), task, parts) if parts else None


def _items(job: Job, task: Task, folder: Path) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = {}
    for name, rows in _by_site(job, folder).items():
        items = [
            Item(image, target, str(facts.info.get("vendor", OTHER)), order=order_of(facts.info))
            for image, facts in rows
            if (target := target_for(task, image.label)) is not None
        ]
        together, _ = items_of(task, items)
        if together:
            found[name] = together
    return found


def _by_site(job: Job, folder: Path) -> dict[str, list[Row]]:
    catalogue = open_catalogue(folder, CENTRAL)
    rows = zip(catalogue.images(job.task.dataset), catalogue.facts(job.task.dataset), strict=True)
    found: dict[str, list[Row]] = defaultdict(list)
    for image, facts in rows:
        found[str(facts.info.get(GROUP, ""))].append((image, facts))
    return dict(sorted(found.items()))


def score(job: Job, model: Mapping[str, Any], folder: Path) -> tuple[Metrics, dict[str, Metrics]]:
    """Return the metrics of a model from sums on the test split, and those of each hospital; empty where it has none."""
    sums = sums_of(job)
    if not isinstance(sums, Scored) or not model or not catalogue_path(folder, CENTRAL).exists():
        return {}, {}
    parts = {name: _measured(job, rows, folder) for name, rows in _by_site(job, folder).items()}
    whole = sums.scores(model, [item for part in parts.values() for item in part])
    if set(parts) == {""}:
        return whole, {}
    sites = {name: sums.scores(model, part) for name, part in parts.items()}
    return whole | means_of(sites, sums.headline), sites


def _measured(job: Job, rows: Sequence[Row], folder: Path) -> list[Measured]:
    source, steps = open_catalogue(folder, CENTRAL).source(job.task.dataset), Rows(job)
    found = []
    for image, facts in rows:
        label = target_of(image.label, job.task.classes)
        try:
            one = measured_of(source.load(image.key), label, facts.info, steps, outcome_of(image.label))
        except (UnreadableImage, DataError):
            continue  # as at a site
        found.append(one)
    return found
