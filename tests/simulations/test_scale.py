"""The benchmark of many sites: the relay passes every byte on, and the figures have the promised form."""

import socket
import threading

import pytest

from salus.simulations.benchmarks.relay import Relay
from salus.simulations.benchmarks.scale import ROUND_TRIPS_MS, run


def test_the_relay_passes_every_byte_on_and_ends_connections_that_end() -> None:
    sent = bytes(range(256)) * 4000
    with socket.create_server(("127.0.0.1", 0)) as server, Relay(server.getsockname()[1]) as relay:
        relay.round_trip_s = 0.002

        def echo() -> None:
            connection, _ = server.accept()
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(data)

        thread = threading.Thread(target=echo, daemon=True)
        thread.start()
        with socket.create_connection(("127.0.0.1", relay.port)) as client:
            threading.Thread(target=client.sendall, args=(sent,), daemon=True).start()
            got = bytearray()
            while len(got) < len(sent):
                got += client.recv(65536)
        thread.join()  # the end of the connection came through, too
    assert bytes(got) == sent


@pytest.mark.slow
def test_the_benchmark_measures_sums_over_real_sites() -> None:
    measured = run(quick=True, parameters=70_000)
    assert measured["sites"] == [5]
    names = ["coordinator_cpu_ms_per_site_and_sum", "round_s", "peak_rss_mb"]
    for name in names + [f"round_s_rtt_{milliseconds}ms" for milliseconds in ROUND_TRIPS_MS]:
        assert len(measured[name]) == 1
        assert measured[name][0] > 0
