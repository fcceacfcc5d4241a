from datetime import UTC, datetime
from pathlib import Path

from tests.builders import tiny_job

from salus.common.events import Event
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
    write_report(path, tiny_job(), "tiny-0001", RECORDS, events, [SiteRow("<script>x", 3, 4, "1 damaged", 2)])
    text = path.read_text()
    assert "http" not in text.replace("http-equiv", "")
    assert "<script>x" not in text
    assert "&lt;b&gt;gone" in text
    assert "Not protected" in text
    assert "<svg" in text
