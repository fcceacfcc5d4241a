"""A finished model on a site's own held-out patients, for its operator: metrics, and pictures of the worst cases.

Nothing of this is protected or charged to a budget, because nothing of it leaves the site: the page shows patients' images and
exact numbers of few patients, and must be kept where the images are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from salus.client.data.catalogue import Catalogue
from salus.client.data.examples import annotations_of
from salus.client.data.preparing import Item, Preparer, order_of, read_registered, target_for
from salus.client.data.readiness import thumbnail
from salus.client.data.several import items_of
from salus.client.data.sources.base import Source
from salus.client.outgoing.overlays import legend, most_filled, overlay
from salus.client.predicting.answering import Answer, Answering
from salus.client.predicting.model import FinishedModel
from salus.common.batch import stacked
from salus.common.errors import DataError, UnreadableImage
from salus.common.examples import Array
from salus.common.job import Job
from salus.common.pages import Section
from salus.common.tasks import make_task
from salus.common.tasks.base import Task, Totals
from salus.common.vocabulary import OTHER

HELD_OUT = ("val", "test")
WORST = 24  # cases with a picture
LOSS = "loss"
MASK = "mask"
Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Case:
    """One image or row.

    Args:
        name: that its operator finds it by: the patient's pseudonym and the number of its image.
        metrics: of this case alone.
    """

    name: str
    item: Item
    metrics: Mapping[str, float]

    @property
    def loss(self) -> float:
        """The loss; cases without one come last."""
        return self.metrics.get(LOSS, float("-inf"))


@dataclass(frozen=True)
class Evaluation:
    """What a model does on held-out patients.

    Args:
        left_out: images that could not be used, by reason.
        sections: of the page.
    """

    patients: int
    images: int
    metrics: dict[str, float]
    left_out: dict[str, int]
    sections: tuple[Section, ...]


def evaluate(
    catalogue: Catalogue,
    name: str,
    job: Job,
    model: FinishedModel,
    device: torch.device,
    tell: Tell = lambda done, of: None,
) -> Evaluation:
    """Evaluate a model on the patients of a data set that no job of this site has trained on.

    Args:
        name: of the data set, whatever the job calls it.
        tell: called with the number of evaluated images and the total.

    Raises:
        DataError: an unknown data set, or one without held-out patients or without a usable image of them.
        UnfitError: the data set is not approved.
    """
    task = make_task(job.task)
    catalogue.approvals.require(name)
    source = catalogue.source(name)
    preparer = Preparer(source, task)
    items = _held_out(catalogue, name, job, task)
    if not items:
        raise DataError(
            f"The data set {name!r} has no held-out patient with a label or mask of this job.",
            remedy="Compare its labels with the job's classes: salus dataset show.",
        )
    network = model.network.to(device)
    total, cases, left_out = _measured(task, preparer, items, network, device, tell)
    tell(len(items), len(items))
    if not cases:
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        raise DataError(f"No held-out image could be used ({listed}).", remedy="Check the data: salus dataset check.")
    metrics = task.metrics(total)
    people = len({case.item.image.patient for case in cases})
    worst = sorted(cases, key=lambda case: -case.loss)[:WORST]
    answering = Answering(task, network, device)
    pictures = [picture for case in worst for picture in _pictures(case, preparer, answering, source)]
    shown = _sections(task, metrics, cases, worst, pictures, left_out)
    return Evaluation(people, len(cases), metrics, left_out, tuple(shown))


def _measured(
    task: Task, preparer: Preparer, items: Sequence[Item], network: torch.nn.Module, device: torch.device, tell: Tell
) -> tuple[Totals, list[Case], dict[str, int]]:
    """Return the summed rows of all cases, the cases, and how many images were left out by reason."""
    total, cases, left_out = np.zeros(task.statistics_size), [], dict[str, int]()
    for number, item in enumerate(items):
        tell(number, len(items))
        try:
            fields = preparer.evaluated(item, [preparer.prefix(one) for one in item.each])
        except DataError as problem:
            reason = problem.reason if isinstance(problem, UnreadableImage) else "does-not-fit-job"
            left_out[reason] = left_out.get(reason, 0) + 1
            continue
        batch = stacked([fields]).to(device)
        with torch.inference_mode():
            row = task.rows(task.infer(network, batch), batch)[0].numpy()
        total += row
        cases.append(Case(f"{item.image.patient}, image {number + 1}", item, task.metrics(row)))
    return total, cases, left_out


def _held_out(catalogue: Catalogue, name: str, job: Job, task: Task) -> list[Item]:
    """Return the labelled or annotated images of patients that no job trains on, see `data.split`."""
    splits = catalogue.splits(name, job.training.validation_fraction)
    annotated = set(annotations_of(task)) & {MASK}
    found = []
    for image, fact in zip(catalogue.images(name), catalogue.facts(name), strict=True):
        if splits[image.patient] not in HELD_OUT:
            continue
        target = target_for(task, image.label)
        if target is None or (annotated and not fact.targets):
            continue
        found.append(Item(image, target, str(fact.info.get("vendor", OTHER)), order=order_of(fact.info)))
    return items_of(task, found)[0]


def _pictures(case: Case, preparer: Preparer, answering: Answering, source: Source) -> list[tuple[str, str]]:
    """Return a case's pictures: what was predicted beside what is annotated, or the image with its classes."""
    sample = read_registered(source, case.item.image)
    if sample.columns or case.item.images:  # one picture does not show what several images say together
        return []
    answer: Answer = answering(sample, case.item.vendor)
    if answer.mask is None:
        shares = sorted(answer.probabilities.items(), key=lambda pair: -pair[1])[:2]
        said = ", ".join(f"{name} {share:.0%}" for name, share in shares) or answer.label
        return [(f"{case.name}: is {case.item.image.label}, model says {said}", thumbnail(sample))]
    truth = preparer.original(case.item)[MASK]  # in the job's numbers of structures
    masks = {"predicted": answer.mask, "annotated": truth[0] if len(truth) == 1 else truth}
    values = sample.values
    if values.ndim == 4:
        marked = [np.asarray(mask.any(axis=0) if mask.ndim == 4 else mask > 0) for mask in masks.values()]
        place = most_filled(np.any(marked, axis=0))
        masks = {name: _slice(mask, place) for name, mask in masks.items()}
        values = values[:, place]
    dice = case.metrics.get("dice_mean")
    caption = case.name if dice is None else f"{case.name}: Dice {dice:.2f}"
    return [(f"{caption}, {name}", overlay(values, mask, spacing_mm=sample.spacing_mm)) for name, mask in masks.items()]


