"""The accuracy cost of privacy: PneumoniaMNIST, 8 sites, without noise, with local and with distributed noise, compared with
central DP-SGD over the pooled data at the same epsilon; a table and a plot.

All train the same network. Those with noise take the same number of steps at the same sampling rate; no learning rate was
tuned per epsilon. The one without noise uses the optimiser of the sample job (`simulations/jobs/pneumonia.toml`), because
clipped and plain steps need different optimisers.
"""

import tempfile
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import numpy as np
import torch

from salus.client.data.preparing import Item, Preparer
from salus.client.data.sources.settings import SourceOptions
from salus.client.data.tensors import TensorSet
from salus.client.performance import Performance
from salus.client.private_training import PrivateTrainer
from salus.client.training import Trainer
from salus.common.declaration import target_of
from salus.common.errors import ConfigError
from salus.common.job import Job, parse_job
from salus.common.models import build_model
from salus.common.strategies import strategy_of
from salus.common.strategies.base import Mean
from salus.common.tasks import make_task
from salus.common.vectors import layout_of, read_parameters
from salus.privacy.dp.accounting import Release, solve_noise
from salus.privacy.dp.gaussian import gaussian
from salus.privacy.dp.plan import Plan
from salus.privacy.randomness import Stream
from salus.simulations.benchmarks.environment import describe_machine, versions
from salus.simulations.simulate import simulate
from salus.simulations.testing import split_evaluator
from salus.simulations.virtual import make_hospitals, open_catalogue

SITES, PATIENTS, RATE, STEPS = 8, 4708, 0.054, 300
LEARNING_RATE, MOMENTUM = 0.3, 0.9
EPSILONS = (1.0, 8.0)
JOB = """
[job]
name = "privacy"
rounds = {rounds}
min_sites = 5
seed = {seed}
[task]
kind = "classification"
model = "cnn"
dataset = "chest"
classes = ["normal", "pneumonia"]
shape = [28, 28]
[training]
batch_size = {batch_size}
{learning_rate}
[aggregation]
{strategy}
[privacy]
noise = "{noise}"
"""
STRATEGY = f"""
strategy = "fedavgm"
server_learning_rate = {LEARNING_RATE}
server_momentum = {MOMENTUM}
server_decay = "linear"
"""
PRIVATE = """
epsilon = {epsilon}
delta = {delta}
sampling_rate = {rate}
patients_per_site = {per_site}
spare_rounds = 0.0
evaluation_share = 0.0
"""


