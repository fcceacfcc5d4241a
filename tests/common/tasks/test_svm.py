"""The hinge loss, and its minimum: a support vector machine as scikit-learn finds it."""

import numpy as np
import torch
from sklearn.svm import LinearSVC

from salus.common.batch import Batch
from salus.common.job import parse_job
from salus.common.models import build_model
from salus.common.tasks import make_task
from salus.common.tasks.svm import Svm

JOB = """
[job]
name = "svm"
rounds = 1
[task]
kind = "svm"
model = "{model}"
dataset = "toy"
classes = {classes}
columns = [{{name = "a"}}, {{name = "b"}}]
{more}
"""


def settings(model: str = "logistic", classes: str = '["no", "yes"]', more: str = ""):  # type: ignore[no-untyped-def]
    return parse_job(JOB.format(model=model, classes=classes, more=more)).task


def test_an_items_loss_is_its_hinge_losses_times_its_weight() -> None:
    task = make_task(settings(classes='["a", "b", "c"]', more="class_weights = [1.0, 2.0, 1.0]"))
    batch = Batch({"features": torch.tensor([[1.0, 2.0], [3.0, -1.0]]), "label": torch.tensor([1, 2])})
    model = torch.nn.Linear(2, 3)
    scores = model(batch["features"]).tolist()
    losses = task.losses(model, batch, task.steps[0]).tolist()
    for item, label, weight in ((0, 1, 2.0), (1, 2, 1.0)):
        direct = sum(max(0.0, 1 - (1 if c == label else -1) * scores[item][c]) for c in range(3))
        assert np.isclose(losses[item], direct * weight, rtol=1e-6)
    assert isinstance(task, Svm)


def test_the_minimum_is_the_machine_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    points = rng.normal(0, 1, (80, 2)) + labels[:, None] * np.array([1.5, -1.0])
    task, model = make_task(settings()), build_model(settings(), 0)
    batch = Batch({"features": torch.tensor(points, dtype=torch.float32), "label": torch.from_numpy(labels)})
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        weights = next(model.parameters())
        total = task.losses(model, batch, task.steps[0]).mean() + 0.05 * (weights**2).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    direct = LinearSVC(loss="hinge", C=1 / (2 * 0.05 * 80), max_iter=100_000, intercept_scaling=100, random_state=0)
    direct.fit(points, labels)
    mine = next(model.parameters())[1].detach().numpy()
    assert np.allclose(mine, direct.coef_[0], atol=0.05)


def test_random_features_give_the_gaussian_kernel_and_only_the_last_layer_is_trained() -> None:
    task = settings("random-features", more="random_features = 8192\nkernel_width = 1.5")
    model = build_model(task, 0)
    points = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    inner: list[torch.Tensor] = []
    model.head.register_forward_pre_hook(lambda module, given: inner.append(given[0]))  # type: ignore[operator, union-attr]
    model(points)
    approximate = (inner[0] @ inner[0].T / 8192).detach()
    exact = torch.exp(-(torch.cdist(points, points) ** 2) / (2 * 1.5**2 * 2))
    assert torch.allclose(approximate, exact, atol=0.05)
    assert not torch.allclose(approximate, exact.mean() * torch.ones_like(exact), atol=0.05)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    again = build_model(task, 0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
