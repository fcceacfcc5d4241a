"""Jobs that start from a public model: the weights of a network that was not trained, with their hash in the job."""

from pathlib import Path

from tests.builders import write_npz
from tests.tiny import JOBS as FILES
from tests.tiny import Tiny, Writer

from salus.common.job import load_job
from salus.common.models import build_model
from salus.common.start.weights import weights_of

CHANGE = {"task.shape": [16, 16], "task.classes": ["0", "1"]}
NOISED = {"privacy.patients_per_site": 10, "privacy.sampling_rate": 0.5}


def plain(folder: Path) -> Tiny:
    return Tiny(write_npz(folder / "toy.npz", images=60), change=CHANGE)


def noised(folder: Path) -> Tiny:
    return Tiny(write_npz(folder / "toy.npz", images=60), change={**CHANGE, **NOISED}, metric="auc")


def started(folder: Path) -> Tiny:
    weights = weights_of(build_model(load_job(FILES / "start-public.toml").task, 5))
    change = {**CHANGE, **NOISED, "start.weights": weights.digest}
    return Tiny(write_npz(folder / "toy.npz", images=60), change=change, metric="auc", start=weights)


JOBS: dict[str, Writer] = {
    "start-public.toml": plain,
    "start-none.toml": noised,
    "start-full.toml": started,
    "start-head.toml": started,
    "start-lora.toml": started,
}
