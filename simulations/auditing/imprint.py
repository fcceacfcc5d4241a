"""The imprint attack through a job's own path: a dishonest coordinator sends crafted parameters in the second round."""

import math
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from salus.client.data.tensors import Use
from salus.client.running import RunningJob
from salus.common.errors import DataError
from salus.common.job import Job
from salus.common.vectors import FloatVector
from salus.privacy.audit.imprint import combination, crafted, readable, recovered
from salus.simulations.auditing.asked import Asked
from salus.simulations.auditing.report import NOISED, PLAIN, Tried
from salus.simulations.auditing.world import AUDITED, Observed
from salus.simulations.virtual import open_catalogue

LARGEST_BATCH = 1024  # one step with all images of most sites; a site may refuse larger batches, whose memory it counts
RANGES = 512  # with 160 images about three in four are alone in their range, if the ranges are chosen well
FEWEST_PUBLIC = 2  # images whose mean and spread can be computed
RATE = 1e4  # so that an update is not lost in the rounding of large parameters; the site clips it, which keeps its proportions
TOLERANCE = 0.05  # root mean square difference of a recovered image, of grey values from -1 to 1
Vector = npt.NDArray[np.float64]


class Imprint:
    """See `asked.Attack`.

    The attacker chooses the job: `logistic` with classes that no image has, and steps with all images, at most `LARGEST_BATCH`. A
    site refuses it twice: its classes must be declared, and without noise its operator must name the model in
    ``allow_imprint_models``. Here a declaration with many classes, such as a list of diagnoses, and that permission are assumed.
    """

    title: ClassVar[str] = "imprint layer"
    figure: ClassVar[str] = "share of the training images that can be read"
    nothing: ClassVar[float] = 0.0

    def objection(self, job: Job) -> str:
        """See `Attack.objection`."""
        fits = job.task.kind == "classification" and job.task.shape
        return "" if fits else "it is written for classification of images"

    def tried(self, asked: Asked) -> list[Tried]:
        """See `Attack.tried`."""
        places = _declared(asked.target.hospitals, asked.folder / "hospitals", asked.sites, asked.original)
        seen, images = _run(chosen(asked.job), places, asked)
        every, last = np.concatenate(list(images.values())), seen.rounds[-1]
        found = []
        for against in asked.against:
            alone = against == PLAIN or (against == NOISED and asked.job.privacy.noise == "local")
            truth = images[AUDITED] if alone else every
            count = self._count(asked.original, last.own if alone else last.total, truth)
            spent = "; the job's epsilon was spent in two rounds" if against == NOISED else ""
            plainly = f"A coordinator that crafts a job could read {count} of {len(truth)} images."
            found.append(
                Tried(
                    self.title, against, self.figure, round(count / len(truth), 4), self.nothing,
                    f"{count} of {len(truth)} {ONE if alone else ALL}{spent}", plainly=plainly,
                )
            )  # fmt: skip
        return found

    @staticmethod
    def _count(job: Job, update: Vector, truth: Vector) -> int:
        classes, features = len(job.task.classes), truth.shape[1]
        return recovered(readable(update, classes, RANGES, features), truth, TOLERANCE)


ONE, ALL = "images of one site", "images of all sites"
NOBODYS = tuple(f"nobody-has-this-{number}" for number in range(RANGES))


def _declared(hospitals: Path, folder: Path, sites: int, job: Job) -> Path:
    """Return copies of the catalogues in which the data set is declared with the classes that no image has."""
    for site in range(1, sites + 1):
        (folder / f"site-{site}").mkdir(parents=True)
        for file in (hospitals / f"site-{site}").glob("catalogue.sqlite*"):
            shutil.copy2(file, folder / f"site-{site}")
        declarations = open_catalogue(folder, site).declarations
        known = declarations.all()[job.task.dataset]
        if known is not None:
            more = tuple(dict.fromkeys((*job.task.classes, *known.classes, *NOBODYS)))
            declarations.put(job.task.dataset, known.model_copy(update={"classes": more}))
    return folder


def chosen(job: Job) -> Job:
    """Return the job that the attacker submits."""
    task = job.task.changed(model="logistic", classes=(*job.task.classes, *NOBODYS), trainable=(), frozen=(), lora=None)
    training = job.training.changed(
        optimizer="sgd", learning_rate=RATE, momentum=0.0, weight_decay=0.0, batch_size=LARGEST_BATCH
    )
    evaluation = job.evaluation.changed(subgroups=())
    return job.model_copy(
        update={
            "job": job.job.model_copy(update={"rounds": 2}),
            "task": task,
            "start": None,
            "training": training,
            "evaluation": evaluation,
            "aggregation": job.aggregation.changed(strategy="fedavg"),
        }
    )


def _run(job: Job, hospitals: Path, asked: Asked) -> tuple[Observed, dict[int, Vector]]:
    """Run the job and return what was seen, and the training images of every site, ``[images, features]``."""
    images: dict[int, Vector] = {}
    public: list[Vector] = []
    features = math.prod(job.task.shape) * job.task.channels
    classes = len(job.task.classes) - RANGES

    def note(site: int, running: RunningJob) -> None:
        assert running.data is not None  # Safe because virtual hospitals have data.
        found = []
        for data in (running.data.train, running.data.validation):
            batch = data.batch(torch.arange(len(data)), Use(b""))
            found.append(batch["image"].double().reshape(-1, features).numpy())
        images[site] = found[0]
        public.append(found[1])

    def craft(round_: int, model: FloatVector) -> FloatVector:
        if round_ == 1:
            return model  # a site compares the first one with the job's seed
        known = np.concatenate(public) @ combination(features)  # of validation images, in place of public ones
        if len(known) < FEWEST_PUBLIC:
            raise DataError(
                "The attacker needs a few validation images in place of public ones, and there are none.",
                remedy="Audit with a validation_fraction above 0.",
            )
        return crafted(classes, RANGES, features, float(known.mean()), float(known.std())).astype(np.float32)

    seen = asked.observed(
        job,
        "imprint",
        hospitals=hospitals,
        change=note,
        craft=craft,
        done=lambda round_: asked.tell(round_, job.job.rounds),
    )
    return seen, images
