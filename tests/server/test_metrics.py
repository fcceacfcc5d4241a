"""Metrics of both daemons: right numbers, fixed labels, and nothing that names anybody."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Message, Receive, Scope, Send

from salus.client.metrics import SiteMetrics
from salus.common.events import Event
from salus.server.metrics import CoordinatorMetrics

AT = datetime(2026, 5, 1, tzinfo=UTC)
PLANT = "St. Mary lungs-0001 /srv/x"


def numbers(text: bytes) -> dict[str, float]:
    return {
        sample.name + "".join(f"/{value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_the_coordinators_numbers_follow_from_its_events_and_its_state(tmp_path: Path) -> None:
    metrics = CoordinatorMetrics(tmp_path, lambda: (2, 5), lambda: ["waiting", "running", "running", PLANT])
    for kind, fields in (
        ("attempt", {"round": 1}),
        ("answered", {"site": 1, "job": PLANT}),
        ("left-out", {"site": 2, "text": PLANT}),
        ("round", {"round": 1, "seconds": {"train": 2.5, "server": 0.5, PLANT: 1.0, "combine": PLANT}}),
        ("round", {"round": 2, "seconds": {"train": 1.5}}),
        ("job-ended", {"status": "failed", "text": PLANT}),
        ("job-ended", {"status": PLANT}),
        (PLANT, {}),
    ):
        metrics.event(Event(AT, kind, fields))  # type: ignore[arg-type]
    found = numbers(metrics.text())
    assert (found["salus_sites_online"], found["salus_sites"]) == (2, 5)
    assert (found["salus_rounds_total"], found["salus_attempts_total"]) == (2, 1)
    assert (found["salus_replies_total"], found["salus_replies_left_out_total"]) == (1, 1)
    assert (found["salus_step_seconds_total/train"], found["salus_step_seconds_total/other"]) == (4.0, 1.0)
    assert (found["salus_jobs_ended_total/failed"], found["salus_jobs_ended_total/other"]) == (1, 1)
    assert (found["salus_jobs/running"], found["salus_jobs/waiting"], found["salus_jobs/other"]) == (2, 1, 1)
    assert found["salus_disk_free_bytes"] > 0
    assert found["process_resident_memory_bytes"] > 0
    assert not any(word in metrics.text().decode() for word in (*PLANT.split(), str(tmp_path)))


def test_bytes_of_bodies_are_counted_in_both_directions(tmp_path: Path) -> None:
    metrics = CoordinatorMetrics(tmp_path, lambda: (0, 0), list)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"12345", "more_body": True})
        await send({"type": "http.response.body", "body": b"67"})

    async def receive() -> Message:
        return {"type": "http.request", "body": b"123"}

    async def send(message: Message) -> None:
        return

    asyncio.run(metrics.counting(app)({"type": "http"}, receive, send))
    found = numbers(metrics.text())
    assert (found["salus_link_bytes_total/received"], found["salus_link_bytes_total/sent"]) == (3, 7)


def test_a_database_that_cannot_be_read_hides_only_its_own_numbers(tmp_path: Path) -> None:
    def gone() -> list[str]:
        raise OSError

    found = numbers(CoordinatorMetrics(tmp_path, lambda: (1, 1), gone).text())
    assert found["salus_sites_online"] == 1
    assert "salus_jobs/running" not in found


def test_a_site_shows_its_connection_and_nothing_of_patients_data_or_jobs(tmp_path: Path) -> None:
    metrics = SiteMetrics(tmp_path)
    for kind in ("connected", "disconnected", "connected", "outdated"):
        metrics.event(Event(AT, kind, {"text": PLANT}))
    quiet = metrics.text()
    for kind in ("trained", "refused", "reserved", "data-trouble", "contributed-nothing", PLANT):
        metrics.event(Event(AT, kind, {"patients": 7, "images": 70, "job": PLANT, "text": PLANT}))
    found, before = numbers(metrics.text()), numbers(quiet)
    assert (found["salus_connected"], found["salus_outdated"], found["salus_connections_lost_total"]) == (0, 1, 2)
    own = {name for name in found if name.startswith("salus_")}
    assert own == {"salus_connected", "salus_outdated", "salus_connections_lost_total", "salus_disk_free_bytes"}
    assert all(found[name] == before[name] for name in own - {"salus_disk_free_bytes"}), "work leaves no trace in them"
