"""Weights as data: the list and the numbers are checked by hash before anything is used."""

import hashlib
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.starts import HEAD, started_job, trained_weights

from salus.common.canonical import canonical_json, u32
from salus.common.errors import JobError, NoStart, StartError
from salus.common.models import build_model
from salus.common.start.applying import first_network, specs_taken, taken_by
from salus.common.start.store import CoordinatorStarts, SiteStarts
from salus.common.start.weights import MAX_BYTES, Line, Weights, decode, weights_of
from salus.common.tensors import encode_tensors


def test_weights_come_back_from_their_wire_form() -> None:
    weights = trained_weights()
    found = decode(weights.encode(), weights.digest)
    assert found.lines == weights.lines
    assert all(np.array_equal(found.tensors[name], values) for name, values in weights.tensors.items())


def test_only_what_a_job_takes_travels_and_the_hash_is_that_of_all() -> None:
    weights = trained_weights(classes='["a", "b", "c"]')  # another last layer, which is new
    job = started_job(weights)
    network = build_model(job.task, job.job.seed)
    taken = taken_by(job, network, weights.lines)
    data = weights.encode(taken)
    assert not any(name.startswith(HEAD) for name in taken)
    assert decode(data, weights.digest, specs_taken(job)).digest == weights.digest
    started = dict(first_network(job, decode(data, weights.digest, specs_taken(job))).named_parameters())
    for name, parameter in network.named_parameters():
        expected = parameter.detach().numpy() if name.startswith(HEAD) else weights.tensors[name]
        assert np.array_equal(started[name].detach().numpy(), expected)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_changed_byte_is_accepted(data: st.DataObject) -> None:
    weights = trained_weights()
    whole = bytearray(weights.encode())
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(StartError):
        decode(bytes(whole), weights.digest)


@settings(max_examples=60, deadline=None)
@given(junk=st.binary(max_size=200))
def test_junk_is_refused(junk: bytes) -> None:
    with pytest.raises(StartError):
        decode(junk, trained_weights().digest)


def forged(lines: object) -> tuple[bytes, str]:
    document = canonical_json(lines)
    digest = "sha256:" + hashlib.sha256(document).hexdigest()
    return u32(len(document)) + document + encode_tensors({}), digest


@pytest.mark.parametrize(
    "lines",
    [
        [], {}, "x", [["w", [2], "00"]], [["", [2], "0" * 64]], [["w", [-1], "0" * 64]], [["w", [True], "0" * 64]],
        [["w", [2] * 9, "0" * 64]], [["w", [2], "0" * 64]] * 2, [["w", [MAX_BYTES], "0" * 64]],
        [["w", [2**20, 2**20, 2**20], "0" * 64]], [["w" * 600, [1], "0" * 64]], [["w", [1], "0" * 64, 1]],
    ],
)  # fmt: skip
def test_a_list_that_is_none_or_too_large_is_refused_before_anything_is_allocated(lines: object) -> None:
    data, digest = forged(lines)
    with pytest.raises(StartError):
        decode(data, digest)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1.1e6, -3e38])
def test_numbers_that_no_trained_network_has_are_refused_on_both_ways(number: float) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 1))
    with torch.no_grad():
        network[0].bias[0] = number  # type: ignore[index]
    with pytest.raises(StartError, match=r"0\.bias' has numbers that are not finite"):
        weights_of(network)
    values = np.array([number], np.float32)
    line = Line("w", (1,), hashlib.sha256(values.tobytes()).hexdigest())
    crafted = Weights((line,), {"w": values})
    with pytest.raises(StartError, match="not finite"):
        decode(crafted.encode(), crafted.digest)


def renamed(lines: list[list[object]]) -> None:
    lines[0][0] = "other.weight"


def reshaped(lines: list[list[object]]) -> None:
    lines[0][1] = [16, 3, 3]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (renamed, r"it has no parameter '0\.weight'"),
        (reshaped, r"'0\.weight' has shape \[16, 3, 3\], the job's \[16, 1, 3, 3\]"),
    ],
)
def test_weights_of_another_model_are_named(change: Callable[[list[list[object]]], None], what: str) -> None:
    weights = trained_weights()
    lines = json.loads(weights.document)
    change(lines)
    other = tuple(Line(name, tuple(shape), sha256) for name, shape, sha256 in lines)
    with pytest.raises(StartError, match=what):
        taken_by(started_job(weights), build_model(started_job(weights).task, 0), other)


def test_a_last_layer_for_other_classes_is_refused_unless_it_is_new() -> None:
    weights = trained_weights(classes='["a", "b", "c"]')
    with pytest.raises(StartError, match=r"'12\.weight' has shape \[3, 32\], the job's \[2, 32\].*start\.new"):
        first_network(started_job(weights, new="[]"), weights)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"new": '["13."]'}, "begins with '13.', which start.new lists"),
        ({"new": '["0."]'}, "'0.weight' is new and not trained"),
        ({"task": 'trainable = ["12.weight"]'}, "'12.bias' is new and not trained"),
        ({"new": '["12.", "12."]'}, "every one of new only once"),
        ({"start": "sha256:12"}, "weights"),
        ({"start": "../../x"}, "weights"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused(changes: dict[str, str], what: str) -> None:
    weights = trained_weights()
    with pytest.raises(JobError, match=what):
        first_network(started_job(weights, **changes), weights)


def test_a_job_without_its_weights_is_refused() -> None:
    with pytest.raises(NoStart, match="was not given"):
        first_network(started_job(trained_weights()), None)


def test_a_coordinator_keeps_starts_by_both_hashes(tmp_path):  # type: ignore[no-untyped-def]
    weights, starts = trained_weights(), CoordinatorStarts(tmp_path / "starts")
    job = started_job(weights)
    with pytest.raises(NoStart, match="does not have the package"):
        starts.of(job)
    assert job.start is not None
    starts.put(job.start, weights)
    found = starts.of(job)
    assert found is not None
    assert found.digest == weights.digest
    path = next((tmp_path / "starts").iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StartError):
        starts.of(job)


def test_a_site_keeps_a_few_starts_and_notices_a_damaged_one(tmp_path):  # type: ignore[no-untyped-def]
    starts, jobs = SiteStarts(tmp_path), []
    for seed in range(6):
        weights = trained_weights(seed)
        job = started_job(weights)
        jobs.append(job)
        starts.put(job, weights.encode([spec.name for spec in specs_taken(job)]))
    assert len(list(tmp_path.iterdir())) == 4
    assert not starts.has(jobs[0])
    assert starts.has(jobs[-1])
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    assert not starts.has(jobs[-1])
