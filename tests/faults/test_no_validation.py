"""A site, or all sites, without a patient to validate with: never an error, never a metric of nothing."""

from pathlib import Path

import pytest
from tests.builders import job_text
from tests.people import OPTIONS, write_people

from salus.client.console_lines import console_line
from salus.client.performance import Performance
from salus.common.events import Event, read_events
from salus.common.job import parse_job
from salus.server.evaluating import NOBODY
from salus.simulations.simulate import simulate


def run(folder: Path, protection: str, fraction: float) -> tuple[list[Event], list[Event], list[dict[str, object]]]:
    """Return the events of the coordinator, of all sites, and the records of the rounds."""
    text = job_text(rounds=1, min_sites=5, protection=protection, training=f"validation_fraction = {fraction}")
    result = simulate(
        parse_job(text), write_people(folder / "data", patients=30), sites=5, partition="iid", seed=1,
        folder=folder / "run", options=OPTIONS, performance=Performance(device="cpu", threads=1),
    )  # fmt: skip
    sites = [event for log in (folder / "run").glob("site-*/events.jsonl") for event in read_events(log)]
    return read_events(folder / "run" / "events.jsonl"), sites, result.rounds


@pytest.mark.parametrize("protection", ["none", "masking"])
def test_without_any_validation_patient_the_job_finishes_and_says_so(tmp_path: Path, protection: str) -> None:
    coordinator, sites, rounds = run(tmp_path, protection, 0.0)
    assert [event.kind for event in sites if event.kind in ("contributed-nothing", "no-data", "refused")] == []
    assert rounds[0]["metrics_before"] == {}
    assert rounds[0]["cohort"]["patients"] > 0  # type: ignore[index]
    assert [event.fields["text"] for event in coordinator if event.kind == "not-evaluated"] == [NOBODY]
    assert not [event for event in coordinator if event.kind == "evaluated"]
    accepted = [event for event in sites if event.kind == "job-accepted"]
    assert len(accepted) == 5
    assert all("no patient validates here" in console_line(event) for event in accepted)


def test_a_site_without_one_by_chance_adds_nothing_to_the_metrics_and_the_others_do(tmp_path: Path) -> None:
    coordinator, sites, rounds = run(tmp_path, "masking", 0.16)
    counts = [event.fields["validation_patients"] for event in sites if event.kind == "job-accepted"]
    assert 0 in counts, "the seed is chosen so"
    assert any(counts)
    told = [console_line(event) for event in sites if event.kind == "job-accepted"]
    assert [bool(line) for line in told] == [count == 0 for count in counts]
    assert [event for event in coordinator if event.kind == "evaluated"]
    assert rounds[0]["metrics_before"]
