"""The ledger: never less spent than true, whatever happens to the process, the clock, the data set's name or the file."""

import functools
import multiprocessing
import os
import shutil
import signal
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import toy_identity
from tests.processes import FORKED

from salus.client.ledger.entries import Close, Commit, Reserve
from salus.client.ledger.report import check_signed_heads, job_lines, patient_lines, spending_plot
from salus.client.ledger.store import Budget, Ledger
from salus.common.canonical import canonical_json
from salus.common.clock import Clock, ManualClock, SystemClock
from salus.common.errors import BudgetError, LedgerError
from salus.privacy.dp.accounting import epsilon
from salus.privacy.dp.plan import Plan
from salus.privacy.protocol.head import Head, sign_head

START = datetime(2026, 1, 1, tzinfo=UTC)
PATIENTS = frozenset(f"patient-{n}" for n in range(20))
BUDGET = Budget(epsilon=5.0, delta=1e-5, period_days=100)


def plan(noise: float = 2.0, attempts: int = 4, evaluation: float = 20.0) -> Plan:
    """Return a plan of 10 steps an attempt; four attempts cost about 1.9 at delta 1e-5."""
    return Plan("local", noise, evaluation, 0.1, 10, attempts, 3.0, 1e-5)


@functools.cache
def tight() -> Budget:
    """Return a budget with room for one of these plans, not for two."""
    return Budget(epsilon=1.2 * epsilon(plan().reserved(), 1e-5), delta=1e-5, period_days=100)


def ledger(folder: Path, clock: Clock | None = None) -> Ledger:
    return Ledger(folder / "ledger.sqlite", clock or ManualClock(START))


