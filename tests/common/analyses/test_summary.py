import numpy as np
import pytest
from tests.common.analyses.builders import built, federated, hospitals

from salus.common.analyses.base import Measured


def test_counts_of_divided_data_are_those_of_all() -> None:
    parts = hospitals()
    everyone = [patient for part in parts for patient in part]
    images = [image for patient in everyone for image in patient]
    analysis = built("summary")
    state, totals = federated(analysis, parts)
    found = analysis.result(state, totals)
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
    analysis = built("summary", task=task, statistics="bins = 8")
    nothing = np.zeros(0, np.float32)
    rows = [(41.0, 1.0), (59.0, 0.0), (float("nan"), 7.0), (1000.0, float("nan"))]
    patients = [[Measured(0, nothing, columns={"age": age, "sex": sex})] for age, sex in rows]
    state, totals = federated(analysis, [patients[:2], patients[2:]])
    blocks = analysis.result(state, totals)["blocks"]
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


def test_cells_of_too_few_patients_and_sites_of_too_few_stay_at_zero() -> None:
    analysis = built("summary")
    rare = Measured(1, np.zeros((1, 4, 4), np.float32))
    common = Measured(0, np.zeros((1, 4, 4), np.float32))
    site = [*([[common]] * 7), *([[rare, rare, rare]] * 4)]  # four patients with twelve images
    state, totals = federated(analysis, [site], least=5)
    assert analysis.result(state, totals)["blocks"]["labels"] == {"no": 7, "yes": 0, "other label": 0}
    state, totals = federated(analysis, [site], least=4)
    assert analysis.result(state, totals)["blocks"]["labels"] == {"no": 7, "yes": 12, "other label": 0}
    _, totals = federated(analysis, [site], least=12)
    assert totals.patients == totals.images == 0
    assert not totals.cells.any()


@pytest.mark.parametrize("kind", ["summary", "quantiles", "nyul"])
def test_no_image_has_a_row_beyond_its_bound(kind: str) -> None:
    analysis = built(kind, rounds={"quantiles": 3}.get(kind, 1))
    rng = np.random.default_rng(1)
    wild = [
        rng.normal(0, 1e30, (1, 5, 5)),
        np.full((3, 2, 2), np.nan),
        np.array([[[np.inf, -np.inf, 0.0]]]),
        np.zeros((1, 0, 0)),
        np.arange(64.0).reshape(1, 4, 4, 4),
    ]
    state: list[float] = [] if kind != "quantiles" else [0.0, 1.0] * 5
    for values in wild:
        for spacing in ((), (np.nan, np.inf), (0.0, 1.0, 2.0)):
            image = Measured(None, values.astype(np.float32), spacing, "?", "?")
            row = analysis.row(2 if kind == "quantiles" else 1, state, image)
            if row is not None and np.isfinite(row).all():
                assert row.min() >= 0
                assert row.max() <= 1 + 1e-12
                assert np.linalg.norm(row) <= analysis.reach(1) + 1e-9
