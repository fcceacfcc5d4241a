"""`salus bench dp`: every network of the registry has a workload, and the figures are those of the processes."""

import os
import threading
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import pytest

from salus.common.errors import ConfigError
from salus.common.models import MODELS
from salus.common.tasks import make_task
from salus.simulations.benchmarks import dp
from salus.simulations.benchmarks.workloads import WORKLOADS, task_settings, workload


def test_every_network_has_a_workload_under_its_own_name() -> None:
    known = set(MODELS.names())
    missing = known - set(WORKLOADS)
    assert not missing, "add an entry to simulations/benchmarks/workloads.py"
    assert {entry.model for entry in WORKLOADS.values()} == known
    assert all(entry.model == name for name, entry in WORKLOADS.items() if name in known)


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_a_workload_is_a_valid_task_with_a_step_that_reads_data(name: str) -> None:
    entry = WORKLOADS[name]
    task = make_task(task_settings(entry))
    assert any(step.data for step in task.steps)
    assert entry.items > 1


def test_only_the_parameters_of_the_measured_step_are_trained() -> None:
    model, task, step, batch = workload("cnn")
    assert len(task.losses(model, batch, step)) == WORKLOADS["cnn"].items
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_unknown_network_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="cnn"):
        dp.run(net="nothing")


class Threads:
    """In place of processes, which would import everything again."""

    Pipe = staticmethod(get_context("spawn").Pipe)

    @staticmethod
    def Process(target: Any, args: Any, daemon: bool) -> threading.Thread:
        pipe, *others = args
        own = Connection(os.dup(pipe.fileno()))  # the benchmark closes its copy, as it would with a process
        return threading.Thread(target=target, args=(own, *others), daemon=daemon)


def test_all_networks_are_measured_and_one_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def kind(name: str, fails: bool = False) -> Any:
        def step() -> None:
            calls.append(name)
            if fails:
                raise RuntimeError

        return lambda *_: step

    monkeypatch.setattr(dp.multiprocessing, "get_context", lambda _: Threads)
    monkeypatch.setattr(dp, "KINDS", {"floor": kind("floor"), "ours": kind("ours"), "peer": kind("peer", fails=True)})
    monkeypatch.setattr(dp, "WORKLOADS", {"cnn": WORKLOADS["cnn"], "nothing": WORKLOADS["cnn"]})
    found = dp.run(every=True)
    first, second = found["nets"]
    assert first["net"] == "cnn"
    assert first["peer_error"] == "RuntimeError"
    assert first["peer_over_floor"] is None
    assert first["ours_over_floor"] > 0
    assert calls.count("ours") == calls.count("floor") == dp.WARM_UP + dp.REPEATS_OF_ALL
    assert calls.count("peer") == 1
    assert second["net"] == "nothing"
    assert "ConfigError" in second["error"]
