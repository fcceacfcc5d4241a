"""Statistics see each image as the job's transforms leave it: as an image, or as a row with the names of its columns."""

import numpy as np
import pytest
from tests.common.sums.builders import job_of

from salus.client.data.records import Sample
from salus.client.measured_rows import Rows, measured_of
from salus.common.errors import JobError, UnreadableImage
from salus.common.features.radiomics import radiomics_of, ranges_of
from salus.common.sums import sums_of
from salus.common.sums.questions import questions_of

RADIOMICS = '{kind = "radiomics", bins = 8, distances = [1], intensity_low = 0.0, intensity_high = 100.0}'


def sample(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Sample:
    return Sample(values=values / 100, intensities=values)


def image(seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).uniform(0, 100, (1, 12, 12)).astype(np.float32)


def test_a_row_has_the_names_and_numbers_of_the_step() -> None:
    job = job_of("kmeans", task=f"transforms = [{RADIOMICS}]")
    found = measured_of(sample(image()), 1, {}, Rows(job))
    direct = radiomics_of(image(), 0, 100, 8, (1,))
    assert direct is not None
    assert list(found.columns) == list(ranges_of(8, (1,)))
    assert np.allclose(list(found.columns.values()), direct.astype(np.float32))
    assert sums_of(job).row(1, [], found) is not None


def test_an_image_is_measured_after_its_chain_and_without_one_as_it_is() -> None:
    job = job_of("nyul", task='transforms = [{kind = "resize", size = [4, 4]}]')
    assert measured_of(sample(image()), 1, {}, Rows(job)).intensities.shape == (1, 4, 4)
    plain = measured_of(sample(image()), 1, {}, Rows(job_of("nyul")))
    assert np.array_equal(plain.intensities, image())


def test_an_image_that_a_step_cannot_use_is_named_as_such() -> None:
    job = job_of("kmeans", task=f"transforms = [{RADIOMICS}]")
    with pytest.raises(UnreadableImage):
        measured_of(sample(np.full((1, 5, 5), np.nan, np.float32)), 1, {}, Rows(job))


def test_random_steps_are_refused_and_so_are_rows_for_statistics_of_images() -> None:
    with pytest.raises(JobError, match="flip"):
        job_of("nyul", task='transforms = [{kind = "flip"}]')
    with pytest.raises(JobError, match="rows"):
        sums_of(job_of("nyul", task=f"transforms = [{RADIOMICS}]"))


def test_other_transforms_are_another_question() -> None:
    chains = ("", f"transforms = [{RADIOMICS}]", f"transforms = [{RADIOMICS.replace('bins = 8', 'bins = 9')}]")
    for kind in ("kmeans", "summary"):
        asked = [questions_of(job_of(kind, task=task), 5) for task in chains]
        assert len({str(sorted(one.items())) for one in asked}) == 3
    assert "bins" in questions_of(job_of("summary", task=chains[1]), 5)["summary: column mean"]