def _slice(mask: Array, place: int) -> Array:
    """Return one slice of a volume's mask, or of all its layers."""
    found: Array = mask[:, place] if mask.ndim == 4 else mask[place]
    return found


def _sections(
    task: Task,
    metrics: Mapping[str, float],
    cases: Sequence[Case],
    worst: Sequence[Case],
    pictures: Sequence[tuple[str, str]],
    left_out: Mapping[str, int],
) -> list[Section]:
    first = [name for name in task.headline if name in metrics]
    names = [*first, *(name for name in metrics if name not in first)]
    shown = [name for name in (*task.headline, LOSS) if any(name in case.metrics for case in cases)]
    rows = [[case.name, *(_number(case.metrics.get(name)) for name in shown)] for case in worst]
    sections = [
        Section(
            "All held-out patients",
            columns=("metric", "value"),
            rows=[(name, _number(metrics[name])) for name in names],
        )
    ]
    if left_out:
        sections.append(Section("Not used", columns=("reason", "images"), rows=sorted(left_out.items())))
    text = "The cases with the largest loss first; a patient is named by its pseudonym (salus dataset patient)."
    sections.append(Section("Worst cases", text, columns=("case", *shown), rows=rows))
    if pictures:
        sections.append(
            Section("Pictures of the worst cases", legend(task.settings.classes), pictures=pictures, large=True)
        )
    return sections


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
