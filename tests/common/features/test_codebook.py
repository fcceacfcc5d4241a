"""A codebook in a job is its bytes, and an image's numbers are counts of nearest words."""

import numpy as np
import pytest

from salus.common.errors import JobError
from salus.common.features.codebook import codebook_from_text, codebook_to_text, nearest, row_of

CENTRES = np.array([[0.0, 1.0], [1.0, 0.0], [0.6, 0.6]])


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_a_text_holds_the_centres_to_half_a_level(low: float) -> None:
    centres = np.random.default_rng(0).uniform(low, 1, (9, 7))
    again = codebook_from_text(codebook_to_text(centres, low), 7, low)
    assert np.abs(again - centres).max() <= (1 - low) / 255 / 2 + 1e-12
    assert codebook_to_text(again, low) == codebook_to_text(centres, low)


@pytest.mark.parametrize("text", ["", "AAAA", "not base64!", "A" * 400_000, codebook_to_text(np.zeros((257, 3)), 0.0)])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(JobError, match="2 to 256 words"):
        codebook_from_text(text, 3, 0.0)


def test_the_nearest_word_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(1)
    points, centres = rng.random((50, 6)).astype(np.float32), rng.random((9, 6))
    slow = [min(range(9), key=lambda word: float(((point - centres[word]) ** 2).sum())) for point in points]
    assert nearest(points, centres).tolist() == slow


def test_a_histogram_has_the_square_roots_of_shares_in_each_region() -> None:
    places = np.array([[0.1, 0.1], [0.2, 0.3], [0.9, 0.9], [1.0, 0.6]], np.float32)
    points = np.array([[0, 1], [0.1, 0.9], [1, 0], [0, 0.9]], np.float32)
    whole = row_of(places, points, CENTRES, 1, "histogram")
    assert np.allclose(whole, np.sqrt([0.75, 0.25, 0]))
    parts = row_of(places, points, CENTRES, 2, "histogram").reshape(4, 3)
    assert np.allclose(parts, np.sqrt([[1, 0, 0], [0, 0, 0], [0, 0, 0], [0.5, 0.5, 0]]))


def test_vlad_has_the_rooted_residuals_of_each_word() -> None:
    points = np.array([[0, 0.9], [0.04, 1.0]], np.float32)
    found = row_of(np.zeros((2, 2), np.float32), points, CENTRES, 1, "vlad").reshape(3, 2)
    raw = np.array([np.sqrt(0.04), -np.sqrt(0.1)])
    assert np.allclose(found[0], raw / np.linalg.norm(raw), atol=1e-6)
    assert not found[1:].any()


def test_an_image_without_descriptors_has_zeros() -> None:
    for encoding in ("histogram", "vlad"):
        found = row_of(np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32), CENTRES, 2, encoding)  # type: ignore[arg-type]
        assert not found.any()
        assert np.isfinite(found).all()
