from datetime import UTC, datetime
from pathlib import Path

import pytest

from salus.client.config import SiteFolder, init_site
from salus.client.rosters import JobRosters
from salus.common.clock import ManualClock
from salus.common.errors import Refused
from salus.common.kit import read_kit
from salus.common.trust import install_kit
from salus.server.config import init_server
from salus.server.consortium import Consortium

CLOCK = ManualClock(datetime(2026, 11, 1, tzinfo=UTC))


class World:
    """A consortium of three sites; the first one's folder is looked at."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.consortium = Consortium.create(folder / "consortium", "Test", CLOCK)
        self.consortium.add(init_server(folder / "server", "C", "https://127.0.0.1:8443", "127.0.0.1"))
        for number in (1, 2, 3):
            self.consortium.add(init_site(folder / f"site-{number}", f"Site {number}"))
        self.first = self.join()

    def join(self) -> str:
        """Issue and install a new roster; return its hash."""
        kits = self.consortium.issue(self.folder / "kits", days=30)
        install_kit(self.folder / "site-1", read_kit(kits[1]), CLOCK)
        return SiteFolder.open(self.folder / "site-1", CLOCK).trust.digest

    def rosters(self, key: bytes | None = None) -> JobRosters:
        """Return what a daemon would have after a restart."""
        opened = SiteFolder.open(self.folder / "site-1", CLOCK)
        return JobRosters(self.folder / "rosters.sqlite", opened.trust, key or opened.identity.public_key)


def test_a_job_goes_on_over_the_roster_it_began_with_and_new_ones_use_the_newest(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert set(world.rosters().keys("job", world.first)) == {1, 2, 3}
    world.consortium.remove("2")
    world.consortium.add(init_site(tmp_path / "site-4", "Site 4"))
    second = world.join()
    keys = world.rosters().keys("job", world.first)
    assert set(keys) == {1, 2, 3}, "a session is always over the whole roster of its job"
    assert world.rosters().removed(keys) == {2}
    assert set(world.rosters().keys("next", second)) == {1, 3, 4}


def test_a_new_job_over_a_replaced_roster_is_refused(tmp_path: Path) -> None:
    """Otherwise a coordinator could go on naming the list in which a removed member still is."""
    world = World(tmp_path)
    world.consortium.remove("2")
    world.join()
    with pytest.raises(Refused, match="coordinator has roster 1, this site 2"):
        world.rosters().keys("job", world.first)


def test_a_kit_that_is_installed_while_the_daemon_runs_is_used_at_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    running = world.rosters()
    assert set(running.keys("job", world.first)) == {1, 2, 3}
    world.consortium.remove("2")
    second = world.join()
    assert set(running.keys("next", second)) == {1, 3}
    with pytest.raises(Refused, match="coordinator has roster 1, this site 2"):
        running.keys("another", world.first)


def test_the_roster_of_a_running_job_cannot_be_changed(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.rosters().keys("job", world.first)
    world.consortium.remove("2")
    second = world.join()
    with pytest.raises(Refused, match="began at this site with another roster"):
        world.rosters().keys("job", second)


def test_an_unknown_roster_is_refused_with_what_to_install(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(Refused, match=r"not installed at this site, which has roster 1.*newest kit"):
        world.rosters().keys("job", "0" * 64)
    with pytest.raises(Refused, match="not installed"):
        world.rosters().keys("job", "")


def test_a_site_with_new_keys_waits_for_the_next_job(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.rosters().keys("job", world.first)
    with pytest.raises(Refused, match="not on roster 1"):
        world.rosters(b"k" * 32).keys("job", world.first)
