"""ComBat from sums against the textbook: one design matrix over all images, least squares, empirical Bayes."""

import numpy as np
import pytest
from tests.common.sums.builders import Patients, built, federated, hospitals, job_of

from salus.common.errors import JobError
from salus.common.sums import sums_of
from salus.common.sums.base import Measured
from salus.common.sums.combat import CombatModel
from salus.common.sums.features import FEATURES, image_features

LOW, HIGH = 0.0, 1000.0
Batches = list[tuple[np.ndarray, np.ndarray]]


def batches_of(parts: list[Patients]) -> Batches:
    found = []
    for part in parts:
        for vendor in ("GE", "SIEMENS"):
            images = [image for patient in part for image in patient if image.vendor == vendor]
            rows = np.stack([image_features(image.intensities, LOW, HIGH) for image in images])
            found.append((rows, np.array([image.label for image in images])))
    return found


def textbook(batches: Batches) -> tuple[np.ndarray, ...]:
    """Return alpha, sigma, beta and per batch (gamma, delta), as in Johnson, Li, Rabinovic 2007, with all images at hand."""
    y = np.concatenate([rows for rows, _ in batches])
    labels = np.concatenate([labels for _, labels in batches]).astype(float)
    numbers = np.concatenate([np.full(len(rows), i) for i, (rows, _) in enumerate(batches)])
    design = np.column_stack([*(numbers == i for i in range(len(batches))), labels]).astype(float)
    coefficients = np.linalg.lstsq(design, y, rcond=None)[0]
    shares = np.bincount(numbers) / len(y)
    alpha, beta = shares @ coefficients[:-1], coefficients[-1:]
    sigma = np.sqrt(((y - design @ coefficients) ** 2).mean(axis=0))
    standard = (y - alpha - labels[:, None] * beta) / sigma
    effects = []
    for i in range(len(batches)):
        z = standard[numbers == i]
        n, g_hat, d_hat = len(z), z.mean(axis=0), z.var(axis=0, ddof=1)
        g_bar, t2, m, s2 = g_hat.mean(), g_hat.var(ddof=1), d_hat.mean(), d_hat.var(ddof=1)
        a, b = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
        g, d = g_hat.copy(), d_hat.copy()
        for _ in range(3000):
            g = (t2 * n * g_hat + d * g_bar) / (t2 * n + d)
            d = (0.5 * ((z - g) ** 2).sum(axis=0) + b) / (n / 2 + a - 1)
        effects.append((g, np.sqrt(d)))
    return alpha, sigma, beta, effects


def test_divided_data_give_the_textbook_result() -> None:
    parts = hospitals(seed=4, sizes=(25, 30, 40))
    batches = batches_of(parts)
    alpha, sigma, beta, effects = textbook(batches)
    state, _ = federated(built("combat"), parts)
    model = CombatModel.of(state)
    for ours, theirs in ((model.alpha, alpha), (model.sigma, sigma), (model.beta, beta)):
        assert np.abs(ours - theirs).max() < 1e-4 * max(1e-2, np.abs(theirs).max())
    for (rows, labels), (gamma, delta) in zip(batches, effects, strict=True):
        batch = model.batch(rows, labels.tolist())
        assert np.abs(batch.gamma - gamma).max() < 1e-4
        assert np.abs(batch.delta - delta).max() < 1e-4
        pooled = (
            ((rows - alpha - labels[:, None] * beta) / sigma - gamma) / delta * sigma + alpha + labels[:, None] * beta
        )
        assert np.abs(model.adjusted(rows, batch, labels.tolist()) - pooled).max() < 1e-4


def test_batches_are_alike_afterwards_and_were_not_before() -> None:
    rng = np.random.default_rng(5)
    parts = []
    for gain, offset in ((1.0, 0.0), (2.5, 100.0), (0.6, 300.0)):  # what a device does to the same sort of picture
        values = [rng.gamma(2.0, 40.0, size=(1, 12, 12)) * gain + offset for _ in range(80)]
        parts.append([[Measured(0, value.astype(np.float32), vendor="GE")] for value in values])
    state, _ = federated(built("combat"), parts)
    model = CombatModel.of(state)

    def between(batches: list[np.ndarray]) -> float:
        means = np.stack([rows.mean(axis=0) for rows in batches])
        return float((means.std(axis=0) / np.concatenate(batches).std(axis=0)).max())

    raw = [np.stack([image_features(p[0].intensities, LOW, HIGH) for p in part]) for part in parts]
    after = [model.adjusted(rows, model.batch(rows, [0] * len(rows))) for rows in raw]
    assert between(raw) > 0.8
    assert between(after) < 0.1


def test_a_class_of_few_patients_in_a_batch_is_left_out() -> None:
    """Otherwise the products with its covariate would be that patient's own features."""
    rng = np.random.default_rng(6)
    well = [[Measured(0, rng.gamma(2, 50, (1, 6, 6)).astype(np.float32), vendor="GE")] for _ in range(9)]
    sick = [[Measured(1, rng.gamma(3, 50, (1, 6, 6)).astype(np.float32), vendor="GE")] for _ in range(6)]
    sums = built("combat")
    assert np.allclose(sums.measure(1, [], [*well, *sick[:4]], 5), sums.measure(1, [], well, 5))
    assert not np.allclose(sums.measure(1, [], [*well, *sick], 5), sums.measure(1, [], well, 5))
    assert not sums.measure(1, [], sick[:4], 5).any()
    twice = [[image, image] for (image,) in sick[:3]]  # six images, three patients
    assert np.allclose(sums.measure(1, [], [*well, *twice], 5), sums.measure(1, [], well, 5))


def test_one_odd_image_cannot_carry_a_sum_away() -> None:
    huge = np.full((1, 6, 6), 3e38, np.float32)
    features = image_features(huge, 0, 1000)
    assert features is not None
    assert np.abs(features).max() <= 2


def test_noise_wrong_constants_and_wrong_rounds_are_refused() -> None:
    with pytest.raises(JobError, match="do not support noise"):
        sums_of(job_of("combat", privacy='noise = "local"'))
    with pytest.raises(JobError, match="rounds = 1"):
        sums_of(job_of("combat", rounds=2))
    with pytest.raises(JobError, match="one of .*combat"):
        sums_of(job_of("compat"))
    for constants in ([], [1.0] * (3 * len(FEATURES) - 1), [0.0] * 3 * len(FEATURES)):
        with pytest.raises(JobError, match="constants"):
            CombatModel.of(constants)


def test_features_of_an_image() -> None:
    ramp = np.broadcast_to(np.arange(101, dtype=np.float32) * 10, (1, 50, 101))
    values = dict(zip(FEATURES, image_features(ramp, 0, 1000), strict=True))
    assert values["mean"] == pytest.approx(0.5)
    assert values["p10"] == pytest.approx(0.1, abs=0.01)
    assert values["edge"] == pytest.approx(0.01)
    assert image_features(np.full((1, 2, 2), np.nan, np.float32), 0, 1) is None
    assert image_features(np.ones((1, 1, 1), np.float32), 0, 1) is not None
