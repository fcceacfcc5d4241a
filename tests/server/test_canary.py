"""A canary goes the whole way, says what would stop a job at which site, and leaves everything as it was."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from tests.builders import tiny_job
from tests.server.test_rounds import Here, World, without_data

import salus.client.canary
from salus.client.policy import Policy
from salus.common.errors import SalusError
from salus.common.events import read_events
from salus.common.job import Job, parse_job
from salus.common.packets import Reply, Request
from salus.privacy.contribution import Contribution
from salus.server.canary import Canary
from salus.server.outline import outline_of

LOCAL = 'noise = "local"\nepsilon = 3.0\npatients_per_site = 40'
DISTRIBUTED = LOCAL.replace("local", "distributed")
POLICY = Policy(allow_unprotected=True, allow_without_noise=True, key_holders=(2,))
JOBS = {
    "unprotected": {},
    "masking": {"protection": "masking"},
    "encryption": {"protection": 'encryption"\nkey_holder = 2 #'},
    "local": {"protection": "masking", "privacy": LOCAL},
    "distributed": {"protection": "masking", "privacy": DISTRIBUTED},
}
STATISTICS = """
[job]
name = "measured"
rounds = 1
min_sites = 3
[task]
dataset = "toy"
classes = ["no", "yes"]
shape = [8, 8]
[aggregation]
protection = "masking"
[statistics]
kind = "summary"
intensity_low = 0.0
intensity_high = 1.0
bins = 16
min_patients = 5
"""


def tried(world: World) -> dict[str, object]:
    outline = outline_of(world.job, None) if world.job.statistics is None else None
    return Canary(world.job, world.signed, world.sites, world.keys, outline=outline).run()


def state_of(world: World, folder: Path) -> list[object]:
    """Return everything that a canary must not change."""
    found: list[object] = [world.store.cohort("toy/0"), world.store.jobs()]
    for number, site in world.sites.sites.items():
        store = site._store
        found += [dict(store._opened), dict(store._consents), dict(store._questions), dict(store._heads)]  # type: ignore[attr-defined]
        found += [site._ledger.entries(), site._running, site._catalogue.uses.jobs()]
        found += sorted(
            path.name for name in ("states", "starts") for path in (folder / f"s{number}").glob(f"{name}/*")
        )
    return found


ALL = [*(tiny_job(min_sites=3, **more) for more in JOBS.values()), parse_job(STATISTICS)]  # type: ignore[arg-type]


@pytest.mark.parametrize("job", ALL, ids=[*JOBS, "statistics"])
def test_a_canary_goes_the_whole_way_and_changes_nothing(tmp_path: Path, job: Job) -> None:
    world = World(tmp_path, job, sites=5, policy=POLICY)
    before = state_of(world, tmp_path)
    found = tried(world)
    assert found == {
        "needed": found["needed"],
        "tried": [1, 2, 3, 4, 5],
        "offline": [],
        "problems": {},
        "why": "",
        "possible": True,
    }
    assert state_of(world, tmp_path) == before
    assert any(event.kind == "canary" for event in read_events(tmp_path / "s1" / "events.jsonl"))


def test_a_job_runs_after_canaries_as_it_would_have_without_them(tmp_path: Path) -> None:
    job = tiny_job(rounds=1, min_sites=5, protection="masking")
    expected = World(tmp_path / "without", job, sites=5).run()
    world = World(tmp_path / "with", job, sites=5)
    away = world.sites.sites.pop(5)
    tried(world)  # over four sites: no cohort follows from it
    world.sites.sites[5] = away
    tried(world)
    assert np.allclose(world.run(), expected, atol=1e-5)
    assert world.store.records(world.job_id)[0]["sites"] == [1, 2, 3, 4, 5]


def test_what_would_stop_the_job_is_named_by_site(tmp_path: Path) -> None:
    world = World(tmp_path, tiny_job(min_sites=5, protection="masking"), sites=6, policy=POLICY)
    world.sites.sites[2]._policy = lambda: Policy()
    world.sites.broken[3] = "error"
    del world.sites.sites[6]
    found = tried(world)
    problems = found["problems"]
    assert isinstance(problems, dict)
    assert "allow_without_noise" in problems[2]
    assert problems[3] == "lost"
    assert (found["offline"], found["possible"]) == ([6], False)


def test_what_is_wrong_with_the_data_only_the_sites_operator_learns(tmp_path: Path) -> None:
    """Otherwise a coordinator could ask with crafted jobs whether one patient makes a site fail."""
    world = World(tmp_path, tiny_job(min_sites=5, protection="masking"), sites=5, policy=POLICY)
    whole = tried(world)
    without_data(tmp_path, {4})
    assert tried(world) == whole
    events = read_events(tmp_path / "s4" / "events.jsonl")
    assert [event.kind for event in events if event.kind.startswith("canary")] == ["canary", "canary-failed"]


class Recording(Here):
    """Keeps what each site answered."""

    def exchange(
        self, requests: Mapping[int, tuple[Request, bytes]], timeout_s: float
    ) -> Iterator[tuple[int, Reply | SalusError, bytes]]:
        for site, reply, blob in super().exchange(requests, timeout_s):
            self.said = [*getattr(self, "said", []), (site, blob)]
            yield site, reply, blob


def test_an_unprotected_canary_shows_zeros_and_a_mutant_that_sends_its_update_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, tiny_job(min_sites=3), sites=3, policy=POLICY)
    world.sites = Recording(world.sites.sites)
    assert tried(world)["possible"]
    assert len({blob for _, blob in world.sites.said}) == 1, "all sites answer the same bytes"
    zeros = salus.client.canary.zeros

    def leaking(*arguments: object, **more: object) -> Contribution:
        contribution = zeros(*arguments, **more)  # type: ignore[arg-type]
        return Contribution(contribution.update + 0.01, 1.0, contribution.statistics, contribution.data)

    monkeypatch.setattr(salus.client.canary, "zeros", leaking)
    assert tried(world)["why"] == "Expected a sum of zeros."


def test_a_canary_counts_as_a_check_of_the_data_set(tmp_path: Path) -> None:
    """It answers, too, whether the budget allows a job."""
    from salus.client.checking import CheckLimit

    world = World(tmp_path, tiny_job(min_sites=3), sites=3, policy=POLICY.model_copy(update={"checks_per_hour": 1}))
    for site in world.sites.sites.values():
        site._limit = CheckLimit(world.clock)
    assert tried(world)["possible"]
    problems = tried(world)["problems"]
    assert isinstance(problems, dict)
    assert all("at most 1 checks" in text for text in problems.values())
