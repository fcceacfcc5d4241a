"""Random worlds and schedules: drops of requests and replies, duplicates, reordering, restarts of sites and coordinator.

A failing schedule is shrunk by hypothesis and kept in ``failing-schedule.json`` beside this file;
`test_a_kept_schedule_is_played_again` plays it until it passes, then the file may be deleted.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.privacy.masking.world import World

from salus.common.errors import ProtectionError
from salus.privacy.masking.coordinator import Step
from salus.privacy.masking.site import MaskingSite, State
from salus.privacy.masking.transcript import MaskedCheck
from salus.privacy.protocol.session import Session
from salus.privacy.protocol.tables import read_ids
from salus.privacy.protocol.transcript import verify_transcript

SCHEDULE = st.fixed_dictionaries(
    {
        "n": st.integers(3, 14),
        "seed": st.integers(0, 2**16),
        # per exchange: sites whose request is lost, whose reply is lost, that restart, whose reply arrives twice
        "lost_requests": st.lists(st.frozensets(st.integers(1, 14), max_size=2), min_size=5, max_size=5),
        "lost_replies": st.lists(st.frozensets(st.integers(1, 14), max_size=2), min_size=5, max_size=5),
        "restarts": st.lists(st.frozensets(st.integers(1, 14), max_size=1), min_size=5, max_size=5),
        "twice": st.lists(st.frozensets(st.integers(1, 14), max_size=3), min_size=5, max_size=5),
        "coordinator_dies_at": st.none() | st.integers(1, 5),
        "reverse": st.booleans(),
        "attempts": st.integers(1, 2),
    }
)


class Released:
    """What honest sites have released, for the invariants."""

    def __init__(self) -> None:
        self.secrets: dict[tuple[bytes, int], set[str]] = {}
        self.consents: dict[tuple[bytes, int], set[bytes]] = {}
        self.mask_keys: dict[bytes, tuple[bytes, int]] = {}

    def note(self, site: MaskingSite, number: int, session: bytes, step: int, request: bytes, reply: bytes) -> None:
        if step == 1:
            key = reply[32:64]
            assert self.mask_keys.setdefault(key, (session, number)) == (session, number), "a mask key was used twice"
        if step == 4:
            signed = self.consents.setdefault((session, number), set())
            signed.add(request)
            assert len(signed) == 1, "two consents in one session"
        if step == 5:
            for owner in sorted(site._survivors):
                self.secrets.setdefault((session, owner), set()).add("seed")
            for owner in sorted(site._shared - site._survivors):
                self.secrets.setdefault((session, owner), set()).add("mask")

    def check(self) -> None:
        for (_, owner), opened in self.secrets.items():
            assert len(opened) == 1, f"both secrets of site {owner} were opened"


def play_and_keep(plan: Mapping[str, object]) -> None:
    """Play a schedule; if an invariant breaks, keep it in a file."""
    try:
        play(plan)
    except BaseException:
        KEPT.write_text(json.dumps(plan, default=sorted, indent=1))
        raise


def _thaw(value: object) -> object:
    return [frozenset(part) for part in value] if isinstance(value, list) else value


def play(plan: Mapping[str, object]) -> tuple[int, int]:
    """Play a schedule over all its attempts; returns how many sums came out right and how many attempts were abandoned."""
    released, finished, abandoned = Released(), 0, 0
    world = World(int(plan["n"]), seed=int(plan["seed"]))  # type: ignore[call-overload]
    del world.record[1:]  # the constructor's own session is never played
    for attempt in range(int(plan["attempts"])):  # type: ignore[call-overload]
        old = world.session
        world.session = Session(old.job_id, 1, attempt, old.manifest_hash, old.model_hash, old.roster)
        world.sites = {site: world.site(site) for site in world.keys}
        world.coordinator = world.new_coordinator()
        try:
            _attempt(world, plan, released)
            finished += 1
        except ProtectionError:
            assert world.coordinator.step in (
                Step.ABANDONED,
                Step.ADVERTISING,
                Step.SHARING,
                Step.MASKING,
                Step.CONSENTING,
                Step.UNMASKING,
            )
            abandoned += 1
        released.check()
    verify_transcript(world.record, world.keys, MaskedCheck)
    return finished, abandoned


def _attempt(world: World, plan: Mapping[str, object], released: Released) -> None:
    requests: Mapping[int, bytes] | None = dict.fromkeys(world.keys, b"")
    complaints: list[tuple[int, str]] = []
    for step in range(1, 6):
        assert requests is not None
        if plan["coordinator_dies_at"] == step:
            raise ProtectionError("the coordinator's process ended", remedy="")
        replies: list[tuple[int, bytes]] = []
        for number, request in requests.items():
            if number in plan["restarts"][step - 1]:  # type: ignore[index]
                world.sites[number] = world.site(number)  # its session is gone; its store remembers
            if number in plan["lost_requests"][step - 1]:  # type: ignore[index]
                continue
            reply = _ask(world, number, step, request, released)
            if reply is not None and number not in plan["lost_replies"][step - 1]:  # type: ignore[index]
                replies += [(number, reply)] * (2 if number in plan["twice"][step - 1] else 1)  # type: ignore[index]
        if plan["reverse"]:
            replies.reverse()
        for number, reply in replies:
            try:
                world.coordinator.receive(number, reply)
            except ProtectionError as problem:
                complaints.append((number, str(problem)))
        requests = world.coordinator.close()
    assert requests is None
    assert all(f"ite {number}" in text for number, text in complaints), complaints
    result = world.coordinator.result
    assert len(result.sites) >= world.coordinator._limits.needed
    words = np.rint(result.vector * 2**20).astype(np.int64).astype(np.uint32)
    assert np.array_equal(words, world.expected()), "the sum is not the sum"


def _ask(world: World, number: int, step: int, request: bytes, released: Released) -> bytes | None:
    site = world.sites[number]
    try:
        reply = site.open_words(world.inputs[number].copy()) if step == 1 else site.answer(request)
    except ProtectionError:
        assert site.state is State.FAILED or site.state is State.NEW
        return None
    if step == 4:
        assert number in read_ids(request, "x")
    released.note(site, number, world.session.id, step, request, reply)
    return reply


KEPT = Path(__file__).with_name("failing-schedule.json")
QUIET = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(QUIET, max_examples=150)
@given(SCHEDULE)
def test_random_schedules_keep_every_invariant(plan: dict[str, object]) -> None:
    play_and_keep(plan)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@settings(QUIET, max_examples=10_000)
@given(SCHEDULE)
def test_ten_thousand_random_schedules(plan: dict[str, object]) -> None:
    play_and_keep(plan)


def test_a_kept_schedule_is_played_again() -> None:
    if not KEPT.exists():
        pytest.skip("there is no failing schedule")
    play({key: _thaw(value) for key, value in json.loads(KEPT.read_text()).items()})


def test_a_failing_schedule_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "KEPT", tmp_path / "kept.json")
    monkeypatch.setitem(globals(), "play", lambda plan: pytest.fail("made to fail"))
    with pytest.raises(pytest.fail.Exception):
        play_and_keep({"n": 3, "restarts": [frozenset({1})]})
    kept = {key: _thaw(value) for key, value in json.loads((tmp_path / "kept.json").read_text()).items()}
    assert kept == {"n": 3, "restarts": [frozenset({1})]}


def test_the_harness_sees_sums_and_abandoned_attempts() -> None:
    """The schedules above would prove nothing if none of them ever finished."""
    empty: list[frozenset[int]] = [frozenset()] * 5
    calm: dict[str, object] = {
        "n": 8, "seed": 1, "lost_requests": empty, "lost_replies": empty, "restarts": empty, "twice": empty,
        "coordinator_dies_at": None, "reverse": True, "attempts": 2,
    }  # fmt: skip
    assert play(calm) == (2, 0)
    assert play({**calm, "coordinator_dies_at": 4}) == (0, 2)
    lost = [frozenset[int](), frozenset[int](), frozenset({1, 2, 3}), frozenset[int](), frozenset[int]()]
    assert play({**calm, "lost_replies": lost}) == (0, 2)
    one = [frozenset[int](), frozenset[int](), frozenset({3}), frozenset[int](), frozenset[int]()]
    assert play({**calm, "lost_replies": one}) == (2, 0)
