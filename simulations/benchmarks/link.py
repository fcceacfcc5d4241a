"""The link: one round trip to three site daemons over mutual TLS on loopback, compared with stock Flower daemons in the same run.

Ours is measured at the coordinator: requests are pushed into the grid of a real coordinator process and replies pulled from
it, with sites in separate processes. The reply echoes the request's bytes, changed so that it differs per site.
"""

import functools
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from salus.client.config import SiteFolder
from salus.client.link import FleetLink
from salus.common.clock import SystemClock
from salus.common.packets import Reply, Request, pack, unpack_request
from salus.server.config import ServerFolder
from salus.server.federation import GridFederation
from salus.server.link import Link
from salus.server.listen import listen_tcp
from salus.simulations.benchmarks.environment import cpu_seconds, describe_machine, peak_rss_mb, versions
from salus.simulations.benchmarks.flower_stock import measure_stock_flower
from salus.simulations.trial import Trial, empty

SITES = 3
SMALL_BYTES = 1024
LARGE_BYTES = 44_000_000
SMALL_REPETITIONS = 20
LARGE_REPETITIONS = 3
TIMEOUT_S = 120.0


def echo(site: int) -> ClientApp:
    """Return an app that sends back its request, marked with the site so that all replies differ."""
    app = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        _, blob = unpack_request(message.content)
        # Every chunk of the reply must differ between sites, or a store addressed by content would keep only one.
        reply = blob.translate(bytes((value + site) % 256 for value in range(256)))
        return Message(pack(Reply(kind="ok", site=site), reply), reply_to=message)

    app.query("hello")(handle)
    return app


def serve_site(folder: Path) -> None:
    """Run an echo site until killed."""
    opened = SiteFolder.open(folder, SystemClock())
    app = echo(opened.site_id)
    with FleetLink(opened.roster.coordinator.url, opened.tls(), opened.node_key) as link:
        context = Context(0, link.activate(), {}, RecordDict(), {})
        while True:
            message = link.receive()
            if message is not None:
                link.send(app(message, context))


def serve_coordinator(folder: Path, pipe: Connection) -> None:
    """Run a coordinator that measures on request: ``(bytes, repetitions)`` in, seconds out."""
    opened = ServerFolder.open(folder, SystemClock())
    link = Link(opened.node_keys())
    listener = listen_tcp(link.app, opened.config.listen, opened.config.port, opened.tls())
    grid = link.begin_run()
    federation = GridFederation(grid, link.directory)
    pipe.send("ready")
    while (order := pipe.recv()) is not None:
        while len(link.directory()) < SITES:
            time.sleep(0.05)
        pipe.send([_round_trip(federation, order[0]) for _ in range(order[1])])
    grid.close()
    listener.close()


def _round_trip(federation: GridFederation, size: int) -> float:
    payload = time.monotonic_ns().to_bytes(8, "big") * (size // 8)
    request = Request(kind="hello")
    started = time.monotonic()
    answered = 0
    for _, reply, blob in federation.exchange(dict.fromkeys(range(1, SITES + 1), (request, payload)), TIMEOUT_S):
        assert isinstance(reply, Reply)  # Safe because an error would mean that there is nothing to measure.
        assert len(blob) == len(payload)
        answered += 1
    assert answered == SITES
    return time.monotonic() - started


def measure_ours(large_repetitions: int) -> dict[str, float]:
    """Return our round-trip times, CPU seconds and peak memories."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="salus-bench-") as temporary:
        folder = Path(temporary) / "trial"
        empty(folder)
        trial = Trial(folder, [f"Site {n}" for n in range(SITES)], policy="")
        pipe, theirs = spawn.Pipe()
        coordinator = spawn.Process(target=serve_coordinator, args=(trial.coordinator, theirs), daemon=True)
        coordinator.start()
        pipe.recv()
        sites = [spawn.Process(target=serve_site, args=(site,), daemon=True) for site in trial.sites]
        for process in sites:
            process.start()
        try:
            ask: Callable[[int, int], list[float]] = functools.partial(_ask, pipe)
            ask(SMALL_BYTES, 2)  # warm-up: connections are open and code is loaded
            small = ask(SMALL_BYTES, SMALL_REPETITIONS)
            large = ask(LARGE_BYTES, large_repetitions)
            processes = [process.pid for process in [coordinator, *sites] if process.pid is not None]
            return {
                "ours_wall_s": statistics.median(small),
                "ours_44mb_wall_s": statistics.median(large),
                "ours_cpu_s": cpu_seconds(processes),
                "ours_coordinator_peak_mb": peak_rss_mb(processes[0]),
                "ours_site_peak_mb": max(peak_rss_mb(process) for process in processes[1:]),
            }
        finally:
            for process in [coordinator, *sites]:
                process.kill()
                process.join()


def _ask(pipe: Connection, size: int, repetitions: int) -> list[float]:
    pipe.send((size, repetitions))
    return [float(value) for value in pipe.recv()]


def run(*, quick: bool = False) -> dict[str, Any]:
    """Return the benchmark's JSON object; `quick` leaves the peer out."""
    ours = measure_ours(1 if quick else LARGE_REPETITIONS)
    peer = (
        None
        if quick
        else measure_stock_flower(sites=SITES, large_bytes=LARGE_BYTES, large_repetitions=LARGE_REPETITIONS)
    )
    return {
        "benchmark": "link",
        **{name: round(value, 4) for name, value in ours.items()},
        "peer_wall_s": peer and round(peer.round_trip_1kb_s, 4),
        "peer_44mb_wall_s": peer and peer.round_trip_large_s,
        "peer_cpu_s": peer and round(peer.cpu_s, 2),
        "peer_superlink_peak_mb": peer and round(peer.superlink_peak_rss_mb, 1),
        "floor_wall_s": None,
        "times_faster_1kb": peer and round(peer.round_trip_1kb_s / ours["ours_wall_s"], 1),
        "note": "peer: stock Flower daemons with their default polling; 1 KB and 44 MB each way, to three sites",
        "machine": describe_machine(),
        "versions": versions("flwr", "cryptography", "uvicorn"),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(quick="--quick" in sys.argv), indent=1) + "\n")
