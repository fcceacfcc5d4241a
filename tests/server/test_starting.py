"""Jobs that begin with a start: rounds over real sites, weights sent once, and everything that does not fit refused by name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.server.test_rounds import World
from tests.starts import HEAD, started_job, trained_weights

from salus.client.policy import Policy
from salus.common.errors import NoStart, Refused, RoundError, StartError
from salus.common.events import EventLog
from salus.common.job import Job, job_from_canonical
from salus.common.models import build_model
from salus.common.packets import HERE, Request
from salus.common.start.applying import first_network, specs_taken
from salus.common.start.weights import Weights
from salus.server.attempts import Attempts
from salus.server.checks import check_job
from salus.server.rounds import JobRun

NOISE = 'epsilon = 50.0\nsampling_rate = 0.5\npatients_per_site = 20\nclip_norm_l2 = 0.5\nevaluation_share = 0.2\nnoise = "{}"'
ALLOWED = Policy(allow_unprotected=True, allow_without_noise=True, allow_starts=("any",))
LORA = f'trainable = ["{HEAD}"]\n[task.lora]\nrank = 2'


class Started(World):
    """A world whose coordinator has a start, and whose sites allow it."""

    def __init__(
        self, folder: Path, job: Job, weights: Weights | None, policy: Policy = ALLOWED, sites: int = 3
    ) -> None:
        super().__init__(folder, job, sites, policy=policy)
        self.weights = weights

    def run(self) -> np.ndarray:
        events = EventLog(listeners=(self.events.append,))
        attempts = Attempts(
            self.job, self.job_id, self.signed, self.sites, self.store, events, self.keys, self.transcript,
            clock=self.clock, start=self.weights,
        )  # fmt: skip
        return JobRun(attempts).run()

    def texts(self) -> str:
        return " ".join(str(event.fields.get("text")) for event in self.events if event.kind == "left-out")


def frozen_are_those_of_the_start(world: Started, weights: Weights) -> dict[str, np.ndarray]:
    """Return the final model's file after a check that it is complete and that what is frozen did not change."""
    found = load_file(world.store.model_path(world.job_id, world.job.job.rounds))
    network = build_model(world.job.task, 0)
    parameters = dict(network.named_parameters())
    assert parameters.keys() <= found.keys()
    for name, parameter in parameters.items():
        if not parameter.requires_grad:
            assert np.array_equal(found[name], weights.tensors[name])
    return found


@pytest.mark.parametrize("task", [f'trainable = ["{HEAD}"]', LORA, ""])
def test_a_job_starts_from_weights_and_trains_only_what_it_says(tmp_path: Path, task: str) -> None:
    weights = trained_weights(classes='["a", "b", "c"]')
    job = started_job(weights, task=task)
    check_job(job, 3)
    world = Started(tmp_path, job, weights)
    final = world.run()
    found = frozen_are_those_of_the_start(world, weights)
    assert not np.array_equal(found["12.bias"], np.zeros(2))
    assert final.size == sum(p.numel() for p in build_model(job.task, 0).parameters() if p.requires_grad)
    asked = [kind for kind, *_ in world.sites.asked if kind == "start"]
    assert len(asked) == 6  # each of three sites is asked once and sent the weights once, not in every round