def job_of(mode: str, epsilon: float, seed: int, steps: int) -> Job:
    """Return the job for one cell of the table."""
    noised = mode != "none"
    text = JOB.format(
        rounds=steps if noised else max(1, steps // 15),
        learning_rate="" if noised else "learning_rate = 2e-3",
        batch_size=64 if noised else 32,
        strategy=STRATEGY if noised else 'strategy = "fedavg"',
        seed=seed,
        noise={"pooled": "local", "none": "none"}.get(mode, mode),
    )
    if noised:
        per_site = PATIENTS if mode == "pooled" else round(PATIENTS / SITES)
        text += PRIVATE.format(epsilon=epsilon, delta=1 / PATIENTS, rate=RATE, per_site=per_site)
    return parse_job(text)


def federated_auc(mode: str, epsilon: float, seed: int, steps: int, data: Path) -> float:
    """Return the test AUC of a simulated federation."""
    with tempfile.TemporaryDirectory() as folder:
        result = simulate(
            job_of(mode, epsilon, seed, steps),
            data,
            sites=SITES,
            partition="iid",
            seed=seed,
            folder=Path(folder),
            options=SourceOptions(),
            performance=Performance(device="cpu", threads=1),
        )
    return result.metrics["auc"]


def pooled_auc(epsilon: float, seed: int, steps: int, data: Path, noises: int = 1) -> float:
    """Return the test AUC of central DP-SGD over all training patients, in one process.

    Args:
        noises: how many sites add the whole noise. With `SITES`, a run has the distribution of local noise with one step per
            round: the sites' samples together are one sample of all patients, and their noises are summed.
    """
    job = job_of("pooled", epsilon, seed, steps)
    release = Release(mechanism="gaussian", noise_multiplier=1.0, sampling_rate=RATE, count=steps)
    noise = solve_noise(epsilon, job.privacy.delta, lambda z: [release.model_copy(update={"noise_multiplier": z})])
    plan = Plan("distributed", noise, 0.0, RATE, 1, steps, epsilon, job.privacy.delta)
    task = make_task(job.task)
    with tempfile.TemporaryDirectory() as folder:
        make_hospitals(job, data, SourceOptions(), sites=1, partition="iid", seed=seed, folder=Path(folder))
        catalogue = open_catalogue(Path(folder), 1)
        items = [
            Item(image, target)
            for image in catalogue.images(job.task.dataset)
            if image.split == "train" and (target := target_of(image.label, job.task.classes)) is not None
        ]
        pool = TensorSet(items, Preparer(catalogue.source(job.task.dataset), task), 2**30)
        evaluate = split_evaluator(job, Path(folder), Performance(device="cpu"))
        model = build_model(job.task, seed)
        trainer = Trainer(model, layout_of(model), task, job, Performance(device="cpu"))
        private = PrivateTrainer(trainer, plan, np.random.default_rng(seed).bytes)
        strategy = strategy_of(job)
        state, parameters = strategy.init(trainer.layout.size), read_parameters(model, trainer.layout)
        stream = Stream(np.random.default_rng([seed, 1]).bytes)
        for _ in range(steps):
            drawn = gaussian(trainer.layout.size, noise * noises**0.5, stream).numpy()
            total = private.direction(parameters, pool) + drawn
            state, parameters = strategy.apply(state, parameters, Mean(total / (RATE * PATIENTS)))
        assert evaluate is not None  # Safe because the data have a test split.
        return evaluate(parameters)["auc"]


def run(*, quick: bool = False, data: Path | None = None) -> dict[str, Any]:
    """Return every AUC of the table, by mode and epsilon; `quick` makes it tiny, for tests only.

    Args:
        data: PneumoniaMNIST, its folder or its file.
    """
    if data is None or not data.exists():
        raise ConfigError(
            "This benchmark needs PneumoniaMNIST.",
            remedy="Give its folder or file with --data; README says where to get it.",
        )
    steps, seeds = (20, (0,)) if quick else (STEPS, (0, 1, 2))
    torch.set_num_threads(2)
    cells: dict[str, list[float]] = {"none": [federated_auc("none", 0.0, seed, steps, data) for seed in seeds]}
    for epsilon in EPSILONS[:1] if quick else EPSILONS:
        cells[f"pooled_{epsilon:g}"] = [pooled_auc(epsilon, seed, steps, data) for seed in seeds]
        for mode in ("distributed", "local"):
            cells[f"{mode}_{epsilon:g}"] = [federated_auc(mode, epsilon, seed, steps, data) for seed in seeds]
    return {
        **{f"ours_auc_{name}": [round(value, 4) for value in values] for name, values in cells.items()},
        **{f"ours_mean_{name}": round(mean(values), 4) for name, values in cells.items()},
        **{f"ours_spread_{name}": round(pstdev(values), 4) for name, values in cells.items()},
        "benchmark": "privacy",
        "machine": describe_machine(),
        "versions": versions("torch", "opacus", "dp-accounting"),
    }


def plot(measured: dict[str, Any]) -> str:
    """Return the table as an SVG picture: AUC by mode and epsilon, with a dot for every seed and a bar for the mean."""
    width, height, margin, low, high = 640, 300, 50, 0.75, 0.97
    names = [name.removeprefix("ours_auc_") for name in measured if name.startswith("ours_auc_")]
    colours = {"none": "#555", "pooled": "#246", "distributed": "#2a7", "local": "#c60"}

    def y(value: float) -> float:
        return height - margin - (height - 2 * margin) * (max(low, value) - low) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<title>Test AUC by privacy mode</title><rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for tick in (0.75, 0.80, 0.85, 0.90, 0.95):
        parts.append(f'<line x1="{margin}" x2="{width - 10}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{margin - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.2f}</text>')
    step = (width - margin - 10) / len(names)
    for place, name in enumerate(names):
        mode, _, epsilon = name.partition("_")
        x = margin + step * (place + 0.5)
        level = y(measured[f"ours_mean_{name}"])
        parts.append(
            f'<rect x="{x - step / 3:.1f}" y="{level:.1f}" width="{step / 1.5:.1f}" height="{height - margin - level:.1f}" '
            f'fill="{colours[mode]}" opacity="0.35"/>'
        )
        parts += [
            f'<circle cx="{x:.1f}" cy="{y(value):.1f}" r="3.5" fill="{colours[mode]}"/>'
            for value in measured[f"ours_auc_{name}"]
        ]
        parts.append(f'<text x="{x:.1f}" y="{height - margin + 16}" text-anchor="middle">{mode}</text>')
        label = f"ε = {epsilon}" if epsilon else "no noise"
        parts.append(f'<text x="{x:.1f}" y="{height - margin + 30}" text-anchor="middle">{label}</text>')
    parts.append(
        f'<text x="{margin}" y="22" font-size="13">PneumoniaMNIST, 8 sites, 300 noised steps: test AUC</text></svg>'
    )
    return "".join(parts)
