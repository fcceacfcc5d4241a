"""Rounds over sites in this process: the real site code, no network, and sites that misbehave."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from tests.builders import tiny_job, toy_keys, toy_site

from salus.client.policy import Policy
from salus.client.site import Site
from salus.common.clock import ManualClock
from salus.common.errors import RoundError, SalusError, WireError
from salus.common.events import Event, EventLog, read_events
from salus.common.identity import Identity
from salus.common.job import Job, seal_job
from salus.common.packets import Reply, Request
from salus.server.attempts import Attempts
from salus.server.checkpoints import Checkpoints
from salus.server.inviting import Cancelled, Inviting
from salus.server.rounds import JobRun
from salus.server.transcripts import Transcript

NOISE = 'noise = "local"\nepsilon = 3.0\npatients_per_site = 40'


class Here:
    """Sites in this process; `broken` decides what a site does instead of answering."""

    def __init__(self, sites: Mapping[int, Site]) -> None:
        self.sites = dict(sites)
        self.broken: dict[int, str] = {}
        self.asked: list[tuple[str, int, int]] = []

    def online(self) -> tuple[int, ...]:
        return tuple(sorted(self.sites))

    def exchange(
        self, requests: Mapping[int, tuple[Request, bytes]], timeout_s: float
    ) -> Iterator[tuple[int, Reply | SalusError, bytes]]:
        for number, (request, blob) in requests.items():
            self.asked.append((request.kind, request.round, request.attempt))
            match self.broken.get(number):
                case "silent":
                    continue
                case "error":
                    yield number, WireError("lost", remedy=""), b""
                case "garbage":
                    yield number, Reply(kind="ok", site=number), b"garbage"
                case _:
                    yield (number, *self.sites[number].handle(request, blob))


class World:
    def __init__(
        self,
        folder: Path,
        job: Job,
        sites: int = 3,
        coordinator: Identity | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.coordinator = coordinator or Identity.generate()
        numbers = range(1, sites + 1)
        self.sites = Here(
            {n: toy_site(folder / f"s{n}", n, self.coordinator.public_key, policy, sites=sites) for n in numbers}
        )
        self.keys = toy_keys(sites)
        self.job, self.signed = job, seal_job(job, self.coordinator)
        self.store = Checkpoints(folder / "c")
        self.job_id = self.store.submit(self.signed, job.job.name)
        self.events: list[Event] = []
        self.cancelled = False
        self.transcript = Transcript(folder / "transcript.jsonl")
        self.clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))

    def run(self, *, evaluated: bool = False) -> np.ndarray:
        events = EventLog(listeners=(self.events.append,))
        attempts = Attempts(
            self.job,
            self.job_id,
            self.signed,
            self.sites,
            self.store,
            events,
            self.keys,
            self.transcript,
            cancelled=lambda: self.cancelled,
            clock=self.clock,
            evaluated=evaluated,
        )
        self.attempts = attempts
        return JobRun(attempts).run()

    def mend_at_s(self, at_s: float) -> None:
        """Mend every broken site when the clock shows this time."""
        sleep = self.clock.sleep

        def slept(seconds_s: float) -> None:
            sleep(seconds_s)
            if self.clock.monotonic_s() >= at_s:
                self.sites.broken.clear()

        self.clock.sleep = slept  # type: ignore[method-assign]

    def each_round_takes_s(self, seconds_s: float) -> None:
        save = self.store.save_round

        def saved(*arguments: object, **keywords: object) -> Path:
            self.clock.sleep(seconds_s)
            return save(*arguments, **keywords)  # type: ignore[arg-type]

        self.store.save_round = saved  # type: ignore[method-assign, assignment]

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


def test_a_job_learns_and_its_rounds_are_recorded(tmp_path: Path) -> None:
    world = World(tmp_path, tiny_job(rounds=4))
    world.run()
    records = world.store.records(world.job_id)
    assert [record["round"] for record in records] == [1, 2, 3, 4]
    assert all(record["sites"] == [1, 2, 3] for record in records)
    final = next(event for event in world.events if event.kind == "evaluated").fields["metrics"]
    assert final["auc"] > 0.95  # type: ignore[index, call-overload, operator]


def test_a_model_that_was_evaluated_before_a_crash_is_not_evaluated_again(tmp_path: Path) -> None:
    world = World(tmp_path, tiny_job(rounds=1))
    world.run()
    world.run(evaluated=True)
    assert [kind for kind, _, _ in world.sites.asked].count("evaluate") == 3, "each site once"


def test_with_noise_no_sum_over_fewer_sites_than_the_job_wants_is_opened(tmp_path: Path) -> None:
    world = World(tmp_path, tiny_job(rounds=1, min_sites=5, protection="masking", privacy=NOISE), sites=5)
    world.sites.broken[2] = "error"
    world.mend_at_s(0.1)
    world.run()
    entries = [json.loads(line) for line in (tmp_path / "transcript.jsonl").read_text().splitlines()]
    assert [len(entry["sites"]) for entry in entries if entry["kind"] == "sum"] == [5, 5], (
        "the round and the evaluation"
    )
    text = next(str(event.fields["text"]) for event in world.events if event.kind == "abandoned")
    assert text.startswith("Expected at least 5 sites in a sum of this job, got 4; nothing was opened.")


@pytest.mark.parametrize("how", ["silent", "error", "garbage"])
def test_a_site_that_fails_is_left_out_and_named(tmp_path: Path, how: str) -> None:
    world = World(tmp_path, tiny_job())
    world.sites.broken[2] = how
    world.run()
    assert all(record["sites"] == [1, 3] for record in world.store.records(world.job_id))
    if how != "silent":
        assert {event.fields["site"] for event in world.events if event.kind == "left-out"} == {2}


def test_attempts_are_limited_by_the_patience_of_the_job_not_by_their_number(tmp_path: Path) -> None:
    world = World(tmp_path, tiny_job(min_sites=3))
    world.sites.broken[1] = "error"
    with pytest.raises(RoundError, match=r"failed in \d+ attempts"):
        world.run()
    attempts = {attempt for kind, _, attempt in world.sites.asked if kind == "train"}
    assert attempts == set(range(len(attempts)))
    # Pauses of 0.5 s, 1 s ... 256 s and then of 300 s fill the hour of this job.
    assert len(attempts) == 22
    assert 3600 <= world.clock.monotonic_s() < 3900
    assert world.store.records(world.job_id) == []


def test_a_site_that_comes_back_within_the_patience_saves_the_round(tmp_path: Path) -> None:
    """A disk that is full for half an hour ended the job in seconds."""
    world = World(tmp_path, tiny_job(min_sites=3))
    world.sites.broken[1] = "error"
    world.mend_at_s(1800.0)
    world.run()
    assert len(world.store.records(world.job_id)) == 2
    waiting = [event.fields for event in world.events if event.kind == "waiting"]
    assert all(fields["sites"] == [1] for fields in waiting)
    assert "Waiting for site 1: lost" in str(waiting[0]["text"])
    assert len(waiting) < 20, "the log does not grow with the wait"


def test_decisions_of_sites_end_a_job_that_has_not_begun_and_a_later_round_waits_for_another_decision(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, tiny_job(min_sites=3, rounds=3))
    strict, open_ = Policy(), world.sites.sites[2]._policy()
    world.sites.sites[2]._policy = lambda: strict
    with pytest.raises(RoundError, match="failed in 3 attempts"):
        world.run()
    assert world.clock.monotonic_s() < 5
    world.sites.sites[2]._policy = lambda: open_
    save = world.store.save_round

    def then_refuse(*arguments: object, **keywords: object) -> Path:
        if arguments[1] == 1:
            world.sites.sites[2]._policy = lambda: strict if world.clock.monotonic_s() < 600 else open_
        return save(*arguments, **keywords)  # type: ignore[arg-type]

    world.store.save_round = then_refuse  # type: ignore[method-assign, assignment]
    world.run()
    assert [record["sites"] for record in world.store.records(world.job_id)] == [[1, 2, 3]] * 3
    assert world.clock.monotonic_s() > 600


def test_a_site_that_fails_in_a_row_is_left_aside_for_longer_and_longer(tmp_path: Path) -> None:
    world = World(tmp_path, tiny_job(rounds=13))
    world.sites.broken[2] = "error"
    world.each_round_takes_s(20.0)
    world.run()
    asked = [event.fields["round"] for event in world.events if event.kind == "attempt" and 2 in event.fields["sites"]]  # type: ignore[operator]
    # Left aside after two failures: for 30 s, 60 s, 120 s ...; each round takes 20 s.
    assert asked == [1, 2, 4, 7, 13]
    assert all(record["sites"] == [1, 3] for record in world.store.records(world.job_id))
    told = [str(event.fields["text"]) for event in world.events if event.kind == "not-asked"]
    assert "left aside for a while after 2 failures in a row; the last one: lost" in told[0]


def test_a_site_left_aside_takes_part_at_once_after_a_restart(tmp_path: Path) -> None:
    world = World(tmp_path, tiny_job(rounds=6))
    world.sites.broken[2] = "error"
    save = world.store.save_round

    def restart(*arguments: object, **keywords: object) -> Path:
        if arguments[1] == 2:
            world.kept = world.sites.sites.pop(2)
        if arguments[1] == 4:
            world.sites.sites[2] = world.kept
            world.sites.broken.clear()
        return save(*arguments, **keywords)  # type: ignore[arg-type]

    world.store.save_round = restart  # type: ignore[method-assign, assignment]
    world.run()
    sites = [record["sites"] for record in world.store.records(world.job_id)]
    assert sites == [[1, 3]] * 4 + [[1, 2, 3]] * 2


@pytest.mark.parametrize("first", [True, False])
def test_without_noise_a_failing_site_is_never_left_aside_under_protection(tmp_path: Path, *, first: bool) -> None:
    """Two sums over different sites would show what one of them sent; and the first sum decides which sites these are."""
    world = World(tmp_path, tiny_job(rounds=1, protection="masking"), sites=6)
    if not first:
        world.store.set_cohort("toy/0", [1, 2, 3, 4, 5, 6])
    lost = Losing(world.sites, 4, until_s=60.0, clock=world.clock)
    world.sites = lost  # type: ignore[assignment]
    world.run()
    attempts = [event.fields["sites"] for event in world.events if event.kind == "attempt"]
    assert attempts == [[1, 2, 3, 4, 5, 6]] * len(attempts)
    assert len(attempts) > 6
    assert all(record["sites"] == [1, 2, 3, 4, 5, 6] for record in world.store.records(world.job_id))
    waiting = next(event.fields for event in world.events if event.kind == "waiting")
    assert waiting["sites"] == [4]
    assert ("always over the same sites" in str(waiting["text"])) != first


class Losing:
    """Site 4 loses every second exchange, so that it has begun each sum that fails."""

    def __init__(self, sites: Here, site: int, *, until_s: float, clock: ManualClock) -> None:
        self.inner, self._site, self._until_s, self._clock = sites, site, until_s, clock

    def online(self) -> tuple[int, ...]:
        return self.inner.online()

    def exchange(
        self, requests: Mapping[int, tuple[Request, bytes]], timeout_s: float
    ) -> Iterator[tuple[int, Reply | SalusError, bytes]]:
        for site, reply, blob in self.inner.exchange(requests, timeout_s):
            lost = (
                site == self._site and requests[site][0].kind == "answer" and self._clock.monotonic_s() < self._until_s
            )
            yield (site, WireError("lost", remedy=""), b"") if lost else (site, reply, blob)


def test_an_interrupted_job_goes_on_where_it_was_and_ends_with_the_same_model(tmp_path: Path) -> None:
    whole = World(tmp_path / "whole", tiny_job(rounds=3))
    expected = whole.run()
    world = World(tmp_path / "cut", tiny_job(rounds=3))
    original = world.store.save_round

    def die_after_two(*arguments: object, **keywords: object) -> Path:
        path = original(*arguments, **keywords)  # type: ignore[arg-type]
        if arguments[1] == 2:
            raise SystemExit
        return path

    world.store.save_round = die_after_two  # type: ignore[method-assign, assignment]
    with pytest.raises(SystemExit):
        world.run()
    world.store = Checkpoints(tmp_path / "cut" / "c")
    assert np.allclose(world.run(), expected, atol=1e-6)
    assert "resumed" in world.kinds()
    assert [round_ for kind, round_, _ in world.sites.asked if kind == "train"] == [1] * 3 + [2] * 3 + [3] * 3


def test_a_cancelled_job_ends(tmp_path: Path) -> None:
    world = World(tmp_path, tiny_job())
    world.cancelled = True
    with pytest.raises(Cancelled):
        world.run()


def test_without_enough_sites_the_job_waits_and_then_says_so(tmp_path: Path) -> None:
    job = tiny_job(min_sites=3)
    short = job.model_copy(update={"job": job.job.model_copy(update={"join_timeout_s": 30.0})})
    world = World(tmp_path, short, sites=2)
    with pytest.raises(RoundError, match="at least 3 sites online"):
        world.run()
    assert "waiting" in world.kinds()


def test_a_final_measurement_that_fails_does_not_lose_the_model(tmp_path: Path) -> None:
    world = World(tmp_path, tiny_job())
    inner = world.sites.exchange

    def no_evaluation(
        requests: Mapping[int, tuple[Request, bytes]], timeout_s: float
    ) -> Iterator[tuple[int, Reply | SalusError, bytes]]:
        if next(iter(requests.values()))[0].kind == "evaluate":
            return iter(())
        return inner(requests, timeout_s)

    world.sites.exchange = no_evaluation  # type: ignore[method-assign]
    world.run()
    assert "not-evaluated" in world.kinds()
    assert len(world.store.records(world.job_id)) == 2


def test_under_protection_a_site_without_usable_data_contributes_nothing_and_does_not_say_so(tmp_path: Path) -> None:
    """Whether a site refuses would tell the coordinator something about its data."""
    world = World(tmp_path, tiny_job(rounds=1, protection="masking"), sites=6)
    without_data(tmp_path, {4})
    world.run()
    assert world.store.records(world.job_id)[0]["sites"] == [1, 2, 3, 4, 5, 6]
    assert "left-out" not in world.kinds()
    log = (tmp_path / "s4" / "events.jsonl").read_text()
    assert "no-data" in log
    assert "contributed-nothing" in log


def test_an_unprotected_job_hears_that_a_site_has_no_data(tmp_path: Path) -> None:
    world = World(tmp_path, tiny_job(rounds=1), sites=3)
    world.sites.sites[2]._catalogue.remove("toy")
    world.run()
    assert world.store.records(world.job_id)[0]["sites"] == [1, 3]


def test_the_cohort_of_a_data_set_outlives_the_job(tmp_path: Path) -> None:
    world = World(tmp_path, tiny_job(rounds=1, protection="masking"), sites=8)
    world.run()
    job = tiny_job(rounds=2, protection="masking")
    impatient = job.model_copy(update={"job": job.job.model_copy(update={"join_timeout_s": 60.0})})
    world.job, world.signed = impatient, seal_job(impatient, world.coordinator)
    world.job_id = world.store.submit(world.signed, "again")
    away = world.sites.sites.pop(8)
    with pytest.raises(RoundError, match="including those of the earlier rounds"):
        world.run()
    world.sites.sites[8] = away
    world.job_id = world.store.submit(world.signed, "again")
    world.run()
    assert world.store.records(world.job_id)[1]["sites"] == list(range(1, 9))


def test_evaluation_is_only_for_the_end_and_training_never(tmp_path: Path) -> None:
    world = World(tmp_path, tiny_job(rounds=2, protection="masking"), sites=5)
    attempts = Attempts(
        world.job, world.job_id, world.signed, world.sites, world.store, EventLog(), world.keys, world.transcript
    )  # fmt: skip
    run = JobRun(attempts)
    model = run.layout.encode(run.model)
    for kind, round_ in (("evaluate", 1), ("evaluate", 2), ("train", 3)):
        request = Request.model_validate(
            {"kind": kind, "job_id": "x", "job": world.signed, "round": round_, "attempt": 0, "sites": (1, 2, 3, 4, 5)}
        )
        assert world.sites.sites[1].handle(request, model)[0].error == "Refused"


class Poisoner:
    """Site 1 sends site 5 a box of shares that does not open, so that site 5 stops in the middle of the session."""

    def __init__(self, sites: Here) -> None:
        self.inner = sites

    def online(self) -> tuple[int, ...]:
        return self.inner.online()

    def exchange(
        self, requests: Mapping[int, tuple[Request, bytes]], timeout_s: float
    ) -> Iterator[tuple[int, Reply | SalusError, bytes]]:
        for site, reply, blob in self.inner.exchange(requests, timeout_s):
            assert isinstance(reply, Reply)
            if site == 1 and 0 < len(blob) < 1000 and len(blob) % 4 == 0 and len(blob) // 4 > 4 and self._boxes(blob):
                blob = blob[:-40] + bytes(40)
            yield site, reply, blob

    def _boxes(self, blob: bytes) -> bool:
        """Whether this reply is a table of boxes for the sites 2 to 5."""
        width = len(blob) // 4
        return [int.from_bytes(blob[n * width : n * width + 4], "big") for n in range(4)] == [2, 3, 4, 5]


def test_a_lying_site_can_stop_a_job_but_cannot_expel_another_from_the_cohort(tmp_path: Path) -> None:
    world = World(tmp_path, tiny_job(min_sites=4, protection="masking"), sites=5)
    honest = world.sites
    world.sites = Poisoner(honest)  # type: ignore[assignment]
    # Four survivors are too few for five sites, so the smallest cohort is lowered: the rule must hold where they are enough.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("salus.privacy.protocol.parameters.SMALLEST_COHORT", 4)
        with pytest.raises(RoundError, match="failed in"):
            world.run()
        abandoned = [str(event.fields["text"]) for event in world.events if event.kind == "abandoned"]
        assert all("Sites 5 began the first sum over toy/0 and did not finish it" in text for text in abandoned)
        named = [event.fields for event in world.events if event.kind == "left-out"]
        assert {fields["site"] for fields in named} == {5}
        assert all("site 1" in str(fields["text"]) for fields in named), "the victim's answer names the liar"
        assert world.store.cohort("toy/0") == ()
        world.sites = honest
        world.run()
        assert world.store.cohort("toy/0") == (1, 2, 3, 4, 5)


def test_every_site_that_is_not_asked_is_named_with_the_reason_once(tmp_path: Path) -> None:
    world = World(tmp_path, tiny_job(rounds=3))
    away = world.sites.sites.pop(2)
    assert away is not None
    world.run()
    told = [(event.fields["site"], event.fields["text"]) for event in world.events if event.kind == "not-asked"]
    assert told == [(2, "offline")]


def test_who_is_outside_the_cohort_is_told_so(tmp_path: Path) -> None:
    world = World(tmp_path, tiny_job(protection="masking", min_sites=5), sites=6)
    world.store.set_cohort("toy/0", [1, 2, 3, 4, 5])
    world.run()
    (event,) = [event for event in world.events if event.kind == "not-asked"]
    assert event.fields["site"] == 6
    assert "not in the cohort of toy in epoch 0" in str(event.fields["text"])


def without_data(folder: Path, sites: set[int]) -> None:
    """Damage the data of these sites: they fit by their declaration, and still contribute nothing."""
    for number in sites:
        (folder / f"s{number}" / "toy.npz").write_bytes(b"")


@pytest.mark.parametrize("protection", ["masking", "encryption"])
def test_an_update_of_one_hospital_is_never_the_sum_over_five(tmp_path: Path, protection: str) -> None:
    """Finding A: the job fits data that one hospital has; the others send zeros, and the sum is its update."""
    holder = 'encryption"\nkey_holder = 2 #' if protection == "encryption" else protection
    job = tiny_job(rounds=1, protection=holder)
    world = World(tmp_path, job, sites=5)
    for site in world.sites.sites.values():
        site._policy = lambda: Policy(allow_without_noise=True, key_holders=(2,))
    without_data(tmp_path, {1, 2, 4, 5})
    with pytest.raises(RoundError, match="not opened: fewer than 5 sites contributed data"):
        world.run()
    assert world.store.records(world.job_id) == []
    told = " ".join(str(event.fields) for event in world.events)
    assert "contributed training data" not in told, "the coordinator must not learn who contributed"
    details = [event.fields.get("detail") for event in read_events(tmp_path / "s2" / "events.jsonl")]
    assert any("1 sites contributed training data: [3]" in str(detail) for detail in details)


def test_a_job_that_is_repeated_after_one_hospital_lost_its_data_is_not_summed(tmp_path: Path) -> None:
    """The difference of the two sums would be that hospital's update."""
    world = World(tmp_path, tiny_job(rounds=1, protection="masking"), sites=6)
    world.run()
    without_data(tmp_path, {6})
    world.job_id = world.store.submit(world.signed, "again")
    world.transcript = Transcript(tmp_path / "again.jsonl")
    with pytest.raises(RoundError, match="not opened"):
        world.run()