@pytest.mark.parametrize(
    ("noise", "protection"),
    [
        ("local", "masking"),
        pytest.param("local", "none", marks=pytest.mark.slow),
        pytest.param("distributed", "masking", marks=pytest.mark.slow),
        pytest.param("none", "masking", marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_sum_starts_from_weights(tmp_path: Path, noise: str, protection: str) -> None:
    weights = trained_weights()
    privacy = 'noise = "none"' if noise == "none" else NOISE.format(noise)
    job = started_job(weights, task=LORA, protection=protection, privacy=privacy, min_sites=5, rounds=1)
    check_job(job, 5)
    # With noise, any start is accepted: the default policy lists none.
    policy = ALLOWED if noise == "none" else Policy(allow_unprotected=True)
    budget = policy.budget.model_copy(update={"epsilon": 1e4})
    world = Started(tmp_path, job, weights, policy.model_copy(update={"budget": budget}), 5)
    world.run()
    frozen_are_those_of_the_start(world, weights)
    assert world.store.records(world.job_id)[-1]["sites"] == [1, 2, 3, 4, 5]


def test_a_coordinator_that_crashed_resumes_with_the_start_and_ends_with_the_same_model(tmp_path: Path) -> None:
    weights = trained_weights()
    job = started_job(weights, task=LORA, rounds=3)
    expected = Started(tmp_path / "whole", job, weights).run()
    world = Started(tmp_path / "cut", job, weights)
    original = world.store.save_round

    def crash(*arguments):  # type: ignore[no-untyped-def]
        original(*arguments)
        if arguments[1] == 2:
            raise KeyboardInterrupt

    world.store.save_round = crash  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        world.run()
    world.store.save_round = original  # type: ignore[method-assign]
    world.sites.asked.clear()
    assert np.array_equal(world.run(), expected)
    assert [kind for kind, *_ in world.sites.asked].count("start") == 3  # asked again; nothing is sent twice


def test_a_site_that_lost_the_start_gets_it_again(tmp_path: Path) -> None:
    weights = trained_weights()
    world = Started(tmp_path, started_job(weights, min_sites=3), weights)
    site, original = world.sites.sites[2], world.store.save_round

    def lose(*arguments):  # type: ignore[no-untyped-def]
        original(*arguments)
        for path in (tmp_path / "s2" / "starts").iterdir():
            path.unlink()
        site._running = None

    world.store.save_round = lose  # type: ignore[method-assign]
    world.run()
    assert "has not arrived" in world.texts()
    assert [record["sites"] for record in world.store.records(world.job_id)] == [[1, 2, 3], [1, 2, 3]]


def sent(world: Started, number: int, blob: bytes) -> str:
    reply, _ = world.sites.sites[number].handle(Request(kind="start", job=world.signed, job_id=world.job_id), blob)
    return reply.text if reply.kind == "refused" else ""


def test_a_site_refuses_other_weights_than_those_whose_hash_the_job_names(tmp_path: Path) -> None:
    weights, other = trained_weights(7), trained_weights(8)
    world = Started(tmp_path, started_job(weights), weights)
    names = [spec.name for spec in specs_taken(world.job)]
    assert "the job names" in sent(world, 1, other.encode(names))
    mixed = Weights(weights.lines, {**weights.tensors, "0.weight": other.tensors["0.weight"]})
    assert "'0.weight' is not the one whose hash the job names" in sent(world, 1, mixed.encode(names))
    assert "not those that the job takes" in sent(world, 1, weights.encode(names[:-1]))
    assert sent(world, 1, weights.encode(names)) == ""
    reply, answer = world.sites.sites[1].handle(Request(kind="start", job=world.signed, job_id=world.job_id), b"")
    assert (reply.kind, answer) == ("ok", HERE)


def test_a_coordinator_that_sends_other_weights_gets_no_round(tmp_path: Path) -> None:
    weights, other = trained_weights(7), trained_weights(8)
    for noised in (False, True):
        more = {"privacy": NOISE.format("local"), "protection": "masking"} if noised else {}
        world = Started(tmp_path / str(noised), started_job(weights, task="", **more), other)  # type: ignore[arg-type]
        with pytest.raises(RoundError, match="failed in"):
            world.run()
        assert "the job names" in world.texts()
        assert "has not arrived at this site" in world.texts()


@pytest.mark.parametrize(
    ("first", "change"),
    [
        (
            0.5,
            lambda value: value + np.float32(1e-6),
        ),  # less than what rounding would explain in a model that a seed gives
        (0.0, lambda value: -value),  # an equal number with other bits
    ],
)
def test_a_coordinator_that_changes_started_parameters_of_round_1_is_refused(
    tmp_path: Path, first: float, change: Callable[[np.float32], np.float32]
) -> None:
    weights = trained_weights(first=first)
    job = started_job(weights, task="", new="[]")
    world = Started(tmp_path, job, weights)
    events = EventLog(listeners=(world.events.append,))
    attempts = Attempts(
        world.job,
        world.job_id,
        world.signed,
        world.sites,
        world.store,
        events,
        world.keys,
        clock=world.clock,
        start=weights,
    )
    run = JobRun(attempts)
    run.model = run.model.copy()
    run.model[0] = change(run.model[0])
    with pytest.raises(RoundError):
        run.run()
    assert "'0.weight' in the model of round 1 is not that of the start" in world.texts()


def test_without_noise_a_site_accepts_only_starts_that_its_policy_lists(tmp_path: Path) -> None:
    weights = trained_weights()
    job = started_job(weights)
    policy = Policy(allow_unprotected=True, allow_without_noise=True)
    with pytest.raises(Refused, match=f"does not list: {weights.digest}"):
        policy.check(job)
    policy.model_copy(update={"allow_starts": (weights.digest,)}).check(job)
    with pytest.raises(Refused):
        policy.model_copy(update={"allow_starts": (trained_weights(8).digest,)}).check(job)
    world = Started(tmp_path, job, weights, policy)
    assert "does not list" in sent(world, 1, weights.encode())


def test_a_wide_new_layer_on_frozen_features_is_an_imprint_layer(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(12)]
    weights = trained_weights()
    job = started_job(weights)
    wide = job.model_copy(update={"task": job.task.changed(classes=tuple(names))})
    world = Started(tmp_path, job, weights)
    from salus.client.model_checks import check_imprint

    check_imprint(world.job, ())
    with pytest.raises(Refused, match="wide layer directly on the input: 12"):
        check_imprint(wide, ())


def test_a_job_of_before_keeps_its_bytes_and_has_no_start() -> None:
    import json

    from salus.common.canonical import canonical_json

    weights = trained_weights()
    values = json.loads(started_job(weights).canonical_bytes())
    del values["start"], values["task"]["lora"], values["task"]["frozen"]
    old = job_from_canonical(canonical_json(values))
    assert old.start is None
    assert old.task.lora is None
    assert old.canonical_bytes() == canonical_json(values)
    assert first_network(old, None) is not None


def test_the_coordinator_refuses_a_job_without_its_weights(tmp_path: Path) -> None:
    world = Started(tmp_path, started_job(trained_weights()), None)
    with pytest.raises(NoStart):
        world.run()
    with pytest.raises(StartError, match="not trained"):
        check_job(started_job(trained_weights(), new='["0."]'), 3)
