"""One round of Flower's own SecAgg+ in Flower's Ray simulation, measured from outside; only if Ray is installed.

Run as ``python -m salus.simulations.benchmarks.flower_secagg SITES PARAMETERS``; prints wall and CPU seconds as JSON. CPU is
that of this process and all its children, including Ray's start; the figure for a tiny vector shows that overhead.
"""

import json
import subprocess
import sys
import threading
import time
from importlib.util import find_spec

import psutil

SAMPLE_S = 0.25
TIMEOUT_S = 600
TINY = 1000


def measure(sites: int, parameters: int) -> tuple[float, float] | None:
    """Return CPU seconds for vectors of this length and for tiny ones, or None without Ray."""
    if find_spec("ray") is None:
        return None
    figures = []
    for length in (parameters, TINY):
        command = [sys.executable, "-m", "salus.simulations.benchmarks.flower_secagg", str(sites), str(length)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
        figures.append(float(json.loads(done.stdout.strip().splitlines()[-1])["cpu_s"]))
    return figures[0], figures[1]


class _Cpu:
    """The largest CPU time seen of this process and its living children."""

    def __init__(self) -> None:
        self.seconds = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        me = psutil.Process()
        while True:
            total = 0.0
            for process in [me, *me.children(recursive=True)]:
                try:
                    times = process.cpu_times()
                except psutil.Error:
                    continue
                total += times.user + times.system
            self.seconds = max(self.seconds, total)
            time.sleep(SAMPLE_S)


def main(sites: int, parameters: int) -> None:
    """Run the round; Flower's modules are imported here, because they start Ray's machinery."""
    import numpy as np
    from flwr.app import Context
    from flwr.client.mod import secaggplus_mod
    from flwr.clientapp import ClientApp
    from flwr.compat.client.numpy_client import NumPyClient
    from flwr.compat.common.parameter import ndarrays_to_parameters
    from flwr.server.compat.legacy_context import LegacyContext
    from flwr.server.server_config import ServerConfig
    from flwr.server.strategy import FedAvg
    from flwr.server.workflow.default_workflows import DefaultWorkflow
    from flwr.server.workflow.secure_aggregation.secaggplus_workflow import SecAggPlusWorkflow
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    class Constant(NumPyClient):
        def fit(self, parameters_: object, config: object) -> tuple[list[object], int, dict[str, object]]:  # type: ignore[override]
            return [np.full(parameters, 1e-4, np.float32)], 1, {}

    cpu, walls = _Cpu(), []
    server = ServerApp()

    @server.main()
    def run(grid: Grid, context: Context) -> None:
        strategy = FedAvg(
            fraction_evaluate=0.0,
            min_fit_clients=sites,
            min_available_clients=sites,
            initial_parameters=ndarrays_to_parameters([np.zeros(parameters, np.float32)]),
        )
        legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=1), strategy=strategy)
        started = time.monotonic()
        DefaultWorkflow(fit_workflow=SecAggPlusWorkflow(sites, sites // 2 + 1))(grid, legacy)
        walls.append(time.monotonic() - started)

    app = ClientApp(client_fn=lambda context: Constant().to_client(), mods=[secaggplus_mod])
    run_simulation(server, app, sites, backend_config={"client_resources": {"num_cpus": psutil.cpu_count() or 1}})
    sys.stdout.write(json.dumps({"wall_s": walls[0], "cpu_s": cpu.seconds}) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
