"""What a person reads about a job: sentences, one line for each site and reason, ids that can be copied."""

from typing import Any

import pytest
from tests.cli import salus

from salus.common.console import out
from salus.server import admin_client
from salus.server.commands.following import in_words, once, refusal_text, refusals

NAMES = {1: "site 1 (St. Mary)", 3: "site 3 ([red]River[/])"}


def event(number: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"number": number, "kind": kind, "at": "2026-01-02T03:04:05.678+00:00", "fields": fields}


EVENTS = [
    event(1, "started", rounds=3),
    event(2, "attempt", round=1, attempt=0, sites=[1, 3]),
    *(event(2 + n, "left-out", round=n, site=3, text="its policy allows 2 rounds") for n in (1, 2, 3)),
    event(6, "left-out", round=3, site=1, text="it did not answer in time"),
    event(7, "round", round=1, of=3, metrics={"auc": 0.75}),
    event(8, "job-ended", status="failed", text="too few sites"),
]
RESULT = {
    "job": "lesions-with-a-long-name-that-nobody-may-cut-0001", "status": "failed", "reason": "too few sites", "of": 3,
    "rounds": [{"round": 1, "sites": [1, 3], "metrics_before": {"auc": 0.75}}], "absent": [], "model": None, "report": None,
}  # fmt: skip


def test_refusals_are_one_entry_for_each_site_and_reason() -> None:
    found = refusals(EVENTS)
    assert [(entry["site"], entry["rounds"]) for entry in found] == [(3, [1, 2, 3]), (1, [3])]
    assert refusal_text(found[0], NAMES).startswith(
        "Left out of 3 rounds from 1 to 3: site 3 ([red]River[/]): its policy"
    )
    assert refusal_text(found[1], NAMES).startswith("Left out of round 3: site 1 (St. Mary): it did not")


def test_events_read_as_sentences() -> None:
    assert [in_words(e, NAMES) for e in EVENTS[:3]] == [
        "The job started.",
        "Round 1, attempt 1: asked 2 sites.",
        "Round 1: site 3 ([red]River[/]) was left out: its policy allows 2 rounds",
    ]
    assert in_words(EVENTS[6], NAMES) == "Round 1 of 3 is done. auc 0.750"
    busy = [in_words(event(9, "waiting-for-turn", sites=[1], jobs=jobs), NAMES) for jobs in (["other-0001"], [])]
    assert busy[0].startswith("Waiting until sites have finished their step of other-0001: site 1 ")
    assert busy[1].startswith("Waiting until sites have finished what they were asked before: site 1 ")
    assert in_words(event(9, "something-new", text="of a later version"), NAMES) == "something-new: of a later version"


