"""What a site costs the coordinator: CPU, seconds and memory of one masked sum over 5, 30 and 100 sites.

A site is a real one as far as the coordinator can see, without data and training, many to a process; see `scale_sites.py`.
The coordinator is a process of its own that does everything a round does: link, attempts, masking, transcript, events, except
for applying the model. Round trips are made by a relay on loopback (`relay.py`) through which all connections go.
"""

import contextlib
import multiprocessing
import statistics
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from salus.simulations.benchmarks.environment import describe_machine, versions
from salus.simulations.benchmarks.relay import Relay
from salus.simulations.benchmarks.scale_sites import run_coordinator, run_sites
from salus.simulations.trial import Trial, empty

SITES = (5, 30, 100)
TINY = 1_000
PARAMETERS = 11_173_962  # a ResNet-18
SUMS = 5
QUICK_SITES = (5,)
QUICK_PARAMETERS = 500_000
SITE_PROCESSES = 2
ROUND_TRIPS_MS = (100, 300)


class _Coordinator:
    def __init__(self, pipe: Connection, relay: Relay) -> None:
        self._pipe, self._relay = pipe, relay

    def sums(self, parameters: int, count: int, round_trip_ms: float = 0.0) -> tuple[list[float], float, float]:
        """Return the seconds of each sum, the CPU seconds of all, and the coordinator's peak memory in MiB so far."""
        self._relay.round_trip_s = round_trip_ms / 1000
        self._pipe.send((parameters, count))
        seconds, cpu_s, peak_mb = self._pipe.recv()
        return seconds, cpu_s, peak_mb


@contextlib.contextmanager
def _consortium(sites: int) -> Iterator[_Coordinator]:
    """Start a coordinator and this many sites, and end them all."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="salus-bench-") as temporary:
        folder = Path(temporary) / "trial"
        empty(folder)
        trial = Trial(folder, [f"Site {number}" for number in range(1, sites + 1)], policy="")
        pipe, theirs = spawn.Pipe()
        processes = [spawn.Process(target=run_coordinator, args=(trial.coordinator, theirs), daemon=True)]
        with Relay(trial.port) as relay:
            try:
                processes[0].start()
                theirs.close()
                pipe.recv()
                for first in range(SITE_PROCESSES):
                    folders = trial.sites[first::SITE_PROCESSES]
                    processes.append(spawn.Process(target=run_sites, args=(folders, relay.port), daemon=True))
                    processes[-1].start()
                yield _Coordinator(pipe, relay)
            finally:
                for process in processes:
                    process.kill()
                    process.join()


def _tiny(sites: int) -> dict[str, float]:
    with _consortium(sites) as coordinator:
        coordinator.sums(TINY, 1)  # connections are open and code is loaded
        seconds, cpu_s, _ = coordinator.sums(TINY, SUMS)
        measured = {
            "coordinator_cpu_ms_per_site_and_sum": round(1000 * cpu_s / (sites * SUMS), 2),
            "round_s": round(statistics.median(seconds), 2),
        }
        for milliseconds in ROUND_TRIPS_MS:
            seconds, _, _ = coordinator.sums(TINY, SUMS, milliseconds)
            measured[f"round_s_rtt_{milliseconds}ms"] = round(statistics.median(seconds), 2)
    return measured


def _large(sites: int, parameters: int) -> dict[str, float]:
    with _consortium(sites) as coordinator:
        _, _, before_mb = coordinator.sums(TINY, 1)
        seconds, cpu_s, peak_mb = coordinator.sums(parameters, 1)
        return {
            "peak_rss_mb": round(peak_mb, 1),
            "peak_rss_mb_tiny": round(before_mb, 1),
            "round_s_large": round(seconds[0], 1),
            "coordinator_cpu_ms_per_site_and_sum_large": round(1000 * cpu_s / sites, 1),
        }


def run(*, quick: bool = False, parameters: int = 0, sites: int = 0) -> dict[str, Any]:
    """Return the benchmark's JSON object; lists are in the order of ``sites``.

    Args:
        quick: 5 sites and a small vector only.
        parameters: length of the large vector; 0 for that of a ResNet-18.
        sites: only this number of sites; 0 for all three.
    """
    numbers = (sites,) if sites else QUICK_SITES if quick else SITES
    length = parameters or (QUICK_PARAMETERS if quick else PARAMETERS)
    rows = [{**_tiny(number), **_large(number, length)} for number in numbers]
    return {
        "benchmark": "scale",
        "sites": list(numbers),
        **{name: [row[name] for row in rows] for name in rows[0]},
        "tiny_parameters": TINY,
        "parameters": length,
        "note": "a site: own keys, TLS connection and masking session, no data; many to a process; delays by a relay",
        "machine": describe_machine(),
        "versions": versions("flwr", "cryptography", "uvicorn"),
    }
