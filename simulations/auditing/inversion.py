"""Gradient inversion at site level: in one step every hospital has one patient with one image, the worst case for patients."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from monai.metrics.regression import SSIMMetric

from salus.client.data.tensors import TensorSet, Use
from salus.client.running import RunningJob
from salus.common.batch import Batch, joined
from salus.common.errors import DataError
from salus.common.job import Job
from salus.common.models import build_model
from salus.common.start.applying import first_network
from salus.common.start.weights import Weights
from salus.common.tasks import make_task
from salus.common.tasks.base import Task
from salus.common.tasks.steps import has_noise
from salus.common.vectors import Layout, layout_of, write_parameters
from salus.privacy.audit.inversion import IMAGE, Search, invert, signal_to_noise_db
from salus.privacy.contribution import Float64Vector
from salus.simulations.auditing.asked import Asked
from salus.simulations.auditing.cohort import Cohort, patients_of
from salus.simulations.auditing.report import MASKED, NOISED, PLAIN, Tried
from salus.simulations.auditing.world import Change

ITERATIONS = 150  # seconds for a small network; the paper takes up to 24 000
MOST_NUMBERS, MOST_PARAMETERS = 2**16, 2**21  # of one image and of the network: more would take hours
MOST_ALONE = 3  # sites whose single updates are inverted
MOST_TOGETHER = 8  # sites whose sum is
MOST_PUBLIC = 512  # other images that the attacker knows, and among which a reconstruction is looked for
WINDOW = 7  # of the structural similarity, in pixels; smaller for smaller images
TOGETHER = {
    MASKED: "from the sum over all sites",
    NOISED: "from what the job releases, with all its epsilon in one step; a patient is sampled with a chance of one half",
}


@dataclass
class Victims:
    """One image of each site, and other images of the sites.

    Args:
        fields: of each site's image.
        others: images of other patients, each ``[images, channels, *grid]``.
    """

    fields: dict[int, Batch] = field(default_factory=dict)
    others: dict[int, torch.Tensor] = field(default_factory=dict)

    def change(self, rng: np.random.Generator) -> Change:
        """Return what leaves one patient with one image at every site."""
        chosen: dict[int, Cohort] = {}

        def one(site: int, running: RunningJob) -> None:
            assert running.data is not None  # Safe because virtual hospitals have data.
            data = running.data.train
            if site not in chosen:
                people = patients_of(data)
                victim = int(rng.integers(len(people)))
                chosen[site] = Cohort([replace(people[victim], rows=people[victim].rows[:1])])
                rest = [row for place, patient in enumerate(people) if place != victim for row in patient.rows]
                self.fields[site] = _once(chosen[site], [0])
                self.others[site] = _once(data, rest[:MOST_PUBLIC])[IMAGE] if rest else torch.zeros(0)
            running.data = replace(running.data, train=chosen[site])

        return one


def _once(data: TensorSet, rows: Sequence[int]) -> Batch:
    """Return one copy of each sample."""
    return data.batch(torch.tensor(rows), Use(b"")).rows(slice(None, None, data.copies))


def chosen(job: Job) -> Job:
    """Return the attacker's job: the same model and task, and one step."""
    training = job.training.changed(
        optimizer="sgd", learning_rate=1.0, momentum=0.0, weight_decay=0.0, local_epochs=None
    )
    changes = {
        "job": job.job.model_copy(update={"rounds": 1}),
        "training": training,
        "evaluation": job.evaluation.changed(subgroups=()),
        # A weight of one, so that an update is not lost in the rounding of the sum.
        "aggregation": job.aggregation.changed(strategy="fedavg", max_patients=1),
    }
    if job.privacy.noised:
        privacy = {"sampling_rate": 0.5, "steps_per_round": 1, "spare_rounds": 0.0, "evaluation_share": 0.0}
        changes["privacy"] = job.privacy.model_copy(update=privacy)
    return job.model_copy(update=changes)


