"""Curves from histograms, against their definitions over single scores."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from salus.common.figures import Figures, figures_of, one_against_the_rest, precision_recall_points

SCORES = st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=60)


@given(SCORES)
def test_precision_and_recall_are_those_of_every_threshold(items: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([score for score, _ in items]), np.array([truth for _, truth in items])
    histograms = [np.bincount(scores[positive == side], minlength=10).astype(float) for side in (False, True)]
    found = precision_recall_points(histograms[0], histograms[1])
    if not positive.any():
        assert found == ()
        return
    thresholds = sorted(set(scores.tolist()), reverse=True)
    expected = [
        (float(positive[scores >= t].sum() / positive.sum()), float(positive[scores >= t].mean())) for t in thresholds
    ]
    np.testing.assert_allclose(found, expected)


def test_figures_of_another_version_open() -> None:
    figures = one_against_the_rest(["a"], np.array([[[3.0, 1.0], [0.0, 2.0]]]))
    plain = figures.model_dump(mode="json")
    assert figures_of({**plain, "of a newer version": 1}) == figures
    older = {key: value for key, value in plain.items() if key != "precision_recall"}
    assert figures_of(older).precision_recall == ()
    assert figures_of({"curves": "x"}) == Figures()
