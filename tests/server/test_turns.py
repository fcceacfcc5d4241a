"""A site works for one attempt at a time, in the order in which the attempts asked, and nobody waits for ever."""

import threading
from contextlib import ExitStack

from hypothesis import given, settings
from hypothesis import strategies as st

from salus.server.turns import Turns


def test_an_attempt_waits_for_its_busy_sites_and_says_whom_it_waits_for() -> None:
    turns, told, begun = Turns(), threading.Event(), threading.Event()
    said: list[dict[int, str]] = []

    def second() -> None:
        with turns.hold("b", [2, 3], tell=lambda busy: (said.append(busy), told.set())):
            begun.set()

    with turns.hold("a", [1, 2]):
        thread = threading.Thread(target=second)
        thread.start()
        assert told.wait(60)
        assert said == [{2: "a"}]
        assert not begun.is_set()
        assert turns.busy() == {1: "a", 2: "a", 3: "b"}
    assert begun.wait(60)
    thread.join()
    assert turns.busy() == {}


def test_a_site_that_is_released_early_is_free_for_others() -> None:
    turns = Turns()
    with turns.hold("a", [1, 2, 3]) as mine:
        mine.keep([2])
        with turns.hold("b", [1, 3]):
            assert turns.busy() == {1: "b", 2: "a", 3: "b"}
        mine.release([2])
        with turns.hold("b", [2]):
            pass


def test_a_later_attempt_does_not_overtake_one_that_waits() -> None:
    turns, told = Turns(), threading.Event()
    said: dict[int, str] = {}
    with turns.hold("a", [1]):
        thread = threading.Thread(target=lambda: _hold(turns, "b", [1, 2], told))
        thread.start()
        assert told.wait(60)
        with turns.hold("c", [2], cancelled=lambda: True, tell=said.update):
            pass
    thread.join()
    assert said == {2: "b"}


def _hold(turns: Turns, job: str, sites: list[int], told: threading.Event) -> None:
    with turns.hold(job, sites, tell=lambda busy: told.set()):
        pass


def test_a_cancelled_job_stops_waiting() -> None:
    turns = Turns()
    with turns.hold("a", [1]):
        with turns.hold("b", [1], cancelled=lambda: True):
            pass
        assert turns.busy() == {1: "a"}


def test_only_free_sites_are_held_without_waiting() -> None:
    turns = Turns()
    with turns.hold("a", [1]), turns.hold_free("check", [1, 2]) as mine:
        assert mine.sites == {2}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sets(st.integers(1, 5), min_size=1), min_size=2, max_size=6))
def test_whatever_the_jobs_ask_for_each_gets_its_turn_and_no_site_works_for_two(wanted: list[set[int]]) -> None:
    turns, lock = Turns(), threading.Lock()
    working: dict[int, str] = {}
    errors: list[str] = []

    def work(name: str, sites: set[int]) -> None:
        for _ in range(5):
            with turns.hold(name, sites):
                with lock:
                    errors.extend(f"{site} works for {working[site]}" for site in sites if site in working)
                    working.update(dict.fromkeys(sites, name))
                with lock:
                    for site in sites:
                        del working[site]

    with ExitStack() as stack:
        for number, sites in enumerate(wanted):
            thread = threading.Thread(target=work, args=(f"job {number}", sites), daemon=True)
            thread.start()
            stack.callback(thread.join, 60)
    assert errors == []
    assert turns.busy() == {}
