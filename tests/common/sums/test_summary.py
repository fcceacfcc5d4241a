from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.common.sums.builders import built, federated, hospitals, job_of

from salus.common.sums import sums_of
from salus.common.sums.base import Block, Measured, bins_of, hidden, mean_row


def test_counts_of_divided_data_are_those_of_all() -> None:
    parts = hospitals()
    everyone = [patient for part in parts for patient in part]
    images = [image for patient in everyone for image in patient]
    sums = built("summary")
    state, totals = federated(sums, parts)
    found = sums.result(state, totals)
    assert (found["patients"], found["images"]) == (len(everyone), len(images))
    labels = [image.label for image in images]
    assert found["blocks"]["labels"] == {"no": labels.count(0), "yes": labels.count(1), "other label": 0.0}
    assert found["blocks"]["modalities"]["CT"] == len(images)
    assert found["blocks"]["pixel spacing in mm"]["0.4"] == sum(image.spacing_mm[0] == 0.5 for image in images)
    pooled = np.mean(
        [np.histogram(image.intensities, 64, (0, 1000))[0] / image.intensities.size for image in images], 0
    )
    histogram = np.array(list(found["blocks"]["intensities CT"].values())) / len(images)
    assert np.abs(histogram - pooled).max() < 1e-6


def test_columns_of_a_table() -> None:
    task = 'columns = [{name = "age", centre = 50.0, scale = 10.0}, {name = "sex", values = [0.0, 1.0]}]'
    sums = built("summary", task=task, statistics="bins = 8")
    nothing = np.zeros(0, np.float32)
    rows = [(41.0, 1.0), (59.0, 0.0), (float("nan"), 7.0), (1000.0, float("nan"))]
    patients = [[Measured(0, nothing, columns={"age": age, "sex": sex})] for age, sex in rows]
    state, totals = federated(sums, [patients[:2], patients[2:]])
    blocks = sums.result(state, totals)["blocks"]
    assert blocks["column age"] == {
        "10": 0,
        "20": 0,
        "30": 0,
        "40": 1,
        "50": 1,
        "60": 0,
        "70": 0,
        "80": 1,
        "missing": 1,
    }
    assert blocks["column sex"] == {"0": 1, "1": 1, "another value": 1, "missing": 1}


def test_small_cells_stay_hidden_even_from_subtraction() -> None:
    sums = built("summary")
    rare = Measured(1, np.zeros((1, 4, 4), np.float32))
    common = Measured(0, np.zeros((1, 4, 4), np.float32))
    site = [*([[common]] * 7), *([[rare, rare, rare]] * 4)]  # four patients with twelve images
    state, totals = federated(sums, [site], least=5)
    # Shown alone, the seven would say that nineteen images less seven are of few patients.
    assert "labels" not in sums.result(state, totals)["blocks"]
    state, totals = federated(sums, [site], least=4)
    assert sums.result(state, totals)["blocks"]["labels"] == {"no": 7, "yes": 12, "other label": 0}
    _, totals = federated(sums, [site], least=12)
    assert totals.patients == totals.images == 0
    assert not totals.cells.any()


def test_intensities_of_a_rare_modality_are_hidden_with_another_one() -> None:
    sums = built("summary", statistics="bins = 4")
    pixels = np.linspace(0, 999, 16, dtype=np.float32).reshape(1, 4, 4)
    site = [[Measured(0, pixels, modality=name)] for name in ["CT"] * 9 + ["MR"] * 6 + ["CR"] * 2]
    state, totals = federated(sums, [site], least=5)
    blocks = sums.result(state, totals)["blocks"]
    assert "intensities CR" not in blocks
    assert "intensities MR" not in blocks  # else CT and MR subtracted from all would be CR
    assert sum(blocks["intensities CT"].values()) == pytest.approx(9)


@given(
    st.integers(1, 6),
    st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=25),
    st.sampled_from(["named", "ordered"]),
)
def test_what_is_shown_and_what_is_left_over_is_of_enough_patients(
    least: int, rows: list[list[bool]], kind: Literal["named", "ordered"]
) -> None:
    present = np.array(rows)
    cells = np.where(present, np.random.default_rng(0).uniform(0.5, 1, present.shape), 0).sum(axis=0)
    shown = hidden([Block(7, kind)], cells, present, least)
    missing = (shown == 0) & (cells > 0)
    behind = present[:, missing].any(axis=1).sum()
    assert behind == 0 or behind >= least or not shown.any()
    if kind == "named":
        assert all(present[:, c].sum() >= least for c in range(7) if shown[c] > 0)
        assert np.array_equal(shown[~missing], cells[~missing])
        return
    assert shown.sum() == pytest.approx(cells.sum()) or not shown.any()
    for value in set(shown[shown > 0].tolist()):  # cells of one joined group hold the same
        assert present[:, shown == value].any(axis=1).sum() >= least


