import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.client.outgoing.series import ORIENTATIONS, series, volume

from salus.client.data.dicom.instances import instance_of
from salus.client.outgoing.planes import in_order, planes_of
from salus.common.errors import UnreadableImage


@given(st.sampled_from(sorted(ORIENTATIONS)), st.permutations([0.0, 3.0, 6.0, 9.0, 12.0]))
def test_a_volume_comes_back_to_the_pixels_of_its_slices(orientation: str, places: list[float]) -> None:
    slices = series(orientation, tuple(places))
    values, affine = volume(slices)
    ordered = in_order([instance_of(dataset) for dataset in slices])
    by_uid = {dataset.SOPInstanceUID: dataset.pixel_array for dataset in slices}
    planes = planes_of(values, affine, ordered)
    assert (planes == np.stack([by_uid[instance.sop_instance_uid] for instance in ordered])).all()


def test_a_grid_that_is_not_the_images_is_refused() -> None:
    slices = series()
    values, affine = volume(slices)
    instances = [instance_of(dataset) for dataset in slices]
    for change in (
        np.diag([1, 1, 0.5, 1]),  # voxels of half the width
        np.array([[1, 0, 0, 0], [0, 1, 0, 0.5], [0, 0, 1, 0], [0, 0, 0, 1.0]]),  # half a pixel aside
        np.array([[1, 0, 0, 0], [0, 1, 0, 2], [0, 0, 1, 0], [0, 0, 0, 1.0]]),  # beyond the edge
        np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),  # between two slices
    ):
        with pytest.raises(UnreadableImage) as caught:
            planes_of(values, affine @ change, instances)
        assert caught.value.reason == "other-grid"


@pytest.mark.parametrize(
    ("places", "reason", "text"),
    [
        ((0, 3, 9, 12), "missing-slice", "6.00 mm after slice 2, not 3.00 mm"),
        ((0, 3, 6, 9, 13), "uneven-spacing", "3.00 to 4.00 mm"),
        ((0, 3, 6, 9, 12.1), "uneven-spacing", "3.00 to 3.10 mm"),
        ((0, 3, 3, 6), "repeated-slice", "same place"),
    ],
)
def test_missing_repeated_and_uneven_slices_are_refused_by_name(
    places: tuple[float, ...], reason: str, text: str
) -> None:
    with pytest.raises(UnreadableImage, match=text) as caught:
        in_order([instance_of(dataset) for dataset in series(places=places)])
    assert caught.value.reason == reason


def test_slices_that_do_not_belong_together_are_refused() -> None:
    axial, coronal = series(), series("coronal")
    other = series(SeriesInstanceUID="1.2.3.5")
    for slices, reason in (([*axial[:2], coronal[2]], "mixed-series"), ([*axial[:2], other[2]], "mixed-series")):
        with pytest.raises(UnreadableImage) as caught:
            in_order([instance_of(dataset) for dataset in slices])
        assert caught.value.reason == reason
    del axial[0].ImagePositionPatient
    with pytest.raises(UnreadableImage) as caught:
        in_order([instance_of(dataset) for dataset in axial])
    assert caught.value.reason == "no-position"


def test_two_slices_are_a_volume() -> None:
    assert len(in_order([instance_of(dataset) for dataset in series(places=(0, 7))])) == 2
