"""The codebook from sums is that of Lloyd's algorithm with all points in one place."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest
from tests.common.sums.builders import built, federated

from salus.common.sums.base import Measured, Totals
from salus.common.sums.kmeans import KMeans

COLUMNS = 'columns = [{name = "a", centre = 50.0, scale = 20.0}, {name = "b", centre = 0.0, scale = 1.0}]'
CENTRES = ((10.0, -2.0), (50.0, 2.0), (90.0, -1.0))


def patients(seed: int, sizes: Sequence[int]) -> list[list[Measured]]:
    rng = np.random.default_rng(seed)
    found = []
    for (a, b), size in zip(CENTRES, sizes, strict=True):
        for _ in range(size):
            values = {"a": float(rng.normal(a, 4)), "b": float(rng.normal(b, 0.2))}
            found.append([Measured(0, np.zeros(0, np.float32), columns=values)])
    return found


def hospitals() -> list[list[list[Measured]]]:
    return [patients(1, (30, 20, 0)), patients(2, (0, 40, 30)), patients(3, (20, 0, 60))]


def codebook(rounds: int = 8, clusters: int = 3) -> KMeans:
    return cast(KMeans, built("kmeans", task=COLUMNS, rounds=rounds, statistics=f"clusters = {clusters}"))


def test_the_centres_are_found_although_no_hospital_has_all_clusters() -> None:
    sums = codebook()
    state, totals = federated(sums, hospitals())
    found = sorted(sums.model(state)["centres"])
    assert np.allclose(found, sorted(CENTRES), atol=2.5)
    assert sorted(sums.result(state, totals)["sizes"]) == [50, 60, 90]


def test_divided_and_pooled_points_give_the_same_codebook_and_it_is_a_fixed_point_of_lloyd() -> None:
    sums, parts = codebook(), hospitals()
    state, _ = federated(sums, parts)
    whole, _ = federated(sums, [[mine for part in parts for mine in part]])
    assert np.allclose(state, whole, atol=1e-6)
    points = np.array([[m.columns["a"], m.columns["b"]] for part in parts for mine in part for m in mine])
    model = sums.model(state)
    centres, units = np.array(model["centres"]), np.array(model["units"])
    nearest = (((points[:, None] - centres) / units) ** 2).sum(axis=2).argmin(axis=1)
    means = np.stack([points[nearest == k].mean(axis=0) for k in range(3)])
    assert np.allclose(means, centres, atol=1e-4)


def test_clusters_with_few_patients_of_a_site_are_left_out_as_a_whole() -> None:
    sums = codebook(rounds=1)
    mine = patients(4, (30, 3, 20))
    state = [float(v) for v in (np.array([[(a - 50) / 80, b / 4] for a, b in CENTRES]).reshape(-1) + 1) / 2]
    cells = sums.measure(2, state, mine, 5)[2:].reshape(3, 3)
    kept = np.flatnonzero(cells[:, 0])
    assert cells[1].tolist() == [0, 0, 0]
    assert len(kept) == 1  # with the small cluster, another one is left out, so that the total does not reveal it
    assert not sums.measure(2, state, mine[:4], 5).any()
    assert sums.measure(2, state, mine, 1)[2:].reshape(3, 3)[:, 0].tolist() == [30, 3, 20]


def test_an_empty_cluster_moves_beside_the_largest() -> None:
    sums = codebook(rounds=4)
    counts = np.array([0.0, 80.0, 20.0])
    cells = np.concatenate([counts[:, None], counts[:, None] * np.array([[0, 0], [0.4, 0.6], [0.9, 0.1]])], axis=1)
    centres = np.array(sums.fold(2, [0.5] * 6, Totals(100, 100, 100, cells.reshape(-1)))).reshape(3, 2)
    assert np.allclose(centres[1:], [[0.4, 0.6], [0.9, 0.1]])
    assert 0 < np.abs(centres[0] - centres[1]).max() <= 0.02


@pytest.mark.parametrize("noise_sd", [0.5, 3.0])
def test_with_noise_the_centres_are_still_near(noise_sd: float) -> None:
    sums, rng = codebook(rounds=6), np.random.default_rng(1)
    mine, state = patients(5, (300, 400, 500)), []
    for step in range(1, 7):
        numbers = sums.measure(step, state, mine, 1)
        cells = numbers[2:] + rng.normal(0, noise_sd, len(numbers) - 2)
        state = sums.fold(step, state, Totals(numbers[0], numbers[1], numbers[0], cells, noise_sd))
    assert np.allclose(sorted(sums.model(state)["centres"]), sorted(CENTRES), atol=4.0)


def test_no_row_is_longer_than_its_reach_and_missing_values_have_none() -> None:
    sums = codebook()
    for value in (-1e300, 0.0, 1e300):
        row = sums.row(1, [], Measured(0, np.zeros(0, np.float32), columns={"a": value, "b": value}))
        assert row is not None
        assert np.linalg.norm(row) <= sums.reach(1)
        assert row.min() >= 0
    assert sums.row(1, [], Measured(0, np.zeros(0, np.float32), columns={"a": np.nan, "b": 1.0})) is None


def test_images_are_clustered_by_their_features() -> None:
    rng = np.random.default_rng(2)
    dark = [[Measured(None, rng.uniform(0, 200, (1, 9, 9)).astype(np.float32))] for _ in range(20)]
    bright = [[Measured(None, rng.uniform(700, 999, (1, 9, 9)).astype(np.float32))] for _ in range(30)]
    sums = built("kmeans", rounds=5, statistics="clusters = 2")
    state, totals = federated(sums, [dark, bright])
    assert sorted(sums.result(state, totals)["sizes"]) == [20, 30]
