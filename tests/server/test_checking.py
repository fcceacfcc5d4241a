"""What a coordinator concludes from sites' answers: who settles anything, what is remembered, what is refused and how."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.builders import tiny_job, toy_identity

from salus.common.clock import ManualClock
from salus.common.console import out
from salus.common.declaration import Declaration
from salus.common.errors import LinkError, SalusError, UnfitError
from salus.common.fit import problems_of
from salus.common.identity import Identity
from salus.common.job import Job, seal_job
from salus.common.packets import Reply, Request
from salus.common.roster import Roster, RosterSite
from salus.common.verdict import Verdict
from salus.server.checking import Check, ask_sites, remember_sites
from salus.server.checkpoints import Checkpoints
from salus.server.commands.checking import show_check

DECLARED = Declaration(kind="images", classes=("no", "yes"), dimensions=(2,), channels=(1,))
CLOCK = ManualClock(datetime(2026, 11, 26, tzinfo=UTC))
SITES = 5


class Site:
    """How one site answers a check."""

    def __init__(self, declared: Declaration | None = DECLARED, text: str = "", blob: bytes | None = None) -> None:
        self.declared, self.text, self.blob = declared, text, blob

    def answer(self, number: int, job: Job) -> tuple[Reply | SalusError, bytes]:
        if self.text:
            return Reply(kind="refused", site=number, error="Refused", text=self.text), b""
        found = {"toy": self.declared}
        verdict = Verdict(problems=tuple(problems_of(job, found)), declarations=found)
        return Reply(kind="ok", site=number), verdict.encode() if self.blob is None else self.blob


class Limited(Site):
    """Answers no further check for now."""

    def answer(self, number: int, job: Job) -> tuple[Reply | SalusError, bytes]:
        return Reply(kind="refused", site=number, error="TooManyChecks", text="at most 30 checks"), b""


class Silent(Site):
    def answer(self, number: int, job: Job) -> tuple[Reply | SalusError, bytes]:
        return LinkError("no answer", remedy=""), b""


class Sites:
    """A federation of such sites; those that are not named are offline."""

    def __init__(self, sites: Mapping[int, Site], job: Job) -> None:
        self.sites, self.job = sites, job

    def online(self) -> tuple[int, ...]:
        return tuple(self.sites)

    def exchange(
        self, requests: Mapping[int, tuple[Request, bytes]], timeout_s: float
    ) -> Iterator[tuple[int, Reply | SalusError, bytes]]:
        assert all(request.kind == "check" for request, _ in requests.values())
        for number in requests:
            yield (number, *self.sites[number].answer(number, self.job))


def roster() -> Roster:
    """Return a roster of which only the sites' numbers, names and keys are used."""
    sites = tuple(
        RosterSite.model_construct(id=n, name=f"Site {n}", public_key=toy_identity(n).public_key.hex())
        for n in range(1, SITES + 1)
    )
    return Roster.model_construct(sites=sites)


@pytest.fixture
def store(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path)


def asked(store: Checkpoints, sites: Mapping[int, Site], job: Job | None = None) -> Check:
    job = job or tiny_job(protection="masking", privacy="")
    signed = seal_job(job, Identity.generate())
    return ask_sites(job, signed, roster(), Sites(sites, job), store, CLOCK)


def misspelt() -> Job:
    job = tiny_job(protection="masking", privacy="")
    return job.model_copy(update={"task": job.task.model_copy(update={"classes": ("no", "yess")})})


def test_all_fit(store: Checkpoints) -> None:
    found = asked(store, {n: Site() for n in range(1, 6)})
    assert found.possible
    found.require_possible()
    assert {site.source for site in found.sites} == {"asked"}


def test_a_job_that_nobody_can_run_is_refused_with_both_spellings_and_the_sites_once(store: Checkpoints) -> None:
    found = asked(store, {n: Site() for n in range(1, 6)}, misspelt())
    with pytest.raises(UnfitError, match="'yess'.*'yes'") as refused:
        found.require_possible()
    assert str(refused.value).count("'yess'") == 1
    assert "Sites 1, 2, 3, 4, 5:" in str(refused.value)


def test_who_is_offline_or_silent_settles_nothing(store: Checkpoints) -> None:
    needed = asked(store, {}).needed
    refusing = {n: Site(text="policy") for n in range(1, SITES - needed + 1)}
    assert asked(store, refusing).possible  # those that are left, all of them offline, are just enough
    one_more = {**refusing, SITES: Site(text="policy")}
    assert not asked(store, one_more).possible
    assert asked(store, {n: Silent() for n in range(1, 6)}).possible


def test_a_site_that_works_for_a_job_is_not_asked_and_what_it_declared_before_counts(store: Checkpoints) -> None:
    asked(store, {n: Site() for n in range(1, 6)})
    sites = {n: Site() for n in range(1, 6)}
    signed = seal_job(misspelt(), Identity.generate())
    found = ask_sites(misspelt(), signed, roster(), Sites(sites, misspelt()), store, CLOCK, {2: "tiny-0001"})
    assert [site.source for site in found.sites] == ["asked", "remembered", *["asked"] * 3]
    assert found.busy == "tiny-0001"
    assert all(site.refuses for site in found.sites)


