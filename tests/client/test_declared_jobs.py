"""A site and jobs that do not fit what it declared, or whose data are gone: what others hear, and what its operator sees."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from tests.builders import job_text, tiny_job, toy_site

from salus.client.checking import CheckLimit, TooManyChecks
from salus.client.ledger.store import Budget, Ledger
from salus.client.policy import Policy
from salus.client.site import Site
from salus.common.clock import ManualClock, SystemClock
from salus.common.events import read_events
from salus.common.identity import Identity
from salus.common.job import Job, parse_job, seal_job
from salus.common.models import build_model
from salus.common.packets import Reply, Request
from salus.common.vectors import layout_of, read_parameters
from salus.common.verdict import Verdict, read_verdict

NOISED = 'noise = "local"\nepsilon = 4.0\nsampling_rate = 0.5\npatients_per_site = 16'
OPEN = Policy(allow_unprotected=True, allow_without_noise=True, key_holders=(2,), budget=Budget(epsilon=100.0))
STATISTICS = """
[job]
name = "look"
rounds = 1
min_sites = 2
[task]
dataset = "toy"
classes = ["no", "yes"]
[privacy]
noise = "none"
[statistics]
kind = "summary"
"""


class Asked:
    """One site and its coordinator."""

    def __init__(self, folder: Path, policy: Policy = OPEN) -> None:
        self.folder, self.coordinator = folder, Identity.generate()
        self.site: Site = toy_site(folder, 1, self.coordinator.public_key, policy, sites=5)

    def ask(self, job: Job, round_: int = 1, kind: str = "train", job_id: str = "tiny-0001") -> tuple[Reply, bytes]:
        fitting = tiny_job().task  # a model of the right form, whatever the job says
        model = build_model(fitting, 0)
        layout = layout_of(model)
        values = {"kind": kind, "job_id": job_id, "job": seal_job(job, self.coordinator), "round": round_, "attempt": 0,
                  "sites": (1, 2, 3, 4, 5)}  # fmt: skip
        return self.site.handle(Request.model_validate(values), layout.encode(read_parameters(model, layout)))

    def verdict(self, job: Job) -> Verdict:
        reply, blob = self.ask(job, kind="check", round_=0)
        assert reply.kind == "ok", reply.text
        return read_verdict(blob)

    def entries(self) -> int:
        return len(Ledger(self.folder / "ledger.sqlite", SystemClock()).entries())

    def kinds(self) -> list[str]:
        return [event.kind for event in read_events(self.folder / "events.jsonl")]


def masked(**changes: object) -> Job:
    return parse_job(job_text(protection="masking", **changes))  # type: ignore[arg-type]


MISSPELT = [('classes = ["no", "yes"]', 'classes = ["no", "yess"]', ("'yess'", "'1'")),
            ('dataset = "toy"', 'dataset = "toi"', ("'toi'", "'toy'")),
            ("shape = [8, 8]", "shape = [8, 8]\nchannels = 3", ("3 channel", "1 here")),
            ('classes = ["no", "yes"]', 'classes = ["no", "yes", "dummy"]', ("'dummy'",))]  # fmt: skip
SORTS = {
    "local noise": job_text(protection="masking", privacy=NOISED),
    "distributed noise": job_text(min_sites=3, protection="masking", privacy=NOISED.replace("local", "distributed")),
    "masked": job_text(protection="masking"),
    "encrypted": job_text(protection="encryption").replace("[aggregation]", "[aggregation]\nkey_holder = 2"),
    "unprotected": job_text(),
    "statistics": STATISTICS,
}


WRONG = [
    pytest.param(sort, right, wrong, said, id=f"{sort}: {wrong[:24]}")
    for sort, text in SORTS.items()
    for right, wrong, said in MISSPELT
    if right in text
]


@pytest.mark.parametrize(("sort", "right", "wrong", "said"), WRONG)
def test_one_wrong_word_is_refused_aloud_before_anything_is_reserved_or_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sort: str, right: str, wrong: str, said: tuple[str, ...]
) -> None:
    text = SORTS[sort].replace(right, wrong)
    asked = Asked(tmp_path)
    if wrong.count("yess"):  # names only have a nearest one where the data are labelled with names
        _declare_names(asked)
        said = ("'yess'", "'yes'")
    monkeypatch.setattr("salus.client.preparing.local_data", lambda *_: pytest.fail("data were read"))
    monkeypatch.setattr(Ledger, "reserve", lambda *_: pytest.fail("a budget was reserved"))
    job = parse_job(text)
    reply, blob = asked.ask(job, kind="measure" if sort == "statistics" else "train")
    assert (reply.kind, reply.error, blob) == ("refused", "UnfitError", b"")
    for part in said:
        assert part in reply.text
    assert asked.entries() == 0
    assert reply.text in (tmp_path / "events.jsonl").read_text().replace('\\"', '"')
    assert [problem.text for problem in asked.verdict(job).problems if problem.text not in reply.text] == []


def _declare_names(asked: Asked) -> None:
    declarations = asked.site._catalogue.declarations
    declared = declarations.all()["toy"]
    assert declared is not None
    declarations.put("toy", declared.model_copy(update={"classes": ("no", "yes")}))


def test_a_data_set_that_is_not_declared_runs_no_job(tmp_path: Path) -> None:
    asked = Asked(tmp_path)
    with asked.site._catalogue._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE datasets SET declaration = ''")
    reply, _ = asked.ask(masked())
    assert (reply.error, "not declared" in reply.text) == ("UnfitError", True)


def test_a_check_reads_and_reserves_nothing_and_says_all_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(tmp_path, Policy(cohort_epochs={"toy": 3}, max_rounds=1))
    monkeypatch.setattr("salus.client.preparing.local_data", lambda *_: pytest.fail("data were read"))
    verdict = asked.verdict(masked(rounds=2).model_copy())
    assert [problem.requirement for problem in verdict.problems] == ["policy", "policy", "epoch"]
    assert list(verdict.declarations) == ["toy"]
    good = Asked(tmp_path / "good")
    assert good.verdict(parse_job(SORTS["local noise"])).fits
    assert good.entries() == 0


def test_a_check_says_no_to_the_budget_without_a_number(tmp_path: Path) -> None:
    asked = Asked(tmp_path, OPEN.model_copy(update={"budget": Budget(epsilon=1.0)}))
    (problem,) = asked.verdict(parse_job(SORTS["local noise"])).problems
    assert problem.requirement == "budget"
    assert not any(letter.isdigit() for letter in problem.text)


def test_a_check_is_signed_and_shows_only_what_the_policy_offers(tmp_path: Path) -> None:
    asked = Asked(tmp_path, OPEN.model_copy(update={"datasets": ("other",)}))
    verdict = asked.verdict(masked())
    assert verdict.declarations == {}
    assert "toy" not in " ".join(
        p.text for p in asked.verdict(parse_job(job_text().replace('"toy"', '"toi"'))).problems
    )
    asked.coordinator = Identity.generate()
    assert asked.ask(masked(), kind="check")[0].error == "IdentityError"


@pytest.mark.parametrize("noise", ["none", "local"])
def test_files_that_vanish_leave_the_others_in_silence_and_the_operator_in_no_doubt(tmp_path: Path, noise: str) -> None:
    asked = Asked(tmp_path)
    job = parse_job(SORTS["local noise" if noise == "local" else "masked"])
    (tmp_path / "toy.npz").rename(tmp_path / "moved.npz")
    reply, _ = asked.ask(job)
    assert (reply.kind, reply.text) == ("ok", "")
    (trouble,) = asked.site.troubles()
    assert "'toy'" in trouble.line
    asked.site.recheck()
    assert asked.site.troubles()
    assert asked.kinds().count("data-trouble") == 1
    (tmp_path / "moved.npz").rename(tmp_path / "toy.npz")
    if noise == "none":  # with noise the running job stays without its data, and says so until another one begins
        assert asked.ask(job, round_=2)[0].kind == "ok"
    else:
        assert asked.ask(job, round_=2)[0].kind == "ok"
        asked.site._running = None
        asked.site.recheck()
    assert asked.site.troubles() == []
    assert asked.kinds().count("data-mended") == 1


def test_a_data_set_removed_while_a_job_runs_is_seen_until_it_is_back(tmp_path: Path) -> None:
    asked = Asked(tmp_path)
    assert asked.ask(masked())[0].kind == "ok"
    assert asked.site.troubles() == []
    asked.site._catalogue.remove("toy")
    reply, _ = asked.ask(masked(), round_=2)
    assert (reply.kind, reply.text) == ("ok", "")  # zeros, as ever: others learn nothing
    (trouble,) = asked.site.troubles()
    assert "No data set 'toy'" in trouble.problem
    asked.site.recheck()
    assert asked.site.troubles(), "the running job still goes without it"
    asked.site._running = None
    asked.site.recheck()
    assert asked.site.troubles() == []


def test_single_files_that_cannot_be_read_are_counted_and_tried_again(tmp_path: Path) -> None:
    asked = Asked(tmp_path)
    original = (tmp_path / "toy.npz").read_bytes()
    with np.load(tmp_path / "toy.npz") as arrays:
        changed = {name: arrays[name].copy() for name in arrays.files}
    changed["train_images"][:3] += 1
    np.savez(tmp_path / "toy.npz", **changed)
    assert asked.ask(parse_job(SORTS["local noise"]))[0].kind == "ok"
    (trouble,) = asked.site.troubles()
    assert "3 registered" in trouble.problem
    assert "3 changed" in trouble.problem
    assert set(trouble.keys) == {"train/0", "train/1", "train/2"}
    (tmp_path / "toy.npz").write_bytes(original)
    asked.site.recheck()
    assert asked.site.troubles() == []
    assert asked.ask(parse_job(SORTS["local noise"]), round_=2)[0].kind == "ok"
    assert asked.site.troubles() == []  # looked at again in the meantime


def test_the_operator_is_told_what_a_job_costs_of_the_budget(tmp_path: Path) -> None:
    from salus.client.console_lines import console_line

    asked = Asked(tmp_path)
    assert asked.ask(parse_job(SORTS["local noise"]))[0].kind == "ok"
    (event,) = [event for event in read_events(tmp_path / "events.jsonl") if event.kind == "reserved"]
    line = console_line(event)
    assert "of the 100 that each patient of 'toy' may spend in 365 days (4%)" in line


def test_checks_about_a_data_set_are_limited_by_the_hour() -> None:
    """The answers tell whether the budget allows a job: enough of them would measure it."""
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    limit = CheckLimit(clock)
    for _ in range(3):
        limit.admit("toy", 3)
    limit.admit("other", 3)
    with pytest.raises(TooManyChecks, match="at most 3 checks"):
        limit.admit("toy", 3)
    clock.sleep(3599)
    with pytest.raises(TooManyChecks):
        limit.admit("toy", 3)
    clock.sleep(1)
    limit.admit("toy", 3)
    with pytest.raises(TooManyChecks):
        limit.admit("toy", 0)


def test_a_site_that_is_asked_too_often_says_nothing_about_its_budget(tmp_path: Path) -> None:
    asked = Asked(tmp_path, OPEN.model_copy(update={"checks_per_hour": 2}))
    asked.site._limit = CheckLimit(SystemClock())
    for _ in range(2):
        assert asked.verdict(masked()).fits
    reply, blob = asked.ask(masked(), kind="check", round_=0)
    assert (reply.error, blob) == ("TooManyChecks", b"")
    assert asked.verdict(masked(dataset="absent")).problems, "an unknown data set is counted apart"


def test_a_data_set_whose_operator_has_not_looked_at_it_takes_no_job(tmp_path: Path) -> None:
    import sqlalchemy as sa

    from salus.common.sqlite import open_sqlite

    asked = Asked(tmp_path)
    assert asked.verdict(masked()).fits
    with open_sqlite(tmp_path / "catalogue.sqlite").begin() as connection:
        connection.execute(sa.text("UPDATE datasets SET awaiting = 'digest'"))
    (problem,) = asked.verdict(masked()).problems
    assert problem.requirement == "data set"
    assert "not approved" in problem.text
    reply, _ = asked.ask(masked())
    assert (reply.kind, "salus dataset approve" in reply.text) == ("refused", True)
    assert asked.entries() == 0
