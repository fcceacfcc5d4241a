"""Proxies between a site and the coordinator: those that tunnel are used, one that opens TLS gets nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli import salus
from tests.faults.proxies import INSPECTION, Proxy, inspection, proxy

from salus.client.config import SiteFolder
from salus.client.link import FleetLink
from salus.common.clock import SystemClock
from salus.common.errors import LinkError
from salus.server.config import ServerFolder
from salus.server.link import Link
from salus.server.listen import listen_tcp
from salus.simulations.trial import Trial

CLOCK = SystemClock()


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    found = Trial(tmp_path_factory.mktemp("trial"), ["One", "Two"], policy="")
    server = ServerFolder.open(found.coordinator, CLOCK)
    listener = listen_tcp(Link(server.node_keys()).app, "127.0.0.1", found.port, server.tls())
    yield found
    listener.close()


def connect(trial: Trial, monkeypatch: pytest.MonkeyPatch, used: Proxy, password: str = "") -> int:
    """Return the node that a site gets through a proxy."""
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", used.url(password))
    site = SiteFolder.open(trial.sites[0], CLOCK)
    with FleetLink(f"https://127.0.0.1:{trial.port}", site.tls(), site.node_key) as link:
        return link.activate()


@pytest.mark.parametrize("password", ["", "mary:secret"])
def test_a_site_connects_through_a_proxy(trial: Trial, monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    with proxy(password) as used:
        assert connect(trial, monkeypatch, used, password) > 0
        assert set(used.asked) == {f"127.0.0.1:{trial.port}"}


@pytest.mark.parametrize("given", ["", "mary:wrong"])
def test_a_proxy_that_wants_a_password_is_named_and_the_password_is_not(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    with proxy("mary:secret") as used, pytest.raises(LinkError, match="407: it asks for a user name") as refused:
        connect(trial, monkeypatch, used, given)
    assert "mary:" not in str(refused.value)
    assert "wrong" not in str(refused.value)


def test_a_site_refuses_a_proxy_that_opens_tls_and_the_doctor_says_whose_it_is(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(inspecting=inspection(tmp_path, f"https://127.0.0.1:{trial.port}")) as used:
        with pytest.raises(LinkError, match="not from the consortium's authority") as refused:
            connect(trial, monkeypatch, used)
        assert "salus doctor" in refused.value.remedy
        assert used.read == b"", "the site sent nothing over it, not even its certificate"
        told = salus("doctor", trial.sites[0])
    assert INSPECTION in told.stdout.replace("\n", " ")
    assert used.read == b"", "nor does the doctor"
