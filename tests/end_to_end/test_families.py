"""Every family of tasks over the same real daemons: sample jobs, made tiny, one after the other."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.divided import register
from tests.simulations.test_sample_jobs import WRITERS
from tests.tiny import run_tiny, tiny_job, tiny_text

from salus.common.events import read_events
from salus.simulations.trial import Trial

# A job and a metric of the sites' validation patients, which for statistics there is none of.
FAMILIES = {
    "phantom-centernet.toml": "ap50_mean",
    "heart-boosting.toml": "",
    "heart-boosting-private.toml": "",
    "heart-least-squares.toml": "",
    "tcga-brca-cox.toml": "",
    "phantom-sequence-gru.toml": "auc",
    "phantom-multi-instance.toml": "auc",
    "fusion-phantom.toml": "auc",
    "phantom-survival.toml": "c_index",
    "pneumonia-vae.toml": "frechet_distance",
    "pneumonia-gan.toml": "frechet_distance",
    "pneumonia-vae-private.toml": "auc_generated",
}
QUICK = "phantom-multi-instance.toml"


@pytest.mark.parametrize(
    ("name", "metric"),
    [pytest.param(*pair, marks=[] if pair[0] == QUICK else pytest.mark.slow) for pair in FAMILIES.items()],
)
def test_a_family_runs_over_daemons(federation: Trial, tmp_path: Path, name: str, metric: str) -> None:
    written = WRITERS[name](tmp_path)
    sites = len(federation.sites)
    # One data set for each job, because in one cohort epoch a data set answers one question.
    change: dict[str, Any] = {**written.change, "task.dataset": name.removesuffix(".toml")}
    if metric:
        # Which patients validate follows from each federation's random keys: by chance it must not be none, or one class only.
        change["training.validation_fraction"] = 0.5
    partition = written.partition if written.sites == sites else "iid"
    tiny = replace(written, sites=sites, partition=partition, change=change)
    job = tiny_job(name, tiny)
    register(federation, job, tiny.data, tiny.options, tmp_path / "divided", sites=sites, partition=partition, seed=0)
    result = federation.wait_for(federation.submit(tiny_text(name, tiny)))
    told = [
        event
        for event in read_events(federation.coordinator / "events.jsonl")
        if event.fields.get("job") == result["job"]
    ]
    assert result["status"] == "finished", (result["reason"], told)
    last = result["rounds"][-1]
    assert last["sites"] == [1, 2, 3, 4, 5]
    if metric:
        evaluated = [event for event in told if event.kind == "evaluated"]
        shown = [read_events(site / "events.jsonl")[-5:] for site in federation.sites]
        assert metric in evaluated[-1].fields["metrics"], (told, shown)  # type: ignore[operator]
    elif not job.privacy.noised:
        simulated = run_tiny(job, tiny, tmp_path / "run")
        assert last["model"] == simulated["model"], "the same sums, to the last bit"