@pytest.fixture
def coordinator(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    posted: list[str] = []

    class Client:
        def __init__(self, folder: object) -> None: ...

        def get(self, path: str, **query: int) -> Any:
            if path == "/status":
                return {"sites": [{"site": 1, "name": "St. Mary"}, {"site": 3, "name": "[red]River[/]"}]}
            return [e for e in EVENTS if e["number"] > query.get("after", 0)] if path.endswith("/events") else RESULT

        def post(self, path: str, body: str = "") -> Any:
            posted.append(path)
            return {"rounds": 1}

    monkeypatch.setattr(admin_client, "AdminClient", Client)
    return posted


def test_show_and_events_say_everything_once_and_nothing_is_cut(
    coordinator: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out, "width", 40)
    shown = salus("job", "show", "c", "x")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("its policy allows") == 1
    assert "[red]River[/]" in shown.stdout.replace("\n", "")
    assert "salus job resume" in shown.stdout
    listed = salus("job", "events", "c", "x")
    assert listed.stdout.count("left out") >= 4 or "left" in listed.stdout
    assert "…" not in shown.stdout + listed.stdout


def test_show_tells_how_good_the_final_model_is_and_breaks_no_path(
    coordinator: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = "coordinator/models/lesions-with-a-long-name-that-nobody-may-cut-0001/round-00003.safetensors"
    monkeypatch.setattr(out, "width", 80)
    monkeypatch.setitem(RESULT, "model", model)
    monkeypatch.setattr(
        "tests.server.test_following.EVENTS", [event(1, "started"), event(2, "evaluated", metrics={"auc": 0.75})]
    )
    shown = salus("job", "show", "c", "x").stdout
    assert f"Model: {model}" in shown
    assert "final auc" in shown
    assert "0.750" in shown
    assert "by subgroup" not in shown


def test_show_has_a_table_of_subgroups(coordinator: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    groups = {"[red]female": {"patients": 12, "metrics": {"auc": 0.75}}, "male": {"patients": 0, "metrics": {}}}
    found = event(2, "evaluated", metrics={"auc": 0.7}, subgroups={"sex": {"hidden": 3, "groups": groups}})
    monkeypatch.setattr("tests.server.test_following.EVENTS", [event(1, "started"), found])
    monkeypatch.setattr(out, "width", 120)
    shown = salus("job", "show", "c", "x").stdout
    assert "Final model by subgroup" in shown
    assert "sex: [red]female" in shown
    assert "Without figures, as nobody is in the group or it is hidden" in shown


def test_a_site_answers_once_in_each_attempt_on_the_screen() -> None:
    answers = [event(n, "answered", round=1, site=site) for n, site in ((2, 1), (3, 3), (4, 1), (5, 3))]
    again = event(6, "attempt", round=1, attempt=1, sites=[1])
    shown = list(once([event(1, "attempt", round=1, attempt=0), *answers, again, answers[0]], NAMES))
    assert [found["number"] for found, _ in shown] == [1, 2, 3, 6, 2]


def test_the_list_of_jobs_breaks_no_id_and_gives_each_reason(
    coordinator: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out, "width", 80)
    row = {"job": "pneumonia-private-of-paediatrics-0001", "status": "failed", "submitted_at": "2026-01-02T03:04:05.6"}
    failed = row | {"reason": "too few sites " * 9, "place": None}
    monkeypatch.setattr(admin_client.AdminClient, "get", lambda self, path: [failed])
    listed = salus("job", "list", "c").stdout
    assert f"│ {row['job']} │ failed │ 2026-01-02 03:04:05 │" in listed
    assert f"{row['job']}: Failed: too few sites too few" in listed


@pytest.mark.parametrize("status", ["aborted", "finished"])
def test_the_list_says_of_a_job_that_has_ended_how_and_not_that_it_waits(
    coordinator: list[str], monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    row = {"job": "tiny-0001", "status": status, "submitted_at": "2026-01-02T03:04:05.6", "place": None}
    monkeypatch.setattr(admin_client.AdminClient, "get", lambda self, path: [row | {"reason": "Its models are gone."}])
    assert f"tiny-0001: {status.capitalize()}: Its models are gone." in salus("job", "list", "c").stdout


def test_the_list_of_jobs_shows_the_place_in_the_queue(coordinator: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"job": "tiny-0002", "status": "waiting", "submitted_at": "2026-01-02T03:04:05.6", "place": 1}
    monkeypatch.setattr(admin_client.AdminClient, "get", lambda self, path: [row | {"reason": "waits for tiny-0001"}])
    listed = salus("job", "list", "c").stdout
    assert "waiting, place 1" in listed
    assert "tiny-0002: waits for tiny-0001" in listed


def test_watch_of_a_failed_job_ends_with_50_and_the_way_on(coordinator: list[str]) -> None:
    watched = salus("job", "watch", "c", "x")
    assert watched.returncode == 50
    assert watched.stdout.count("its policy allows") == 1
    assert "salus job show" in watched.stderr


def test_a_finished_job_that_was_not_measured_says_so(coordinator: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RESULT, "status", "finished")
    monkeypatch.setitem(RESULT, "reason", "")
    happened = [
        event(1, "started"),
        event(2, "not-evaluated", text="round 4 failed"),
        event(3, "no-report", text="full"),
    ]
    monkeypatch.setattr("tests.server.test_following.EVENTS", happened)
    for command in ("watch", "show"):
        told = salus("job", command, "c", "x")
        assert told.returncode == 0, told.stderr
        assert "could not be evaluated: round 4 failed" in told.stdout
        assert "could not be written: full" in told.stdout


def test_watch_shows_what_happened_while_it_asked_for_the_status(
    coordinator: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last events, the final metrics among them, must not be lost to a job that ends between two questions."""
    happened: list[dict[str, Any]] = []
    asked: list[str] = []

    class Client:
        def __init__(self, folder: object) -> None: ...

        def get(self, path: str, **query: int) -> Any:
            if path == "/status":
                return {"sites": []}
            if path.endswith("/events"):
                return [e for e in happened if e["number"] > query["after"]]
            if path == "/jobs/x" and query == {} and asked:
                happened[:] = [event(1, "not-evaluated", text="at the last moment")]
            asked.append(path)
            return {**RESULT, "status": "finished" if happened else "running"}

    monkeypatch.setattr(admin_client, "AdminClient", Client)
    assert "at the last moment" in salus("job", "watch", "c", "x").stdout


def test_cancel_and_resume_say_what_they_did(coordinator: list[str]) -> None:
    ended = salus("job", "cancel", "c", "x")
    assert ended.returncode != 0
    assert "x is failed" in ended.stderr
    assert coordinator == []
    resumed = salus("job", "resume", "c", "x")
    assert "will continue after round 1" in resumed.stdout
    assert coordinator == ["/jobs/x/resume"]