def test_what_an_offline_site_declared_before_is_shown_and_settles_nothing(store: Checkpoints) -> None:
    asked(store, {n: Site() for n in range(1, 6)})
    found = asked(store, {1: Site()}, misspelt())
    assert [site.source for site in found.sites] == ["asked", *["remembered"] * 4]
    assert all(site.problems for site in found.sites)
    assert all(site.checked_at.startswith("2026-11-26") for site in found.sites)
    assert [site.refuses for site in found.sites] == [True, False, False, False, False]
    assert found.possible


def test_while_a_job_runs_online_sites_are_judged_by_what_they_declared(store: Checkpoints) -> None:
    everybody = set(range(1, 6))
    assert remember_sites(misspelt(), roster(), everybody, store, "running-0001").possible  # nobody was ever asked
    asked(store, {n: Site() for n in everybody})
    assert not remember_sites(misspelt(), roster(), everybody, store, "running-0001").possible
    assert remember_sites(
        tiny_job(protection="masking", privacy=""), roster(), everybody, store, "running-0001"
    ).possible


def test_garbage_is_a_refusal_and_is_not_remembered(store: Checkpoints) -> None:
    found = asked(store, {n: Site(blob=b"\xff" * 9) for n in range(1, 6)})
    assert not found.possible
    assert store.declarations(roster().sites[0].public_key) is None


def test_a_key_holder_that_refuses_ends_the_job(store: Checkpoints) -> None:
    text = tiny_job(protection="masking", privacy="").model_dump(mode="json")
    text["aggregation"] |= {"protection": "encryption", "key_holder": 2}
    job = Job.model_validate_json(json.dumps(text))
    sites = {n: Site() for n in range(1, 6)}
    assert asked(store, sites, job).possible
    assert not asked(store, {**sites, 2: Site(text="not as a key holder")}, job).possible


def test_declarations_of_another_version_are_as_if_never_heard(store: Checkpoints) -> None:
    store.put_declarations("k", {"toy": DECLARED, "new": None}, "2026")
    assert store.declarations("k") == ({"toy": DECLARED, "new": None}, "2026")
    with store._engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE declarations SET declared = replace(declared, '\"version\": 1', '\"version\": 2')"
        )
    assert store.declarations("k") is None


def test_the_screen_shows_each_site_and_each_reason_once(
    store: Checkpoints, capsys: pytest.CaptureFixture[str]
) -> None:
    asked(store, {n: Site() for n in range(1, 6)})
    show_check(asked(store, {1: Site(), 2: Site(), 3: Site(None)}, misspelt()).to_json(), "epsilon 2")
    shown = capsys.readouterr().out
    assert shown.count("'yess'") == 1
    assert "site 1, 2, 4, 5:" in shown
    assert "site 3: The data set 'toy' is registered here but not declared" in shown
    assert "site 4, 5: shown as declared on 2026-11-26" in shown
    assert "Privacy cost per patient: epsilon 2" in shown
    assert "3 of 5 cannot run it." in shown


def test_the_screen_says_that_a_silent_site_decides_nothing(
    store: Checkpoints, capsys: pytest.CaptureFixture[str]
) -> None:
    found = asked(store, {n: Site() for n in range(1, 6)}).to_json()
    found["sites"][1].update(source="unknown", problems=[])
    show_check(found, "")
    shown = capsys.readouterr().out
    assert "site 2: online, but without an answer in time" in shown
    assert "0 of 5 cannot run it. 1 did not answer." in shown


def test_the_screen_fits_on_80_columns_and_breaks_no_word(
    store: Checkpoints, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out, "width", 80)
    found = asked(store, {1: Site(), 2: Site(None)}, misspelt()).to_json()
    found["sites"][0]["name"] = "Children's Hospital"
    show_check(found, "")
    shown = capsys.readouterr().out
    assert "│" in shown
    for word in ("Children's", "Hospital", "cannot", "offline", "columns", "classes", "policy", "budget"):
        assert word in shown, shown


def test_a_site_that_was_asked_too_often_is_judged_by_what_it_declared(store: Checkpoints) -> None:
    asked(store, {n: Site() for n in range(1, 6)})
    sites = dict.fromkeys(range(1, 6), Limited())
    assert asked(store, sites).possible
    assert [(site.online, site.source, site.problems) for site in asked(store, sites).sites] == [
        (True, "remembered", ())
    ] * 5
    assert not asked(store, sites, misspelt()).possible


def test_numbers_without_names_are_mentioned(store: Checkpoints, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = DECLARED.model_copy(update={"classes": ("0", "1")})
    found = asked(store, {1: Site(numbers), 2: Site()}).to_json()
    show_check(found, "", "toy")
    assert "site 1: the labels of toy are numbers without declared names" in capsys.readouterr().out
    show_check(found, "")
    assert "numbers" not in capsys.readouterr().out