def test_a_hospital_that_gets_data_later_leaves_them_out_until_the_next_epoch(tmp_path: Path) -> None:
    """Its data would make the contributors others than before, and no sum of the epoch could be opened any more."""
    world = World(tmp_path, tiny_job(rounds=2, protection="masking"), sites=6)
    kept = (tmp_path / "s6" / "toy.npz").read_bytes()
    without_data(tmp_path, {6})
    save = world.store.save_round

    def data_arrive(*arguments: object, **keywords: object) -> Path:
        (tmp_path / "s6" / "toy.npz").write_bytes(kept)
        return save(*arguments, **keywords)  # type: ignore[arg-type]

    world.store.save_round = data_arrive  # type: ignore[method-assign, assignment]
    world.run()
    assert [record["cohort"]["patients"] for record in world.store.records(world.job_id)] == [200, 200]  # type: ignore[index]
    events = read_events(tmp_path / "s6" / "events.jsonl")
    assert any("contributed no training data to an earlier sum" in str(event.fields.get("text")) for event in events)


def test_a_mutant_that_leaves_a_site_aside_in_a_sum_without_noise_gets_no_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator's rules only save it useless attempts; that two sums differ in a site is prevented by the sites."""
    job = tiny_job(rounds=2, protection="masking", min_sites=5)
    world = World(tmp_path, job.model_copy(update={"job": job.job.model_copy(update={"join_timeout_s": 5.0})}), sites=6)
    announced: list[tuple[int, ...]] = []
    monkeypatch.setattr(Inviting, "_invited", lambda self: (1, 2, 3, 4, 5) if announced else (1, 2, 3, 4, 5, 6))
    monkeypatch.setattr(Attempts, "_check_cohort", lambda self, survivors: announced.append(tuple(sorted(survivors))))
    with pytest.raises(RoundError, match="Round 2 failed"):
        world.run()
    assert set(announced) == {(1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5)}
    assert [record["sites"] for record in world.store.records(world.job_id)] == [[1, 2, 3, 4, 5, 6]]
    sums = [line for line in (tmp_path / "transcript.jsonl").read_text().splitlines() if '"kind":"sum"' in line]
    assert len(sums) <= 1
    assert any("earlier" in str(event.fields.get("text")) for event in world.events if event.kind == "left-out")
