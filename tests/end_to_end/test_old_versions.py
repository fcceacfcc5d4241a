"""Upgrade without lockstep: the link of the last version, as it was, against the present one, in both directions."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flwr.app import Message
from tests.old_version import FILES, THERE, old
from tests.processes import BACKSTOP_S

from salus.client import link as new_client
from salus.client.config import SiteFolder
from salus.common import kit as new_kit
from salus.common import packets as new_packets
from salus.common.clock import SystemClock
from salus.common.errors import ConfigError, LinkError
from salus.common.roster import roster_hash
from salus.server import federation as new_federation
from salus.server import link as new_server
from salus.server.config import ServerFolder
from salus.server.listen import listen_tcp
from salus.simulations.trial import Trial

CLOCK = SystemClock()


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return Trial(tmp_path_factory.mktemp("trial"), ["One", "Two"], policy="")


@contextlib.contextmanager
def coordinator(trial: Trial, link: ModuleType) -> Iterator[Any]:
    """Run a coordinator's link; yields it with its open run."""
    server = ServerFolder.open(trial.coordinator, CLOCK)
    opened = link.Link(server.node_keys())
    listener = listen_tcp(opened.app, "127.0.0.1", trial.port, server.tls())
    grid = opened.begin_run()
    try:
        yield opened, grid
    finally:
        grid.close()
        listener.close()


def answer(link: Any, site: int, packets: ModuleType) -> threading.Thread:
    """Answer one request with its own bytes, each increased by the site's number."""

    def loop() -> None:
        message = None
        while message is None:
            message = link.receive()
        _, blob = packets.unpack_request(message.content)
        reply = packets.pack(packets.Reply(kind="ok", site=site), bytes((value + site) % 256 for value in blob))
        link.send(Message(reply, reply_to=message))

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    return thread


def connect(trial: Trial, number: int, client: ModuleType) -> Any:
    site = SiteFolder.open(trial.sites[number - 1], CLOCK)
    return client.FleetLink(f"https://127.0.0.1:{trial.port}", site.tls(), site.node_key)


def asked(opened: Any, grid: Any, federation: ModuleType, packets: ModuleType, blob: bytes) -> dict[int, bytes]:
    """Send a request to both sites, and return their replies."""
    requests = {site: (packets.Request(kind="hello"), blob) for site in (1, 2)}
    replies = federation.GridFederation(grid, opened.directory).exchange(requests, BACKSTOP_S)
    return {site: found for site, reply, found in replies if getattr(reply, "kind", "") == "ok"}


@pytest.mark.parametrize("size", [0, 3, 6_000_000])
@pytest.mark.parametrize("which", ["old site", "old coordinator"])
def test_requests_and_replies_pass_between_old_and_new(trial: Trial, which: str, size: int) -> None:
    """With an old coordinator all sites are new; with a new one, the first site is old and the second is new."""
    sides = old("server.link"), old("server.federation"), old("common.packets")
    if which == "old site":
        sides = new_server, new_federation, new_packets
    server, federation, packets = sides
    first = old("client.link") if which == "old site" else new_client
    first_packets = old("common.packets") if which == "old site" else new_packets
    blob = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with (
        coordinator(trial, server) as (opened, grid),
        connect(trial, 1, first) as one,
        connect(trial, 2, new_client) as two,
    ):
        assert {one.activate(), two.activate()} == set(opened.directory().values())
        threads = [answer(one, 1, first_packets), answer(two, 2, new_packets)]
        replies = asked(opened, grid, federation, packets, blob)
        assert replies == {site: bytes((value + site) % 256 for value in blob) for site in (1, 2)}
        one.heartbeat()
        two.heartbeat()
        for thread in threads:
            thread.join()


def test_a_site_that_is_upgraded_while_it_is_away_continues_in_the_new_version(trial: Trial) -> None:
    with coordinator(trial, new_server) as (opened, _):
        with connect(trial, 1, old("client.link")) as before:
            node = before.activate()
        with connect(trial, 1, new_client) as after:
            assert after.activate() == node
            assert after.protocol == 2
            assert set(opened.directory()) == {1}


def test_a_coordinator_that_is_upgraded_is_spoken_to_in_the_new_version_at_the_next_connection(trial: Trial) -> None:
    with connect(trial, 1, new_client) as site:
        with coordinator(trial, old("server.link")):
            site.activate()
            assert site.protocol == 1
        with coordinator(trial, new_server):
            with pytest.raises(LinkError):
                site.heartbeat()
            site.activate()
            assert site.protocol == 2


def test_an_old_site_reads_what_the_present_consortium_issues_and_an_old_coordinator_says_that_it_is_too_old(
    trial: Trial,
) -> None:
    path = trial.sites[0] / "trust" / "kit.json"
    before = old("common.kit").read_kit(path)
    roster = old("common.roster").read_roster(before.roster, bytes.fromhex(before.consortium_key))
    assert (roster.serial, len(roster.sites)) == (1, 2)
    assert old("common.roster").roster_hash(before.roster) == roster_hash(new_kit.read_kit(path).roster)
    with pytest.raises(ConfigError, match="too old"):
        old("common.kit").read_kit(trial.coordinator / "trust" / "kit.json")


def test_the_old_files_are_those_of_the_version_before() -> None:
    """Their protocol is 1, and nothing of the present link is used by them."""
    assert old("common.versions").PROTOCOL == 1
    assert old("client.link").PROTOCOL == 1
    assert Path(str(old("server.link").__spec__.origin)).is_relative_to(FILES)
    assert {"client.link", "server.link", "server.link_auth", "common.packets"} <= set(THERE)
    assert old("server.link").SignedRequests.__module__ == "salus_v1.server.link_auth"
