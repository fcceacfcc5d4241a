"""Every method on a linear model, of which the right answer is known, and on a curved one, of which the sum is."""

import numpy as np
import pytest
import torch
from tests.client.explaining.worlds import linear_image, linear_row, shares

from salus.client.explaining.cells import parts_of
from salus.client.explaining.methods import METHODS
from salus.client.explaining.methods.gradient_shap import GradientShap
from salus.client.explaining.methods.integrated_gradients import IntegratedGradients
from salus.client.explaining.methods.kernel_shap import KernelShap
from salus.client.explaining.methods.lime import Lime
from salus.client.explaining.methods.occlusion import Occlusion
from salus.client.explaining.subject import Score, Subject, per_column


class Curved(Score):
    """A score with curvature and interactions."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        assert self.network is not None
        return self.network(inputs)[:, 0]  # type: ignore[no-any-return]


def curved() -> Subject:
    torch.manual_seed(0)
    inputs = torch.randn(1, 1, 4, 4)
    return Subject(Curved(), inputs, torch.zeros_like(inputs), torch.zeros_like(inputs))


@pytest.mark.parametrize("channels", [1, 3])
def test_integrated_gradients_and_gradient_shap_are_exact_for_a_linear_model(channels: int) -> None:
    subject = linear_image(channels=channels)
    assert torch.allclose(
        IntegratedGradients(IntegratedGradients.Settings(steps=4))(subject), shares(subject), atol=1e-5
    )
    assert torch.allclose(GradientShap(GradientShap.Settings(samples=40))(subject), shares(subject), atol=1e-5)


def test_integrated_gradients_are_complete() -> None:
    subject = curved()
    found = IntegratedGradients(IntegratedGradients.Settings(steps=64))(subject)
    difference = subject.scores(subject.inputs) - subject.scores(subject.empty)
    assert float(found.sum()) == pytest.approx(float(difference), abs=1e-4)
    assert float(abs(found).max()) > 0.01  # it could be wrong


@pytest.mark.parametrize("channels", [1, 2])
def test_occlusion_of_single_pixels_is_exact_for_a_linear_model(channels: int) -> None:
    subject = linear_image(side=4, channels=channels)
    assert torch.allclose(Occlusion(Occlusion.Settings(windows=4))(subject), shares(subject), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2])
def test_kernel_shap_of_cells_is_exact_for_a_linear_model(channels: int) -> None:
    subject = linear_image(channels=channels)
    found = KernelShap(KernelShap.Settings(cells=2, samples=64))(subject)
    parts = parts_of(subject, 2)[0, 0]
    for part in range(4):
        assert float(found[parts == part].sum()) == pytest.approx(float(shares(subject)[parts == part].sum()), abs=1e-3)


def test_kernel_shap_equals_the_shapley_values_of_a_curved_model() -> None:
    subject = curved()
    parts = parts_of(subject, 2)[0, 0]
    found = KernelShap(KernelShap.Settings(cells=2, samples=2000))(subject)

    def value(chosen: set[int]) -> float:
        inside = torch.isin(parts, torch.tensor(sorted(chosen)))
        return float(subject.scores(torch.where(inside, subject.inputs, subject.empty)))

    weight = {0: 1 / 4, 1: 1 / 12, 2: 1 / 12, 3: 1 / 4}  # |S|! (3 - |S|)! / 4!
    for part in range(4):
        rest = [other for other in range(4) if other != part]
        subsets = [{rest[k] for k in range(3) if number >> k & 1} for number in range(8)]
        exact = sum(weight[len(s)] * (value(s | {part}) - value(s)) for s in subsets)
        assert float(found[parts == part].sum()) == pytest.approx(exact, abs=0.03)


def test_rows_are_explained_by_column() -> None:
    subject = linear_row()
    exact = per_column(shares(subject).numpy(), subject.groups)
    for method in (IntegratedGradients, GradientShap, Occlusion, KernelShap):
        found = per_column(method(method.Settings())(subject).numpy(), subject.groups)
        assert np.allclose(found, exact, atol=1e-3), method.title
    lime = per_column(Lime(Lime.Settings(penalty=1e-4))(subject).numpy(), subject.groups)
    assert np.allclose(lime, exact, atol=0.05)


@pytest.mark.parametrize("name", ["lime", "kernel-shap", "gradient-shap"])
def test_drawing_is_repeated_by_the_seed_and_leaves_random_states_alone(name: str) -> None:
    method = METHODS.get(name)(METHODS.get(name).Settings())
    subject = curved()
    torch.manual_seed(1)
    np.random.seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1]
    first, again, other = method(subject), method(subject), method(subject.seeded(5))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(first, again)
    assert name == "lime" or not torch.equal(first, other)


def test_settings_are_bounded_and_unknown_methods_are_refused() -> None:
    for name in METHODS.names():
        for field in METHODS.get(name).Settings.model_fields.values():
            assert field.metadata, f"{name} has a setting without bounds"