class Inversion:
    """See `asked.Attack`; the attacker knows the labels, and the mean of the other images of the sites."""

    title: ClassVar[str] = "gradient inversion"
    figure: ClassVar[str] = "likeness of the reconstructed image in dB (peak signal-to-noise ratio)"
    nothing: ClassVar[float] = 0.0

    def objection(self, job: Job) -> str:
        """See `Attack.objection`."""
        task = make_task(job.task)
        found = task.spec.get(IMAGE)
        if found is None or found.dtype != "float32" or len(found.shape) not in (3, 4):
            return "it is written for tasks whose input is one image"
        if has_noise(task.spec) or len(task.steps) > 1:
            return "it is written for losses without random numbers"
        if (
            math.prod(found.shape) > MOST_NUMBERS
            or layout_of(build_model(job.task, job.job.seed)).size > MOST_PARAMETERS
        ):
            return "the image or the network is too large for a search of a few minutes"
        return ""

    def tried(self, asked: Asked) -> list[Tried]:
        """See `Attack.tried`."""
        job = chosen(asked.job)
        victims = Victims()
        seen = asked.observed(job, "inversion", change=victims.change(np.random.default_rng([asked.seed, 0x1])))
        last, results = seen.rounds[0], []
        for against in asked.against:
            alone = against == PLAIN or (against == NOISED and job.privacy.noise == "local")
            sites = sorted(victims.fields)[: MOST_ALONE if alone else None]
            groups = [[site] for site in sites] if alone else [sites]
            if not alone and len(sites) > MOST_TOGETHER:
                results.append(self._answer(against, [], f"not tried: a sum over more than {MOST_TOGETHER} sites"))
                continue
            attacker = Attacker(job, asked.target.start, seen.layout, np.asarray(last.model), victims)
            found: dict[int, torch.Tensor] = {}
            for place, group in enumerate(groups):
                tell = functools.partial(_part_of, asked, place, len(groups))
                found |= attacker.inverted(last.each[group[0]] if alone else last.total, group, tell)
            text = "from one site's update, each site by itself" if against == PLAIN else TOGETHER[against]
            among = 1 if alone else len(sites)
            results.append(self._answer(against, [attacker.judged(site, found[site], among) for site in sites], text))
        return results

    def _answer(self, against: str, judged: Sequence[Mapping[str, float]], text: str) -> Tried:
        if not judged:
            return Tried(self.title, against, self.figure, None, self.nothing, text)
        means = {name: float(np.mean([one[name] for one in judged])) for name in judged[0]}
        value, usual = means.pop("dB"), means.pop("dB of the mean image")
        recognised, chance = means["recognised"], means["recognised by chance"]
        better = "better than" if value > usual + 1 else "no better than"
        plainly = (
            f"Images reconstructed {text.partition(';')[0].partition(',')[0]} are {better} the mean of other images "
            f"({value:.1f} against {usual:.1f} dB); {recognised:.0%} of the patients could be recognised by them "
            f"(by chance {chance:.0%})."
        )
        details = {name: round(number, 4) for name, number in means.items()}
        note = f"{text}; {len(judged)} images, {ITERATIONS} iterations"
        return Tried(
            self.title, against, self.figure, round(value, 2), round(usual, 2), note, details=details, plainly=plainly
        )


def _part_of(asked: Asked, place: int, of: int, iteration: int) -> None:
    asked.tell(place * ITERATIONS + iteration, of * ITERATIONS)


class Attacker:
    """Inverts what was released, and compares it with the truth."""

    def __init__(
        self, job: Job, start: Weights | None, layout: Layout, parameters: np.ndarray, victims: Victims
    ) -> None:
        self._task: Task = make_task(job.task)
        self._model = first_network(job, start)
        write_parameters(self._model, layout, parameters.astype(np.float32))
        self._model.eval()
        self._victims = victims
        known = [images for images in victims.others.values() if len(images)]
        if not known:
            raise DataError("The attacker knows no other image of the sites.", remedy="Use more patients.")
        self._public = torch.cat(known)
        self._usual = self._public.mean(0)
        everything = torch.cat([self._public, *(fields[IMAGE] for fields in victims.fields.values())])
        self._low, self._high = float(everything.min()), float(everything.max())

    def inverted(
        self, update: Float64Vector, sites: Sequence[int], done: functools.partial[None]
    ) -> dict[int, torch.Tensor]:
        """Return the images that an update of these sites shows: for each site the found one that is most like its own."""
        known = joined([self._victims.fields[site] for site in sites])
        step = self._task.steps[0]

        def loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
            return self._task.losses(model, batch, step)

        search = Search(ITERATIONS, self._low, self._high, self._usual)
        seen = -torch.from_numpy(np.asarray(update, dtype=np.float32))
        found = invert(self._model, loss, known, seen, search, done)
        return {site: self._nearest(found, self._victims.fields[site][IMAGE][0]) for site in sites}

    def _nearest(self, found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        nearest: torch.Tensor = min(found, key=lambda image: float((image - truth).square().mean()))
        return nearest

    def judged(self, site: int, image: torch.Tensor, among: int) -> dict[str, float]:
        """Return how like a reconstruction is to the truth, beside the mean image, and whether it singles the patient out.

        Args:
            among: number of reconstructions of which this is the nearest to the truth; each has its own chance to be right.
        """
        truth, reach = self._victims.fields[site][IMAGE][0], max(self._high - self._low, 1e-6)
        others = self._victims.others[site]
        candidates = torch.cat([truth[None], others]) if len(others) else truth[None]
        odd = torch.nn.functional.normalize((candidates - self._usual).flatten(1), dim=1)
        likeness = odd @ (image - self._usual).flatten()
        return {
            "dB": signal_to_noise_db(image, truth, reach),
            "dB of the mean image": signal_to_noise_db(self._usual, truth, reach),
            "structural similarity": _similarity(image, truth, reach),
            "structural similarity of the mean image": _similarity(self._usual, truth, reach),
            "recognised": float(bool((likeness[0] > likeness[1:]).all())),
            "recognised by chance": min(1.0, among / len(candidates)),
        }


def _similarity(image: torch.Tensor, truth: torch.Tensor, reach: float) -> float:
    """Return the structural similarity (Wang et al. 2004), 1 for equal images."""
    window = min(WINDOW, *truth.shape[1:])
    metric = SSIMMetric(spatial_dims=truth.dim() - 1, data_range=reach, win_size=window - (window + 1) % 2)
    found = metric(image[None], truth[None])
    return float(torch.as_tensor(found).mean())