def test_reserve_commit_close_and_what_each_says(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    assert book.head() == Head(0, bytes(32))
    assert book.reserve("a", "chest", PATIENTS, plan(), 3, BUDGET) == PATIENTS
    for round_ in (1, 2):
        book.commit("a", round_, 0, plan().charge("train"))
    (group,) = book.groups(BUDGET)
    whole = group.epsilon(BUDGET.delta)
    assert whole == epsilon(plan().reserved(), BUDGET.delta)
    refunded = book.close("a")
    assert sum(r.count for r in refunded) == 20 + 1  # the training that was not done, and the evaluation
    (group,) = book.groups(BUDGET)
    assert group.epsilon(BUDGET.delta) == epsilon([plan().charge("train").times(20)], BUDGET.delta) < whole
    assert [type(entry) for entry, _ in book.entries()] == [Reserve, Commit, Commit, Close]
    assert book.verify() == book.head()
    assert book.close("a") == ()


def test_a_job_ends_exactly_at_its_last_reserved_step(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    book.reserve("a", "chest", PATIENTS, plan(attempts=2), 2, BUDGET)
    for attempt in range(2):
        book.commit("a", 1, attempt, plan().charge("train"))
    before = book.head()
    with pytest.raises(LedgerError, match=r"20 of 21 releases were sent and 10 more"):
        book.commit("a", 2, 0, plan().charge("train"))
    with pytest.raises(LedgerError, match="used up"):
        book.commit("a", 2, 0, plan(noise=1.0).charge("train"))  # a release that was never reserved
    assert book.head() == before
    book.commit("a", 3, 0, plan().charge("evaluate"))


def test_nothing_is_sent_for_unknown_or_closed_jobs(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    with pytest.raises(LedgerError, match="Nothing is reserved"):
        book.commit("a", 1, 0, plan().charge("train"))
    with pytest.raises(LedgerError, match="no job"):
        book.close("a")
    book.reserve("a", "chest", PATIENTS, plan(), 3, BUDGET)
    book.close("a")
    with pytest.raises(LedgerError, match="Nothing is reserved"):
        book.commit("a", 1, 0, plan().charge("train"))
    with pytest.raises(LedgerError, match="has ended"):
        book.reserve("a", "chest", PATIENTS, plan(), 3, BUDGET)


def test_the_budget_is_the_patients_whatever_the_data_set_is_called(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    book.reserve("a", "chest", PATIENTS, plan(), 3, BUDGET)
    for patients in (PATIENTS, frozenset({"new", "patient-3"})):
        with pytest.raises(LedgerError, match=r"at most epsilon .* patients of this site would reach"):
            book.reserve("b", "a renamed copy", patients, plan(), 3, tight())
    book.reserve("c", "others", frozenset({"somebody else"}), plan(), 3, tight())


def test_a_job_keeps_the_patients_it_was_accepted_with(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    book.reserve("a", "chest", PATIENTS, plan(), 3, BUDGET)
    assert book.reserve("a", "chest", PATIENTS | {"new"}, plan(), 3, BUDGET) == PATIENTS


def test_a_period_passes_but_a_clock_set_back_reopens_nothing(tmp_path: Path) -> None:
    clock = ManualClock(START)
    book = ledger(tmp_path, clock)
    book.reserve("a", "chest", PATIENTS, plan(), 3, tight())
    with pytest.raises(LedgerError):
        book.reserve("b", "chest", PATIENTS, plan(), 3, tight())
    back = ledger(tmp_path, ManualClock(START - timedelta(days=1000)))
    with pytest.raises(LedgerError):
        back.reserve("b", "chest", PATIENTS, plan(), 3, tight())
    back.commit("a", 1, 0, plan().charge("train"))
    assert all(entry.at >= START.isoformat() for entry, _ in back.entries())
    clock.sleep(101 * 86_400)
    with pytest.raises(BudgetError):  # the first job is old, but open: it may still send everything
        book.reserve("b", "chest", PATIENTS, plan(), 3, tight())
    for round_ in (2, 3, 4):
        book.commit("a", round_, 0, plan().charge("train"))
    book.close("a")
    with pytest.raises(BudgetError):  # what it sent today counts from today
        book.reserve("b", "chest", PATIENTS, plan(), 3, tight())
    clock.sleep(101 * 86_400)
    book.reserve("b", "chest", PATIENTS, plan(), 3, tight())


def test_the_same_patients_give_another_digest_in_every_ledger(tmp_path: Path) -> None:
    digests = set()
    for name in "ab":
        book = Ledger(tmp_path / name, ManualClock(START))
        book.reserve("a", "chest", PATIENTS, plan(), 3, BUDGET)
        (entry, _) = book.entries()[0]
        assert isinstance(entry, Reserve)
        digests.add(entry.patients_sha256)
    assert len(digests) == 2


def test_finished_jobs_are_closed_and_running_ones_are_not(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    for job in ("done", "running", "next"):
        book.reserve(job, "chest", frozenset({job}), plan(), 2, BUDGET)
    for round_ in (1, 2):
        book.commit("done", round_, 0, plan().charge("train"))
        book.commit("running", round_, 0, plan().charge("train"))
    book.commit("done", 3, 0, plan().charge("evaluate"))
    book.close_finished(but="next")
    assert {line["job"]: line["state"] for line in job_lines(book)} == {
        "done": "closed",
        "running": "open",
        "next": "open",
    }


def _write_until_killed(folder: Path, ready: "multiprocessing.synchronize.Event") -> None:
    book = Ledger(folder / "ledger.sqlite", SystemClock())
    generous = Budget(epsilon=1e9)
    (folder / "sent").touch()
    for number in range(10_000):
        book.reserve(f"job-{number}", "chest", PATIENTS, plan(), 3, generous)
        for round_ in range(1, 5):
            book.commit(f"job-{number}", round_, 0, plan().charge("train"))
            with (folder / "sent").open("a") as sent:  # what the other side has received
                sent.write(f"job-{number} {round_}\n")
            ready.set()


@pytest.mark.parametrize("wait_s", [0.0, 0.003, 0.01, 0.05, 0.13])
def test_kill_9_never_forgets_what_was_sent(tmp_path: Path, wait_s: float) -> None:
    ready = FORKED.Event()
    process = FORKED.Process(target=_write_until_killed, args=(tmp_path, ready))
    process.start()
    assert ready.wait(60)
    process.join(wait_s)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    book = ledger(tmp_path)
    book.verify()
    sent = {tuple(line.split()) for line in (tmp_path / "sent").read_text().splitlines() if line.count(" ") == 1}
    committed = {(entry.job, str(entry.round)) for entry, _ in book.entries() if isinstance(entry, Commit)}
    assert sent
    assert sent <= committed


def _reserve_at_once(folder: Path, name: str, start: "multiprocessing.synchronize.Barrier") -> None:
    book = Ledger(folder / "ledger.sqlite", SystemClock())
    start.wait(60)
    try:
        book.reserve(name, "chest", PATIENTS, plan(), 3, tight())
    except LedgerError:
        return
    (folder / f"accepted-{name}").touch()


def test_two_jobs_at_once_cannot_both_find_the_last_budget(tmp_path: Path) -> None:
    start = FORKED.Barrier(2)
    ledger(tmp_path)
    processes = [FORKED.Process(target=_reserve_at_once, args=(tmp_path, name, start)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert len(list(tmp_path.glob("accepted-*"))) == 1
    assert len(ledger(tmp_path).entries()) == 1


def test_entries_cannot_be_changed_or_removed_and_a_forged_file_is_noticed(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    book.reserve("a", "chest", PATIENTS, plan(), 3, BUDGET)
    book.commit("a", 1, 0, plan().charge("train"))
    raw = sqlite3.connect(tmp_path / "ledger.sqlite")
    for statement in ("DELETE FROM entries", "UPDATE entries SET body = ''", "DELETE FROM patients"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            raw.execute(statement)
    for table, statement, message in (
        ("patients", "DELETE FROM patients WHERE patient = 'patient-3'", "patients of job"),
        ("entries", "UPDATE entries SET body = replace(body, '\"round\":1', '\"round\":2')", "Entry 2"),
    ):
        for verb in ("UPDATE", "DELETE"):
            raw.execute(f"DROP TRIGGER {table}_{verb}")
        raw.execute(statement)
        raw.commit()
        with pytest.raises(LedgerError, match=message):
            book.verify()


def test_a_ledger_that_sent_more_than_it_reserved_does_not_verify(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    book.reserve("a", "chest", PATIENTS, plan(attempts=1), 1, BUDGET)
    with book._writing() as connection:
        for _ in range(2):  # past the checks of `commit`, with a chain that is whole
            entry = Commit(at=START.isoformat(), job="a", round=1, attempt=0, release=plan().charge("train"))
            book._append(connection, entry)
    with pytest.raises(LedgerError, match="sent more than was reserved"):
        book.verify()


def test_a_restored_backup_misses_heads_that_were_signed(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    book.reserve("a", "chest", PATIENTS, plan(), 3, BUDGET)
    shutil.copy(tmp_path / "ledger.sqlite", tmp_path / "backup")
    shutil.copy(tmp_path / "ledger.sqlite-wal", tmp_path / "backup-wal") if (
        tmp_path / "ledger.sqlite-wal"
    ).exists() else None
    heads = [book.head()]
    book.commit("a", 1, 0, plan().charge("train"))
    heads.append(book.head())
    lines = [
        {"kind": "consent", "site": 1, "ledger": sign_head(toy_identity(1), b"s" * 32, 1, head).hex()} for head in heads
    ]
    transcript = tmp_path / "job.jsonl"
    transcript.write_bytes(b"\n".join(canonical_json(line) for line in [*lines, {"kind": "advert", "site": 1}]))
    assert check_signed_heads(book, transcript, 1) == 2
    with pytest.raises(LedgerError, match="nothing could be compared"):  # "all 0 heads are there" would read as a proof
        check_signed_heads(book, transcript, 2)
    (tmp_path / "other.jsonl").write_text("{")
    for wrong in ("other.jsonl", "none.jsonl"):
        with pytest.raises(LedgerError, match="transcript"):
            check_signed_heads(book, tmp_path / wrong, 1)
    restored = Ledger(tmp_path / "backup", ManualClock(START))
    restored.commit("a", 1, 1, plan().charge("train"))
    with pytest.raises(LedgerError, match="a ledger head of 2 entries that this ledger does not contain"):
        check_signed_heads(restored, transcript, 1)


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["reserve", "commit", "close"]), st.sampled_from("abc"), st.integers(1, 3)), max_size=12
)


@settings(max_examples=40, deadline=None)
@given(actions=ACTIONS)
def test_whatever_is_asked_spending_is_what_was_committed_and_within_what_was_reserved(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, str, int]]
) -> None:
    book = ledger(tmp_path_factory.mktemp("ledger"))
    sent: dict[str, int] = {}
    open_jobs: set[str] = set()
    closed: set[str] = set()
    for what, job, round_ in actions:
        try:
            if what == "reserve":
                book.reserve(job, "chest", frozenset({"p"}), plan(noise=4.0, attempts=2), 2, Budget(epsilon=1e9))
                open_jobs.add(job)
            elif what == "commit":
                book.commit(job, round_, 0, plan(noise=4.0).charge("train"))
                sent[job] = sent.get(job, 0) + 1
                assert job in open_jobs
                assert sent[job] <= 2
            else:
                book.close(job)
                open_jobs.discard(job)
                closed.add(job)
        except LedgerError:
            continue
    book.verify()
    expected = 20 * len(open_jobs) + sum(10 * sent.get(job, 0) for job in closed)
    trained = [r for group in book.groups(BUDGET) for r in group.releases if r.sampling_rate < 1]
    assert sum(r.count for r in trained) == expected


def test_lines_and_plot_for_people(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    assert "<svg" in spending_plot(book, BUDGET)
    book.reserve("a", "chest", PATIENTS, plan(), 3, BUDGET)
    book.commit("a", 1, 0, plan().charge("train"))
    (line,) = job_lines(book)
    assert line["state"] == "open"
    assert 0 < float(str(line["spent_epsilon"])) < 3.0
    (patients,) = patient_lines(book, BUDGET)
    assert patients["patients"] == 20
    assert float(str(patients["epsilon"])) + float(str(patients["left"])) == pytest.approx(5.0, abs=1e-3)
    assert "budget 5" in spending_plot(book, BUDGET)
