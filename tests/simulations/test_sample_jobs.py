"""Every job file in `simulations/jobs` runs one tiny round as it stands, but for the sizes that make it tiny."""

import importlib
from pathlib import Path

import pytest
from tests.tiny import JOBS, Writer, run_tiny, tiny_job

HERE = Path(__file__).parent / "sample_jobs"
WRITERS: dict[str, Writer] = {}
for module in sorted(HERE.glob("*.py")):
    WRITERS |= importlib.import_module(f"tests.simulations.sample_jobs.{module.stem}").JOBS

# Jobs that differ from one of the others by a setting or a network that has tests of its own, or are the largest.
LONG = {
    f"phantom-imbalance-{way}.toml" for way in ("augmented", "balanced", "class-balanced", "focal", "hard", "mixup")
}
LONG |= {f"recognition-{network}.toml" for network in ("convnext", "efficientnet", "inception", "resnet50")}
LONG |= {"start-public.toml", "start-none.toml", "start-full.toml"}  # as pneumonia.toml and pneumonia-private.toml
LONG |= {"hippocampus-private.toml", "phantom-sequence-lstm.toml"}


def test_every_sample_job_is_tried() -> None:
    assert sorted(WRITERS) == sorted(path.name for path in JOBS.glob("*.toml"))
    assert set(WRITERS) >= LONG


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in sorted(WRITERS)]
)
def test_a_sample_job_runs(name: str, tmp_path: Path) -> None:
    tiny = WRITERS[name](tmp_path)
    record = run_tiny(tiny_job(name, tiny), tiny, tmp_path / "run")
    if tiny.metric:
        metrics = record["metrics"]
        assert tiny.metric in metrics
        assert all(isinstance(value, float) for value in metrics.values())
