import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.builders import tiny_job

from salus.common.batch import Batch
from salus.common.estimates import Estimate, to_plain
from salus.common.events import Event
from salus.common.job import Job
from salus.common.tasks import make_task
from salus.common.tasks.coarse import Coarse
from salus.privacy.records.card import ModelCard, model_card, privacy_card
from salus.server.plots import HEIGHT, LEFT, WIDTH, round_plots
from salus.server.quality import evaluation_in
from salus.server.report import SiteRow, phases, write_report

RECORDS = [
    {"round": 1, "sites": [1, 2], "metrics_before": {"auc": 0.5}, "seconds": {"train": 1.0}},
    {"round": 2, "sites": [1], "metrics_before": {"auc": 0.75}, "seconds": {"train": 2.0, "server": 0.5}},
]


def test_curves_and_phases() -> None:
    (plot,) = round_plots(RECORDS, {"auc": 1.0})
    assert plot.title == "AUC: 1.000 at the end"
    assert len(plot.lines[0].points.split()) == 3
    assert [tick.text for tick in plot.x_ticks] == ["0", "1", "2"]
    assert [tick.text for tick in plot.y_ticks] == ["0.500", "1.000"]
    assert phases(RECORDS) == [("server", 0.5), ("train", 3.0)]


def test_labels_of_both_axes_have_room_of_their_own() -> None:
    """The label of the lowest value and that of the first round once stood on each other in the corner."""
    records = [{"metrics_before": {"loss": 123.456 / number}} for number in range(1, 400)]
    (plot,) = round_plots(records, {"loss": 0.25})
    left, top, right, bottom = plot.box
    assert max(len(tick.text) for tick in plot.y_ticks) * 7 < LEFT - 14  # 7 pixels a figure, 14 for the axis title
    assert all(top <= tick.at <= bottom - 6 for tick in plot.y_ticks)  # clear of the corner
    assert all(left <= tick.at <= right for tick in plot.x_ticks)
    gaps = [b.at - a.at for a, b in zip(plot.x_ticks, plot.x_ticks[1:], strict=False)]
    assert min(gaps) > 7 * max(len(tick.text) for tick in plot.x_ticks)
    assert abs(plot.y_ticks[0].at - plot.y_ticks[1].at) > 14
    assert right < WIDTH
    assert bottom + 30 < HEIGHT


def noisy_evaluation() -> Event:
    coarse = Coarse(("no", "yes"))
    rng = np.random.default_rng(1)
    labels = torch.tensor(rng.integers(0, 2, 600))
    logits = torch.tensor(rng.normal(0, 1.5, (600, 2)))
    logits[torch.arange(600), labels] += 2.0
    totals = coarse.rows(logits, labels).numpy().sum(axis=0) + rng.normal(0, 6.0, coarse.size)
    metrics, figures = coarse.metrics(totals, 6.0), coarse.figures(totals, 6.0)
    fields: dict[str, Any] = {"metrics": to_plain(metrics), "figures": figures.model_dump(mode="json")}
    return Event(datetime(2026, 3, 1, 12, 0, tzinfo=UTC), "evaluated", json.loads(json.dumps(fields)))


def report_of(path: Path, job: Job, events: list[Event]) -> str:
    card = privacy_card(job, None, {number: f"Hospital {number}" for number in range(1, 6)})
    write_report(path, job, "tiny-0001", RECORDS, events, card, consortium="Paediatric imaging")
    return " ".join(path.read_text().split())


def test_a_noised_report_shows_every_number_with_its_error_and_what_can_be_drawn(tmp_path: Path) -> None:
    text = report_of(tmp_path / "r.html", tiny_job(protection="masking", privacy=""), [noisy_evaluation()])
    assert re.search(r"final model&#39;s AUC is 0\.\d\d \+- 0\.0\d", text)
    assert re.search(r"<th>accuracy</th><td class=.n.>0\.\d\d \+- 0\.0\d", text)
    assert "01 March 2026, 12:00" in text
    assert "Paediatric imaging" in text
    assert "A binormal curve fitted to noisy counts" in text
    assert re.search(r"<th>yes</th><td class=.n.>\d+ \+- \d+", text)
    assert "evaluation_share" in text  # the settings, defaults included


