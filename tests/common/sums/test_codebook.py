"""The codebook from sums is that of Lloyd's algorithm on all sites' descriptors, bit for bit."""

import base64
from typing import cast

import numpy as np
import pytest
from tests.common.sums.builders import Patients, built, federated

from salus.common.errors import JobError
from salus.common.features.base import described, pictures_of
from salus.common.sums.base import Measured, Totals, mean_row
from salus.common.sums.codebook import Codebook

SETTINGS = 'words = {words}\nextractor = "{extractor}"\npicture_side = 48\nmost_keypoints = 40'


def codebook(rounds: int = 4, words: int = 5, extractor: str = "dense-sift") -> Codebook:
    return cast(
        Codebook, built("codebook", rounds=rounds, statistics=SETTINGS.format(words=words, extractor=extractor))
    )


def images(seed: int, patients: int) -> Patients:
    rng = np.random.default_rng(seed)
    found: Patients = []
    for _ in range(patients):
        waves = np.sin(np.arange(32) * rng.uniform(0.2, 2.0))[None, :] * rng.uniform(100, 400) + 500
        noise = rng.normal(0, 60, (int(rng.integers(1, 3)), 1, 32, 32))
        found.append([Measured(0, (waves + one).astype(np.float32)) for one in noise])
    return found


def test_any_division_over_sites_gives_the_same_centres_bit_for_bit() -> None:
    sums, everyone = codebook(), images(0, 24)
    divided, _ = federated(sums, [everyone[:5], everyone[5:13], everyone[13:]])
    pooled, _ = federated(sums, [everyone])
    assert divided == pooled


def test_the_steps_are_those_of_lloyd_on_pooled_descriptors() -> None:
    sums, everyone = codebook(rounds=7), images(1, 10)
    centres = np.array(sums.model([])["centres"])  # the first, which depend on no data
    points = []
    for patient in everyone:
        for image in patient:
            points.append(
                described(sums._extractor, pictures_of(image.intensities, 0, 1000, 48), 40)[1].astype(np.float64)
            )
    compared, state = 0, list[float]()
    for step in range(1, 7):
        total, counts = np.zeros_like(centres), np.zeros(len(centres))
        for own in points:
            words = ((own[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
            for word in range(len(centres)):
                total[word] += own[words == word].sum(axis=0) / len(own)
                counts[word] += (words == word).sum() / len(own)
        parts = [sums.measure(step, state, part, 1) for part in (everyone[:4], everyone[4:])]
        state = sums.fold(step, state, Totals(10, len(points), len(points), (parts[0] + parts[1])[2:]))
        centres = np.array(state[: centres.size]).reshape(centres.shape)
        full = counts > 0
        compared += int(full.sum())
        assert np.allclose(centres[full], total[full] / counts[full, None], atol=1e-5)
    assert full.all()  # else only the rule for empty centres would have been seen
    assert compared > 20


@pytest.mark.parametrize("extractor", ["akaze", "dense-sift", "orb", "sift"])
def test_a_row_has_a_bounded_norm_and_hostile_images_have_none(extractor: str) -> None:
    sums = codebook(extractor=extractor)
    for patient in images(2, 6):
        for image in patient:
            row = sums.row(1, [], image)
            assert row is None or (np.linalg.norm(row) <= sums.reach(1) and np.abs(row).max() <= 1)
        found = mean_row(sums, 1, [], patient)
        assert found is None or np.linalg.norm(found[0]) <= sums.reach(1)
    for values in (np.full((1, 9, 9), np.nan), np.zeros((0,)), np.zeros((1, 1, 1, 1, 1))):
        assert sums.row(1, [], Measured(0, values.astype(np.float32))) is None
    for values in (np.zeros((1, 1, 1)), np.full((3, 2, 90), 1e9)):
        row = sums.row(1, [], Measured(0, values.astype(np.float32)))
        assert row is None or np.isfinite(row).all()


def test_words_of_too_few_patients_are_left_out() -> None:
    sums, everyone = codebook(words=3), [patient[:1] for patient in images(3, 12)]
    rare = np.zeros((1, 32, 32), np.float32)  # a flat image has descriptors of zeros, far from those of the others
    state = [*np.eye(128)[0] * 0, *np.full(128, 0.088), *np.eye(128)[7]]
    cells = sums.measure(2, state, [*everyone, [Measured(0, rare)]], 5)[2:].reshape(3, 129)
    alone = np.asarray(sums.row(2, state, Measured(0, rare))).reshape(3, 129)
    assert alone[0, 0] == 1
    assert not cells[0].any()
    assert sums.measure(2, state, [*everyone, [Measured(0, rare)]], 1)[2:].reshape(3, 129)[0, 0] >= 1
    assert not sums.measure(2, state, everyone[:4], 5).any()


def test_empty_words_move_beside_the_largest_and_then_beside_the_next() -> None:
    sums = codebook(words=4)
    cells = np.zeros((4, 129))
    cells[0], cells[1] = 10 * np.eye(129)[0] + 5 * np.eye(129)[1], 6 * np.eye(129)[0] + 3 * np.eye(129)[5]
    state = np.array(sums.fold(1, [], Totals(16, 16, 16, cells.reshape(-1)))).reshape(4, 128)
    assert np.allclose(state[0], np.eye(128)[0] * 0.5)
    assert np.allclose(state[1], np.eye(128)[4] * 0.5)
    assert np.abs(state[2] - state[0]).max() <= 0.02
    assert np.abs(state[3] - state[1]).max() <= 0.02


def test_noise_alone_keeps_the_centres_in_their_range() -> None:
    sums = codebook(words=4)
    noise = np.random.default_rng(0).normal(0, 5, 4 * 129)
    state = np.array(sums.fold(1, [], Totals(10, 10, 10, noise, noise_sd=5.0)))
    assert np.isfinite(state).all()
    assert state.min() >= 0
    assert state.max() <= 1


def test_the_result_has_the_text_that_a_job_takes() -> None:
    sums = codebook(rounds=2)
    state, totals = federated(sums, [images(4, 8)])
    result = sums.result(state, totals)
    assert len(base64.b64decode(result["codebook"])) == 5 * 128
    assert np.isclose(sum(result["shares"]), 1, atol=1e-5)


def test_columns_and_rows_are_refused() -> None:
    statistics = SETTINGS.format(words=4, extractor="orb")
    with pytest.raises(JobError, match="columns"):
        built("codebook", statistics=statistics, task='columns = [{name = "a"}]')
    with pytest.raises(JobError, match="rows"):
        built("codebook", statistics=statistics, task='transforms = [{kind = "radiomics"}]')
    with pytest.raises(JobError, match="patented"):
        built("codebook", statistics=SETTINGS.format(words=4, extractor="surf"))
