"""The benefit of harmonisation: five phantom vendors whose detectors differ strongly, one hospital each, before and after.

Statistics and training run one after the other as they would in the network. An image model is evaluated on a test split of
all vendors. A model of nine features, whose ComBat effects are known only at their own sites, is evaluated on the sites'
validation patients.
"""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from salus.client.data.sources.settings import SourceOptions
from salus.client.performance import Performance
from salus.common.events import Event
from salus.common.job import Job, parse_job
from salus.common.sums.features import FEATURES
from salus.simulations.benchmarks.environment import describe_machine, versions
from salus.simulations.phantoms import SHIFTED_HOSPITALS, write_consortium
from salus.simulations.simulate import SimulationResult, simulate

HEAD = '[job]\nname = "harmonisation"\nrounds = {rounds}\nseed = {seed}\nmin_sites = 5\n[privacy]\nnoise = "none"\n'
DATA = '[task]\ndataset = "phantoms"\nclasses = ["healthy", "lesion"]\n'
IMAGES = (
    DATA
    + 'kind = "classification"\nmodel = "cnn"\nshape = [32, 32]\n[training]\nbatch_size = 16\nlearning_rate = 3e-3\n'
)
TABLE = (
    DATA
    + 'kind = "tabular"\nmodel = "logistic"\ncolumns = [{columns}]\n[training]\nbatch_size = 16\nlearning_rate = 0.05\n'
)
ROUNDS = 30
RANGE = "intensity_low = 0.0\nintensity_high = 4095.0\n"
VENDORS = ", ".join(f'"Phantom{letter}"'.upper() for letter in "ABCDE")
STATISTICS: Mapping[str, tuple[int, str]] = {
    "nyul": (1, ""),
    "zscore": (1, f"vendors = [{VENDORS}]\nbins = 1024\n"),
    "combat": (1, ""),
}


def run(*, quick: bool = False) -> dict[str, Any]:
    """Return the AUC of every method over some seeds, and the seconds that its statistics take."""
    seeds = range(1 if quick else 3)
    results: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="salus-bench-") as temporary:
            data = write_consortium(Path(temporary) / "data", SHIFTED_HOSPITALS, seed=seed)
            for name, value, spent in _ways(data, Path(temporary), seed):
                results.setdefault(name, []).append(value)
                seconds.setdefault(name, []).append(spent)
    return {
        "benchmark": "harmonisation",
        **{f"ours_auc_{name}": [round(value, 4) for value in values] for name, values in results.items()},
        "ours_statistics_s": {name: round(max(values), 1) for name, values in seconds.items() if max(values)},
        "machine": describe_machine(),
        "versions": versions("torch"),
    }


def _ways(data: Path, folder: Path, seed: int) -> list[tuple[str, float, float]]:
    """Return name, AUC and seconds of statistics of each method."""
    sections = {name: _harmonise(data, folder, name, seed) for name in STATISTICS}
    plain = f'[[task.transforms]]\nkind = "features"\n{RANGE}'
    ways = [("images_before", IMAGES, "", 0.0)]
    ways += [(f"images_{name}", IMAGES, *sections[name]) for name in ("nyul", "zscore")]
    columns = ", ".join(f'{{name = "{name}", centre = 0.4, scale = 0.2}}' for name in FEATURES)
    ways += [("features_before", TABLE.replace("{columns}", columns), plain, 0.0)]
    ways += [("features_combat", TABLE.replace("{columns}", columns), *sections["combat"])]
    found = []
    for name, task, section, spent in ways:
        job = parse_job(HEAD.format(rounds=ROUNDS, seed=seed) + task + section)
        result, evaluated = _simulated(job, data, folder / name, seed)
        found.append((name, result.metrics["auc"] if name.startswith("images") else evaluated["auc"], spent))
    return found


def _harmonise(data: Path, folder: Path, name: str, seed: int) -> tuple[str, float]:
    """Return the section for a training job from the statistics, and the seconds that they took."""
    rounds, more = STATISTICS[name]
    kind = "quantiles" if name == "zscore" else name
    text = HEAD.format(rounds=rounds, seed=seed) + DATA + f'[statistics]\nkind = "{kind}"\n{RANGE}{more}'
    started = time.monotonic()
    result, _ = _simulated(parse_job(text), data, folder / f"statistics-{name}", seed)
    return result.transforms, time.monotonic() - started


def _simulated(job: Job, data: Path, folder: Path, seed: int) -> tuple[SimulationResult, dict[str, float]]:
    """Run a job with one site per vendor; return its result and the metrics of the final model at the sites."""
    final: dict[str, float] = {}

    def listen(event: Event) -> None:
        metrics = event.fields.get("metrics")
        if event.kind == "evaluated" and isinstance(metrics, dict):
            final.update(metrics)

    result = simulate(
        job,
        data,
        sites=len(SHIFTED_HOSPITALS),
        partition="group",
        seed=seed,
        folder=folder,
        options=SourceOptions(),
        performance=Performance(device="cpu"),
        listener=listen,
    )
    return result, final
