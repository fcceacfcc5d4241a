"""Losses of class labels against slow oracles."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from salus.common.class_losses import CLASS_LOSSES, make_class_loss
from salus.common.errors import JobError
from salus.common.job import TaskSettings, parse_job

KEYS = {
    "class-balanced": {"class_counts": (900.0, 90.0, 10.0)},
    "logit-adjusted": {"class_shares": (0.9, 0.09, 0.01)},
}
GENERATOR = torch.Generator().manual_seed(3)
LOGITS = 3 * torch.randn(6, 3, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
FINDINGS = torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])


def settings(loss: str, kind: str = "classification", **more: object) -> TaskSettings:
    own = {**KEYS.get(loss, {}), **more}
    return TaskSettings(
        kind=kind, model="cnn", dataset="d", classes=("a", "b", "c"), shape=(8, 8), class_loss=loss, **own
    )


def by_hand(name: str, logits: list[float], label: int, counts: list[float]) -> float:
    shares = [0.9, 0.09, 0.01]
    if name == "logit-adjusted":
        logits = [x + math.log(share) for x, share in zip(logits, shares, strict=True)]
    if name == "site-calibrated":
        logits = [x - 1 / max(n, 1) ** 0.25 for x, n in zip(logits, counts, strict=True)]
    p = math.exp(logits[label]) / sum(map(math.exp, logits))
    loss = -math.log(p)
    if name == "focal":
        loss *= (1 - p) ** 2
    if name == "class-balanced":
        inverse = [(1 - 0.999) / (1 - 0.999**n) for n in (900, 90, 10)]
        loss *= 3 * inverse[label] / sum(inverse)
    return loss


@pytest.mark.parametrize("name", CLASS_LOSSES.names())
def test_a_loss_is_that_of_its_paper(name: str) -> None:
    counts = torch.tensor([80.0, 5.0, 0.0]).expand(6, -1)
    found = make_class_loss(name, settings(name))(LOGITS, LABELS, counts)
    wanted = [by_hand(name, x, y, [80.0, 5.0, 0.0]) for x, y in zip(LOGITS.tolist(), LABELS.tolist(), strict=True)]
    assert torch.allclose(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-6)


@pytest.mark.parametrize("labels", [LABELS, FINDINGS], ids=["one", "several"])
@pytest.mark.parametrize("name", CLASS_LOSSES.names())
def test_each_item_has_its_own_loss_and_a_finite_gradient(name: str, labels: torch.Tensor) -> None:
    loss = make_class_loss(name, settings(name, kind="classification" if labels.dim() == 1 else "multilabel"))
    counts, logits = torch.ones(6, 3), (100 * LOGITS).requires_grad_()
    found = loss(logits, labels, counts)
    assert found.shape == (6,)
    alone = [loss(logits[i : i + 1], labels[i : i + 1], counts[:1]) for i in range(6)]
    assert torch.allclose(found, torch.cat(alone), rtol=1e-12)
    found.sum().backward()
    assert bool(torch.isfinite(logits.grad).all())


@given(st.lists(st.floats(1, 1e6), min_size=3, max_size=3), st.floats(0, 0.99999))
def test_rarer_classes_never_weigh_less(counts: list[float], beta: float) -> None:
    weights = make_class_loss(
        "class-balanced", settings("class-balanced", class_counts=tuple(counts), effective_beta=beta)
    ).weights  # type: ignore[attr-defined]
    order = sorted(range(3), key=lambda place: counts[place])
    assert float(weights.mean()) == pytest.approx(1)
    assert all(weights[a] >= weights[b] * (1 - 1e-12) for a, b in itertools.pairwise(order))


def test_adjusted_logits_are_calibrated_for_equal_shares() -> None:
    """A model that knows nothing of the image has its smallest adjusted loss at equal logits, not at the shares."""
    loss = make_class_loss("logit-adjusted", settings("logit-adjusted"))
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    shares = torch.tensor([0.9, 0.09, 0.01], dtype=torch.float64)
    (loss(logits.expand(3, -1), torch.arange(3), None) * shares).sum().backward()
    assert torch.allclose(logits.grad, torch.zeros(1, 3, dtype=torch.float64), atol=1e-12)
    plain = make_class_loss("cross-entropy", settings("cross-entropy"))
    other = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    (plain(other.expand(3, -1), torch.arange(3), None) * shares).sum().backward()
    assert float(other.grad.abs().max()) > 0.3


def test_constants_that_do_not_fit_are_refused() -> None:
    with pytest.raises(JobError, match="Expected 3 numbers in task.class_counts"):
        make_class_loss("class-balanced", settings("class-balanced", class_counts=(1.0, 2.0)))
    with pytest.raises(JobError, match="sum of 1"):
        make_class_loss("logit-adjusted", settings("logit-adjusted", class_shares=(0.5, 0.4, 0.3)))
    with pytest.raises(JobError, match=r"Expected no task.class_weights"):
        make_class_loss("class-balanced", settings("class-balanced", class_weights=(1.0, 1.0, 2.0)))


JOB = """
[job]
name = "j"
rounds = 1
[task]
kind = "{kind}"
model = "{model}"
dataset = "d"
classes = ["a", "b"]
{more}
[privacy]
{privacy}
"""
NOISE = 'noise = "local"\nepsilon = 8.0\ndelta = 1e-5\nsampling_rate = 0.1\npatients_per_site = 100'


@pytest.mark.parametrize("key", ['sampling = "balanced"', 'sampling = "hard"', 'class_loss = "site-calibrated"'])
def test_what_couples_patients_is_refused_with_noise_by_name(key: str) -> None:
    fields = {"kind": "classification", "model": "cnn", "more": f"shape = [8, 8]\n{key}"}
    parse_job(JOB.format(**fields, privacy='noise = "none"'))
    with pytest.raises(JobError, match=key.split(" ", 1)[0]):
        parse_job(JOB.format(**fields, privacy=NOISE))


def test_mixup_and_losses_from_constants_are_allowed_with_noise() -> None:
    more = 'shape = [8, 8]\nmixup = 0.2\nclass_loss = "logit-adjusted"\nclass_shares = [0.9, 0.1]'
    parse_job(JOB.format(kind="classification", model="cnn", more=more, privacy=NOISE))


def test_a_task_with_another_loss_has_no_such_settings() -> None:
    with pytest.raises(JobError, match="sampling"):
        parse_job(
            JOB.format(kind="svm", model="cnn", more='shape = [8, 8]\nsampling = "hard"', privacy='noise = "none"')
        )