def test_the_first_lines_promise_only_what_the_job_keeps(tmp_path: Path) -> None:
    open_ = report_of(tmp_path / "a.html", tiny_job(), [])
    masked = report_of(tmp_path / "b.html", tiny_job(protection="masking", privacy=""), [])
    assert "Nobody but the hospital itself saw" not in open_
    assert "could read the changes of each single hospital" in open_
    assert "Nothing limits what the finished model may reveal" in open_
    assert "Nobody but the hospital itself saw" in masked
    assert "at most 20 times as likely" in masked
    assert "was not evaluated" in masked
    assert "There is no ROC curve" in masked


def test_a_report_without_noise_has_exact_curve_and_matrix(tmp_path: Path) -> None:
    task = make_task(tiny_job().task)
    logits, labels = torch.tensor([[2.0, 0], [0, 2], [1, 0], [0, 1]]), torch.tensor([0, 1, 0, 0])
    totals = task.rows(logits, Batch({"label": labels})).sum(dim=0).numpy()
    figures = task.figures(totals)
    assert figures.confusion == ((2.0, 1.0), (0.0, 1.0))
    assert figures.curves[0].points[0] == (0.0, 0.0)
    assert figures.curves[0].points[-1] == (1.0, 1.0)
    assert figures.precision_recall[0].points[-1] == (1.0, 0.25)  # everything found, a quarter of it positive
    assert sum(point[1] for point in figures.calibration) > 0
    fields: dict[str, Any] = {"metrics": task.metrics(totals), "figures": figures.model_dump(mode="json")}
    text = report_of(tmp_path / "r.html", tiny_job(), [Event(datetime.now(UTC), "evaluated", fields)])
    assert "predicted yes" in text
    assert "Precision-recall curve" in text
    assert "Calibration" in text
    assert "+-" not in text


def test_a_report_says_what_a_missed_structure_counts_as_in_the_distance(tmp_path: Path) -> None:
    def text(metrics: dict[str, float]) -> str:
        return report_of(
            tmp_path / "r.html", tiny_job(), [Event(datetime.now(UTC), "evaluated", {"metrics": to_plain(metrics)})]
        )

    assert "counts as 100 mm" in text({"hausdorff95_mm_liver": 2.0})
    assert "Hausdorff" not in text({"auc": 0.5})


def test_a_problem_of_a_round_is_one_line_with_how_often_it_came(tmp_path: Path) -> None:
    fields = {"round": 141, "site": 2, "text": "stopped here"}
    text = report_of(tmp_path / "r.html", tiny_job(), [Event(datetime.now(UTC), "left-out", fields) for _ in range(7)])
    assert text.count("stopped here") == 1
    assert "round 141, site 2" in text
    assert "stopped here (7 times)" in text


def test_a_card_opens_again() -> None:
    job = tiny_job(protection="masking", privacy="")
    card = model_card("tiny-0001", job, privacy_card(job, None, {1: "A"}), evaluation_in([noisy_evaluation()]), "C")
    assert ModelCard.model_validate_json(card.model_dump_json()) == card
    assert isinstance(card.metrics["auc"], Estimate)


def test_the_report_is_one_file_that_fetches_nothing_and_escapes_names(tmp_path: Path) -> None:
    events = [
        Event(datetime.now(UTC), "evaluated", {"metrics": {"auc": 0.9}}),
        Event(datetime.now(UTC), "left-out", {"round": 1, "site": 2, "text": "<b>gone</b>"}),
        Event(datetime.now(UTC), "not-asked", {"site": 6, "text": "joined later"}),
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
    assert "only the site's operator can read it" in text
    assert "round 1" in text
    assert "round site" not in " ".join(text.split())  # it was not asked in any round
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


def test_subgroups_are_a_table_with_a_word_on_what_is_hidden(tmp_path: Path) -> None:
    female = {"patients": 12, "metrics": {"auc": 0.9, "loss": 0.3}}
    subgroups = {"sex": {"hidden": 7, "groups": {"female": female, "<i>male": {"patients": 0, "metrics": {}}}}}
    event = Event(datetime.now(UTC), "evaluated", {"metrics": {"auc": 0.9}, "subgroups": subgroups})
    text = report_of(tmp_path / "a.html", tiny_job(), [event])
    assert "Quality in subgroups" in text
    assert '<th>sex: female</th><td class="n">12</td><td class="n">0.900</td><td class="n">0.300</td>' in text
    assert "&lt;i&gt;male" in text
    assert "none or hidden" in text
    assert '<th>sex: hidden</th><td class="n">7</td>' in text
    assert "fewer than 5 patients" in text
    assert "Quality in subgroups" not in report_of(tmp_path / "b.html", tiny_job(), [noisy_evaluation()])
