"""Strategies with a half at the sites, over masked sums: real sites, real training, a kill in the middle."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.builders import job_text, toy_site
from tests.server.test_rounds import World

from salus.client.model_checks import first_model
from salus.client.running import RunningJob
from salus.client.state import JobStates
from salus.common.errors import OtherPast, Refused, RoundError, WireError
from salus.common.events import Event
from salus.common.job import Job, parse_job
from salus.common.packets import Request, refusal
from salus.common.strategies import strategy_of
from salus.common.strategies.wire import decode_model, encode_model
from salus.common.tensors import encode_tensors
from salus.common.vectors import STATE_PREFIX, Layout

SITES = 5


def job_of(strategy: str, rounds: int = 4, protection: str = "masking", more: str = "") -> Job:
    text = job_text(
        rounds=rounds, protection=protection, training='optimizer = "sgd"\nmomentum = 0.0\nvalidation_fraction = 0.0'
    )
    return parse_job(text.replace("max_patients = 50", f'max_patients = 50\nstrategy = "{strategy}"\n{more}'))


def scaffold(rounds: int = 4, protection: str = "masking") -> Job:
    return job_of("scaffold", rounds, protection, "local_steps = 6")


def own_states(folder: Path, round_: int) -> list[np.ndarray]:
    found = []
    for number in range(1, SITES + 1):
        place = folder / f"s{number}" / "states"
        (job,) = (path.name for path in place.iterdir())
        found.append(JobStates(place).load(job, round_ + 1)["control"])
    return found


def world_layout(world: World) -> Layout:
    running = world.sites.sites[1]._running
    assert isinstance(running, RunningJob)
    return running.trainer.layout


def server_state(world: World, round_: int) -> dict[str, np.ndarray]:
    tensors = load_file(world.store.model_path(world.job_id, round_))
    return {name.removeprefix(STATE_PREFIX): array for name, array in tensors.items() if name.startswith(STATE_PREFIX)}


def test_the_coordinator_knows_the_mean_of_the_control_variates_without_seeing_one(tmp_path: Path) -> None:
    world = World(tmp_path, scaffold(), sites=SITES)
    world.run()
    mean = np.mean(own_states(tmp_path, 4), axis=0)  # every toy hospital has the same number of patients
    found = server_state(world, 4)
    assert np.abs(mean).max() > 1e-3
    assert np.allclose(found["control"], mean, atol=2e-4)
    assert found["since"].tolist() == [1.0]


def test_the_masked_sum_gives_the_weights_of_the_plain_one(tmp_path: Path) -> None:
    masked = World(tmp_path / "masked", scaffold(), sites=SITES).run()
    plain = World(tmp_path / "plain", scaffold(protection="none"), sites=SITES).run()
    assert np.allclose(masked, plain, atol=1e-4)
    averaged = World(tmp_path / "averaged", job_of("fedavg", protection="none"), sites=SITES).run()
    assert not np.allclose(plain, averaged, atol=1e-3)


def test_a_site_that_restarts_in_the_middle_goes_on_with_what_it_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = World(tmp_path / "whole", scaffold(protection="none"), sites=SITES).run()
    folder = tmp_path / "restarted"
    world = World(folder, scaffold(protection="none"), sites=SITES)

    def restart(event: Event) -> None:
        if event.kind == "round" and event.fields["round"] == 2:
            world.sites.sites[2] = toy_site(folder / "s2b", 2, world.coordinator.public_key, sites=SITES)
            shutil.rmtree(folder / "s2b" / "states", ignore_errors=True)
            shutil.copytree(folder / "s2" / "states", folder / "s2b" / "states")

    world.events = _Listening(restart)  # type: ignore[assignment]
    assert np.array_equal(world.run(), whole)


def test_a_site_that_lost_what_it_kept_is_noticed_and_all_begin_again(tmp_path: Path) -> None:
    folder = tmp_path
    world = World(folder, scaffold(rounds=5), sites=SITES)

    def lose(event: Event) -> None:
        if event.kind == "round" and event.fields["round"] == 2:
            shutil.rmtree(folder / "s3" / "states")

    world.events = _Listening(lose)  # type: ignore[assignment]
    world.run()
    found = server_state(world, 5)
    assert found["since"].tolist() == [3.0]  # one site said so in round 3, and all began again in it
    assert np.allclose(found["control"], np.mean(own_states(folder, 5), axis=0), atol=2e-4)
    records = world.store.records(world.job_id)
    assert [record["cohort"]["restarted"] for record in records] == [0, 0, 0, 0, 0]  # type: ignore[index, call-overload]
    assert len([event for event in world.events if event.kind == "abandoned"]) == 1


@pytest.mark.parametrize(
    "way", ["it forgets the job", "another model in the round before", "another number of a round"]
)
def test_two_sums_never_differ_by_what_one_site_kept(tmp_path: Path, way: str) -> None:
    """A coordinator that changes the past of one site only would see, in the difference of two sums, this site's update."""
    world = World(tmp_path, scaffold(rounds=3), sites=SITES)
    asked: dict[int, tuple[Request, bytes]] = {}
    exchange = world.sites.exchange

    def noting(requests: Mapping[int, tuple[Request, bytes]], timeout_s: float) -> Iterator[object]:
        asked.update({request.round: (request, blob) for request, blob in requests.values() if request.kind == "train"})
        yield from exchange(requests, timeout_s)

    world.sites.exchange = noting  # type: ignore[assignment, method-assign]
    world.run()
    site, layout = world.sites.sites[3], world_layout(world)
    request, blob = asked[3]
    shape = site._running.shape(request, "train")  # type: ignore[union-attr]
    first = world.attempts.sum(3, "train", blob, shape)
    before, earlier = asked[2]
    sizes = {
        name: len(vector)
        for name, vector in strategy_of(world.job).sent(strategy_of(world.job).init(layout.size)).items()
    }
    model, sent = decode_model(earlier, layout, sizes)
    forged = {
        "it forgets the job": Request(kind="end", job_id=world.job_id, job=world.signed),
        "another model in the round before": before.model_copy(update={"attempt": 90}),
        "another number of a round": before.model_copy(update={"attempt": 91}),
    }[way]
    other = {
        "it forgets the job": b"",
        "another model in the round before": encode_model(layout, model + 1, {**sent, "since": sent["round"]}),
        "another number of a round": encode_model(
            layout, model, {**sent, "round": sent["round"] + 7, "since": sent["round"] + 7}
        ),
    }[way]
    assert site.handle(forged, other)[0].kind == "ok"
    assert site.handle(request.model_copy(update={"attempt": 92}), blob)[0].error == "OtherPast"
    with pytest.raises(RoundError):
        world.attempts.sum(3, "train", blob, shape)
    assert len(first.sites) == SITES