def test_ordered_cells_are_joined_and_share_evenly() -> None:
    present = np.eye(6, dtype=bool)[[0, 0, 1, 1, 3, 4, 5]]
    cells = np.array([2.0, 2.0, 0.0, 1.0, 1.0, 1.0])
    assert hidden([Block(6, "ordered")], cells, present, 1).tolist() == cells.tolist()
    assert hidden([Block(6, "ordered")], cells, present, 2).tolist() == [2.0, 2.0, 0.0, 1.0, 1.0, 1.0]
    assert hidden([Block(6, "ordered")], cells, present, 4).tolist() == pytest.approx([7 / 6] * 6)


@pytest.mark.parametrize("kind", ["summary", "quantiles", "nyul"])
def test_no_image_has_a_row_beyond_its_bound(kind: str) -> None:
    rng = np.random.default_rng(1)
    wild = [
        rng.normal(0, 1e30, (1, 5, 5)),
        np.full((3, 2, 2), np.nan),
        np.array([[[np.inf, -np.inf, 0.0]]]),
        np.zeros((1, 0, 0)),
        np.full((1, 2, 2), 3e38),
        np.arange(64.0).reshape(1, 4, 4, 4),
    ]
    columns = (
        'columns = [{name = "age", scale = 1e12}, {name = "sex", values = [0.0, 1.0]}]' if kind == "summary" else ""
    )
    for sums in (built(kind), built(kind, task=columns)):
        for values in wild:
            for spacing in ((), (np.nan, np.inf), (0.0, 1.0, 2.0)):
                for age in (0.0, 1e308, -np.inf, np.nan):
                    image = Measured(None, values.astype(np.float32), spacing, "?", "?", {"age": age, "sex": age})
                    row = sums.row(1, [], image)
                    if row is not None:
                        assert np.isfinite(row).all()
                        assert row.min() >= 0
                        assert row.max() <= 1 + 1e-12
                        assert np.linalg.norm(row) <= sums.reach(1) + 1e-9


def test_bins_never_raise_and_never_count_what_is_no_number() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 1e308, 0.0, 5.0])
    for low, high in ((0.0, 10.0), (0.0, np.inf), (-1e308, 1e308), (5.0, 5.0), (np.nan, 1.0), (3.0, -3.0)):
        shares = bins_of(values, low, high, 4)
        assert np.isfinite(shares).all()
        assert 0 <= shares.sum() <= 1
    assert bins_of(values, 0.0, 10.0, 2).tolist() == pytest.approx([1 / 6, 2 / 6])


def test_a_mean_of_rows_is_cut_to_its_bound() -> None:
    sums = built("nyul")
    image = hospitals()[0][0][0]
    row = sums.row(1, [], image)
    assert row is not None
    sums.row = lambda step, state, image: 100 * row  # type: ignore[method-assign, assignment, misc]
    found = mean_row(sums, 1, [], [image, image])
    assert found is not None
    assert np.linalg.norm(found[0]) == pytest.approx(sums.reach(1))
    assert found[1] == 2


@pytest.mark.parametrize(
    ("task", "values", "cells"),
    [
        ('columns = [{name = "x", centre = 100000.0, scale = 0.5}]', [100000.1, 99999.9, 100000.6], 3),
        ('columns = [{name = "x", values = [1000001.0, 1000002.0]}]', [1000001.0, 1000002.0], 2),
        ('columns = [{name = "x", centre = 0.0, scale = 1e-6}]', [1e-7, -1e-7], 2),
    ],
)
def test_cells_that_round_to_one_name_are_not_lost(task: str, values: list[float], cells: int) -> None:
    sums = built("summary", task=task, statistics="bins = 16")
    patients = [[Measured(0, np.zeros(0, np.float32), columns={"x": value})] for value in values]
    state, totals = federated(sums, [patients])
    found = sums.result(state, totals)["blocks"]["column x"]
    assert sum(found.values()) == len(values)
    assert sum(value > 0 for value in found.values()) == cells
    assert len(found) == sums.blocks(1)[1].size


def test_names_that_a_job_chooses_do_not_hide_the_cell_for_all_others() -> None:
    sums = built("summary", statistics='modalities = ["OTHER", "CT"]')
    images = [[Measured(0, np.ones((1, 4, 4), np.float32), modality=name)] for name in ("CT", "MR", "US")]
    state, totals = federated(sums, [images])
    assert sums.result(state, totals)["blocks"]["modalities"] == {"OTHER": 2.0, "CT": 1.0}
    job = job_of("summary")
    named = job.model_copy(update={"task": job.task.changed(classes=("no", "other label"))})
    state, totals = federated(sums_of(named), [[[Measured(None, np.ones((1, 4, 4), np.float32))]]])
    assert sums_of(named).result(state, totals)["blocks"]["labels"] == {
        "no": 0.0,
        "other label": 0.0,
        "any other label": 1.0,
    }
