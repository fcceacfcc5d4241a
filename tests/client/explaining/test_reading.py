"""What is known about an image: its label in the job's words, and what is annotated."""

from pathlib import Path

import numpy as np
import pytest

from salus.client.data.records import Sample
from salus.client.data.sources.settings import SourceOptions
from salus.client.explaining.reading import known_folder, region_of, truth_of
from salus.common.job import TaskSettings
from salus.simulations.samples import write_samples

CLASSES = TaskSettings(kind="classification", model="cnn", dataset="d", classes=("healthy", "lesion"), shape=(8, 8))
MASKS = TaskSettings(kind="segmentation", model="unet", dataset="d", classes=("left", "right"), shape=(8, 8))


def sample(kind: str, values: np.ndarray, names: tuple[str, ...] = ()) -> Sample:  # type: ignore[type-arg]
    grid = np.zeros((1, 6, 6), np.float32)
    return Sample(grid, targets={"t": values}, kinds={"t": kind}, names={"t": names} if names else {})  # type: ignore[dict-item]


@pytest.mark.parametrize(("label", "truth"), [("lesion", "lesion"), ("1", "lesion"), ("", ""), ("other", "")])
def test_labels_are_in_the_words_of_the_job(label: str, truth: str) -> None:
    assert truth_of(label, CLASSES) == truth


@pytest.mark.parametrize(
    ("label", "truth"),
    [("a|b", "a|b"), ("b|a", "a|b"), ("b", "b"), ("none", "none"), ("a|c", ""), ("", ""), ("c", "")],
)
def test_findings_are_in_the_order_of_the_answers(label: str, truth: str) -> None:
    job = TaskSettings(
        kind="multilabel", model="cnn", dataset="d", classes=("a", "b"), shape=(8, 8), no_finding=("none",)
    )
    assert truth_of(label, job) == truth


def test_the_region_is_that_of_the_structure_where_masks_tell_structures_apart() -> None:
    mask = np.zeros((6, 6), np.int16)
    mask[1, 1], mask[4, 4] = 1, 2
    for found, places in (
        (region_of(sample("mask", mask), CLASSES, "lesion"), [(1, 1), (4, 4)]),  # any of them
        (region_of(sample("mask", mask), MASKS, "right"), [(4, 4)]),
        (region_of(sample("mask", mask, ("right", "left")), MASKS, "right"), [(1, 1)]),
        (region_of(sample("mask", np.stack([mask == 1, mask == 2]).astype(np.uint8)), MASKS, "right"), [(4, 4)]),
    ):
        assert found is not None
        assert [tuple(place) for place in np.argwhere(found).tolist()] == places
    assert region_of(Sample(np.zeros((1, 6, 6), np.float32)), MASKS, "right") is None


def test_boxes_are_filled_as_far_as_they_lie_in_the_image() -> None:
    boxes = np.array([[1, 2, 3, 4, 1], [-5, 4.5, 1, 99, 2]], np.float32)
    found = region_of(sample("boxes", boxes, ("lesion", "other")), CLASSES, "healthy")
    assert found is not None
    assert int(found.sum()) == 4 + 2
    only = region_of(sample("boxes", boxes, ("lesion", "other")), CLASSES, "lesion")
    assert only is not None
    assert int(only.sum()) == 4


def test_labels_and_boxes_are_found_beside_the_pictures(tmp_path: Path) -> None:
    folder = write_samples(tmp_path / "p", ("lesions",), patients=4, seed=0, side=16)["lesions"]
    known = known_folder(folder, "images", SourceOptions())
    assert sorted(known.labels.values()) == ["healthy", "healthy", "lesion", "lesion"]
    assert known.problem == ""
    regions = [region_of(known.inputs.source.load(one.key), CLASSES, "lesion") for one in known.inputs.found]
    assert sorted(bool(region is not None and region.any()) for region in regions) == [False, False, True, True]
    assert {one.key for one in known.inputs.found} == set(known.labels)
