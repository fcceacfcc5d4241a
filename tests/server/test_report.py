from datetime import UTC, datetime
from pathlib import Path

from tests.builders import tiny_job

from salus.common.events import Event
from salus.server.card import privacy_card
from salus.server.report import SiteRow, curves, phases, write_report

RECORDS = [
    {"round": 1, "sites": [1, 2], "metrics_before": {"auc": 0.5}, "seconds": {"train": 1.0}},
    {"round": 2, "sites": [1], "metrics_before": {"auc": 0.75}, "seconds": {"train": 2.0, "server": 0.5}},
]


def test_curves_and_phases() -> None:
    (plot,) = curves(RECORDS, {"auc": 1.0})
    assert (plot.name, plot.low, plot.high, plot.last, plot.rounds) == ("auc", "0.500", "1.000", "1.000", 2)
    assert len(plot.points.split()) == 3
    assert phases(RECORDS) == [("server", 0.5), ("train", 3.0)]


def test_the_report_is_one_file_that_fetches_nothing_and_escapes_names(tmp_path: Path) -> None:
    events = [
        Event(datetime.now(UTC), "evaluated", {"metrics": {"auc": 0.9}}),
        Event(datetime.now(UTC), "left-out", {"round": 1, "site": 2, "text": "<b>gone</b>"}),
    ]
    path = tmp_path / "r" / "report.html"
    write_report(
        path,
        tiny_job(),
        "tiny-0001",
        RECORDS,
        events,
        privacy_card(tiny_job(), None, {1: "A"}),
        [SiteRow("<script>x", 3, 4, "1 damaged", 2)],
    )
    text = path.read_text()
    assert "http" not in text.replace("http-equiv", "")
    assert "<script>x" not in text
    assert "&lt;b&gt;gone" in text
    assert "Not protected" in text
    assert "<svg" in text


def test_the_report_of_a_private_job_names_unit_mode_epsilon_and_assumption(tmp_path: Path) -> None:
    job = tiny_job(protection="masking", privacy='noise = "distributed"')
    names = {number: f"Hospital {number}" for number in range(1, 9)}
    card = privacy_card(job, {site: {"train": 2, "evaluate": 1, "measure": 0} for site in names}, names)
    write_report(tmp_path / "r.html", job, "tiny-0001", [], [], card)
    text = " ".join((tmp_path / "r.html").read_text().split())
    assert "(3, 1e-05)-differential privacy per patient" in text
    assert "adding or removing all images of one patient" in text
    assert "at most 2 of 8 sites collude" in text
    assert all(row.epsilon is not None and 0 < row.epsilon <= 3 for row in card.sites)
    often = privacy_card(job, {site: {"train": 500, "evaluate": 9, "measure": 0} for site in names}, names)
    assert {row.epsilon for row in often.sites} == {
        3.0
    }  # the ledgers let no more leave, however often it was sent again
    assert "no formal privacy" in privacy_card(tiny_job(), None, names).statement
