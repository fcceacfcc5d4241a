"""Small honest worlds for tests: jobs, sites and data that are complete but tiny."""

from pathlib import Path

import numpy as np

from salus.client.data.catalogue import Catalogue
from salus.client.data.sources.settings import SourceOptions
from salus.client.ledger.store import Ledger
from salus.client.performance import Performance
from salus.client.policy import Policy
from salus.client.site import Site
from salus.common.clock import SystemClock
from salus.common.events import EventLog
from salus.common.identity import Identity
from salus.common.job import Job, parse_job
from salus.privacy.protocol.store import MemoryStore

JOB = """
[job]
name = "tiny"
rounds = {rounds}
min_sites = {min_sites}
round_timeout_s = {round_timeout_s}
join_timeout_s = 3600.0
[task]
kind = "classification"
model = "{model}"
dataset = "{dataset}"
classes = ["no", "yes"]
shape = [8, 8]
[training]
batch_size = 8
{rate}
{training}
[aggregation]
protection = "{protection}"
max_patients = 50
[privacy]
{privacy}
"""


def job_text(
    *,
    rounds: int = 2,
    min_sites: int = 2,
    model: str = "logistic",
    round_timeout_s: float = 3600.0,
    dataset: str = "toy",
    training: str = "",
    protection: str = "none",
    privacy: str = 'noise = "none"',
) -> str:
    """Return the text of a tiny job."""
    one_step = '"none"' not in privacy and "steps_per_round" not in privacy and "local_epochs" not in training
    return JOB.format(
        rate="" if one_step else "learning_rate = 0.02",
        rounds=rounds,
        min_sites=min_sites,
        model=model,
        round_timeout_s=round_timeout_s,
        dataset=dataset,
        training=training,
        protection=protection,
        privacy=privacy,
    )


def tiny_job(**changes: object) -> Job:
    """Return a tiny job; keywords as in `job_text`."""
    return parse_job(job_text(**changes))  # type: ignore[arg-type]


def write_npz(path: Path, *, images: int = 40, seed: int = 0, side: int = 8) -> Path:
    """Write learnable toy images in MedMNIST form: class 1 is bright in the middle."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", images), ("val", images // 2), ("test", images // 2)):
        labels = rng.integers(0, 2, size=(count, 1)).astype(np.uint8)
        pixels = rng.integers(0, 90, size=(count, side, side)).astype(np.uint8)
        pixels[:, 2:6, 2:6] += (labels[:, :, None] * 120).astype(np.uint8)
        arrays |= {f"{split}_images": pixels, f"{split}_labels": labels}
    np.savez(path, **arrays)
    return path


def toy_catalogue(folder: Path, *, seed: int = 0, images: int = 40) -> Catalogue:
    """Return a catalogue with the toy data set registered."""
    folder.mkdir(parents=True, exist_ok=True)
    npz = write_npz(folder / "toy.npz", seed=seed, images=images)
    catalogue = Catalogue(folder / "catalogue.sqlite", b"secret for tests")
    catalogue.add("toy", "medmnist", npz, SourceOptions())
    return catalogue


def toy_identity(number: int) -> Identity:
    """Return the signing key of a toy site."""
    return Identity.from_seed(bytes([number]) * 32)


def toy_keys(sites: int) -> dict[int, bytes]:
    """Return the public keys of a roster of toy sites."""
    return {number: toy_identity(number).public_key for number in range(1, sites + 1)}


def toy_site(folder: Path, number: int, coordinator_key: bytes, policy: Policy | None = None, sites: int = 3) -> Site:
    """Return a site over toy data."""
    catalogue = toy_catalogue(folder, seed=number)
    rules = policy or Policy(allow_unprotected=True, allow_without_noise=True)
    return Site(
        site_id=number,
        identity=toy_identity(number),
        keys=toy_keys(sites),
        store=MemoryStore(),
        coordinator_key=coordinator_key,
        catalogue=catalogue,
        policy=lambda: rules,
        performance=Performance(device="cpu", threads=1),
        events=EventLog(folder / "events.jsonl"),
        ledger=Ledger(folder / "ledger.sqlite", SystemClock()),
        states=folder / "states",
        starts=folder / "starts",
    )
