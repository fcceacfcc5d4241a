"""The imprint attack through a job's own path: a dishonest coordinator sends crafted parameters in the second round."""

import math
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from salus.client.data.tensors import Use
from salus.client.performance import Performance
from salus.client.running import RunningJob
from salus.common.errors import DataError, SalusError
from salus.common.job import Job
from salus.common.vectors import FloatVector
from salus.privacy.audit.imprint import combination, crafted, readable, recovered
from salus.simulations.auditing.report import MASKED, NOISED, PLAIN, Tried
from salus.simulations.auditing.world import AUDITED, Observed, observed
from salus.simulations.virtual import open_catalogue

ATTACK = "imprint layer"
FIGURE = "share of the training images that can be read"
LARGEST_BATCH = 1024  # one step with all images of most sites; a site may refuse larger batches, whose memory it counts
RANGES = 512  # with 160 images about three in four are alone in their range, if the ranges are chosen well
FEWEST_PUBLIC = 2  # images whose mean and spread can be computed
RATE = 1e4  # so that an update is not lost in the rounding of large parameters; the site clips it, which keeps its proportions
TOLERANCE = 0.05  # root mean square difference of a recovered image, of grey values from -1 to 1
Vector = npt.NDArray[np.float64]


def imprint(
    job: Job, bare: Job, hospitals: Path, folder: Path, *, sites: int, performance: Performance, noise_free: bool
) -> list[Tried]:
    """Return how many images the attack reads from each kind of release.

    Args:
        bare: the same job without noise.
        noise_free: whether it can run with so many sites.

    The attacker chooses the job: `logistic` with classes that no image has, and steps with all images, at most `LARGEST_BATCH`. A
    site refuses it twice: its classes must be declared, and without noise its operator must name the model in
    ``allow_imprint_models``. Here a declaration with many classes, such as a list of diagnoses, and that permission are assumed.
    """
    if job.task.kind != "classification" or not job.task.shape:
        return [Tried(ATTACK, against, FIGURE, None, 0.0, "not tried: it is written for classification of images")
                for against in (PLAIN, MASKED, *([NOISED] if job.privacy.noised else []))]  # fmt: skip
    places = _declared(hospitals, folder / "hospitals", sites, job)
    found: list[Tried] = []

    def attacked(which: Job, name: str, views: list[str]) -> None:
        try:
            seen, images = _run(chosen(which), places, folder / name, sites, performance)
        except SalusError as problem:  # such as a site's limit of memory; the other attacks count nevertheless
            found.extend(Tried(ATTACK, view, FIGURE, None, 0.0, f"not tried: {problem.problem}") for view in views)
            return
        every, last = np.concatenate(list(images.values())), seen.rounds[-1]
        alone = which.privacy.noise == "local"
        for view in views:
            own = view == PLAIN or (view == NOISED and alone)
            text = "the job's epsilon in two rounds" if view == NOISED else TEXTS[view]
            found.append(_tried(view, job, last.own if own else last.total, images[AUDITED] if own else every, text))

    if noise_free:
        attacked(bare, "plain", [PLAIN, MASKED])
    else:
        found += [Tried(ATTACK, one, FIGURE, None, 0.0, "not tried: too few sites") for one in (PLAIN, MASKED)]
    if job.privacy.noised:
        attacked(job, "noised", [NOISED])
    return found


TEXTS = {PLAIN: "of one site's images", MASKED: "of the images of all sites"}
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
    task = job.task.changed(model="logistic", classes=(*job.task.classes, *NOBODYS))
    training = job.training.changed(
        optimizer="sgd", learning_rate=RATE, momentum=0.0, weight_decay=0.0, batch_size=LARGEST_BATCH
    )
    evaluation = job.evaluation.changed(subgroups=())
    return job.model_copy(
        update={
            "job": job.job.model_copy(update={"rounds": 2}),
            "task": task,
            "training": training,
            "evaluation": evaluation,
            "aggregation": job.aggregation.changed(strategy="fedavg"),
        }
    )


def _run(
    job: Job, hospitals: Path, folder: Path, sites: int, performance: Performance
) -> tuple[Observed, dict[int, Vector]]:
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

    seen = observed(job, hospitals, folder, sites=sites, performance=performance, change=note, craft=craft)
    return seen, images


def _tried(against: str, job: Job, update: Vector, truth: Vector, text: str) -> Tried:
    classes, features = len(job.task.classes), truth.shape[1]
    count = recovered(readable(update, classes, RANGES, features), truth, TOLERANCE)
    return Tried(ATTACK, against, FIGURE, round(count / len(truth), 4), 0.0, f"{count} {text} ({len(truth)})")
