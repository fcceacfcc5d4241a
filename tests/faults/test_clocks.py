"""Wall clocks that are wrong, or are set while daemons run."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.builders import job_text, write_npz
from tests.faults.clocks import SteppedClock
from tests.processes import Forked

from salus.client.config import open_catalogue
from salus.client.data.sources.settings import SourceOptions
from salus.common.events import read_events
from salus.simulations.trial import Daemon, Trial, empty

POLICY = "allow_unprotected = true\nallow_without_noise = true\n"
HOUR = 3600


@pytest.fixture
def stepped(tmp_path: Path) -> Iterator[tuple[Trial, SteppedClock]]:
    """A federation of three sites; the first one's clock can be stepped."""
    clock = SteppedClock(tmp_path)

    def start(words: Sequence[str], log: Path) -> Daemon:
        return clock.launch(words, log) if log.parent.name == "site-1" else Forked(words, log)

    folder = tmp_path / "t"
    empty(folder)
    trial = Trial(folder, ["One", "Two", "Three"], policy=POLICY, launcher=start)
    for number, site in enumerate(trial.sites, start=1):
        open_catalogue(site).add("toy", "medmnist", write_npz(site / "toy.npz", seed=number), SourceOptions())
    with trial:
        trial.start_all()
        yield trial, clock


def last(site: Path, kind: str) -> str:
    """Return the text of the newest event of a kind."""
    found = [event for event in read_events(site / "events.jsonl") if event.kind == kind]
    return str(found[-1].fields["text"]) if found else ""


def test_a_site_whose_clock_is_set_wrong_is_refused_says_so_and_comes_back(
    stepped: tuple[Trial, SteppedClock],
) -> None:
    trial, clock = stepped
    site = trial.sites[0]
    clock.step(HOUR)
    trial._wait(lambda: "both clocks" in last(site, "disconnected") or None, "the site to be refused", 600)
    job = trial.submit(job_text(rounds=2))
    assert trial.wait_for(job)["status"] == "finished", "the others go on"
    clock.step(0)
    trial.wait_online(3)
    again = trial.wait_for(trial.submit(job_text(rounds=2)))
    assert [record["sites"] for record in again["rounds"]] == [[1, 2, 3]] * 2