def test_a_site_that_contributes_nothing_does_not_say_what_it_kept(tmp_path: Path) -> None:
    world = World(tmp_path, scaffold(rounds=2), sites=SITES)
    asked: list[tuple[Request, bytes]] = []
    exchange = world.sites.exchange

    def noting(requests: Mapping[int, tuple[Request, bytes]], timeout_s: float) -> Iterator[object]:
        asked.extend(pair for pair in requests.values() if pair[0].kind == "train")
        yield from exchange(requests, timeout_s)

    world.sites.exchange = noting  # type: ignore[assignment, method-assign]
    world.run()
    request, blob = asked[-1]
    shutil.rmtree(tmp_path / "s3" / "states")
    (tmp_path / "s3" / "toy.npz").unlink()
    site = world.sites.sites[3]
    site._running = None
    assert (
        site.handle(request.model_copy(update={"attempt": 90}), blob)[0].kind == "ok"
    )  # zeros, as without data in any job


class _Listening(list[Event]):
    """A list of events that tells a listener about each."""

    def __init__(self, listener: object) -> None:
        self.listener = listener

    def append(self, event: Event) -> None:
        super().append(event)
        self.listener(event)  # type: ignore[operator]


def test_fedprox_runs_masked_and_stays_nearer_to_the_model(tmp_path: Path) -> None:
    averaged = World(tmp_path / "a", job_of("fedavg", 1), sites=SITES).run()
    pulled = World(tmp_path / "b", job_of("fedprox", 1, more="proximal = 20.0"), sites=SITES).run()
    first = World(tmp_path / "c", job_of("fedavg", 1), sites=SITES)
    running = first.sites.sites[1].prepare(first.job, first.signed.document.encode(), "tiny-0001")
    assert isinstance(running, RunningJob)
    start = first_model(first.job, running.trainer.layout)
    assert np.linalg.norm(pulled - start) < 0.8 * np.linalg.norm(averaged - start)


def test_what_is_beside_the_model_is_checked_before_it_is_used(tmp_path: Path) -> None:
    world = World(tmp_path, scaffold(), sites=SITES)
    running = world.sites.sites[1].prepare(world.job, world.signed.document.encode(), "tiny-0001")
    assert isinstance(running, RunningJob)
    layout, strategy = running.trainer.layout, strategy_of(world.job)
    sent = strategy.sent(strategy.init(layout.size))
    sizes = {name: len(vector) for name, vector in sent.items()}
    model = np.zeros(layout.size, np.float32)
    assert decode_model(encode_model(layout, model, {}), layout, {})[1] == {}
    assert encode_model(layout, model, {}) == layout.encode(model)  # other strategies send what they always sent
    for wrong in (
        layout.encode(model),
        encode_model(layout, model, {**sent, "more": model}),
        encode_model(layout, model, {**sent, "control": sent["control"][:-1]}),
        encode_model(layout, model, {**sent, "control": sent["control"] * np.nan}),
        encode_tensors({**layout.unflatten(model), STATE_PREFIX + "control": model}),
    ):
        with pytest.raises(WireError):
            decode_model(wrong, layout, sizes)
    forged = encode_model(layout, model, {**sent, "control": sent["control"] + 1})
    with pytest.raises(Refused, match="begins with"):
        running.local.opened(forged, "train", 1)
    running.local.opened(forged, "train", 2)


def test_a_site_that_lies_about_what_it_kept_changes_nothing_for_other_strategies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, job_of("fedavg", 1, protection="none"), sites=SITES)
    reply = refusal(3, OtherPast("a lie", remedy=""), "a lie")
    monkeypatch.setattr(world.sites.sites[3], "handle", lambda request, blob: (reply, b""))
    monkeypatch.setattr(type(strategy_of(world.job)), "again", None)  # as of a plug-in that has none
    world.run()
    assert [event.fields["site"] for event in world.events if event.kind == "left-out"][:1] == [3]
