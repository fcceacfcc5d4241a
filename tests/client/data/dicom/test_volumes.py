import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.client.data.dicom_files import write

from salus.client.data.dicom.display import Window
from salus.client.data.dicom.geometry import Geometry
from salus.client.data.dicom.grouping import grouped, plane_of_image
from salus.client.data.dicom.picture import DicomImage, read_dicom
from salus.client.data.dicom.tables import Table
from salus.client.data.dicom.volumes import stack
from salus.common.errors import UnreadableImage

AXES = [np.array(a, float) for a in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]


def slice_at(values: np.ndarray, row: np.ndarray, column: np.ndarray, position: np.ndarray) -> DicomImage:
    geometry = Geometry((2.0, 3.0), tuple(row), tuple(column), tuple(position))  # type: ignore[arg-type]
    step = tuple(np.cross(row, column) * 5.0)
    shown = values[None].astype(np.float32)
    window = Window("LINEAR_EXACT", 0.5, 1.0)
    return DicomImage(shown, shown, window, False, geometry, "p", "s", "r", 0, step, "", shown, "", {})  # type: ignore[arg-type]


@given(st.permutations([0, 1, 2]), st.tuples(*[st.sampled_from([1.0, -1.0])] * 2), st.randoms(use_true_random=False))
def test_every_orientation_gives_the_same_volume_in_space(
    axes: list[int], signs: tuple[float, float], shuffle: "__import__('random').Random"
) -> None:
    """A point's value must not depend on how the scanner sliced: paint each voxel with its own position."""
    row, column = AXES[axes[0]] * signs[0], AXES[axes[1]] * signs[1]
    normal = np.cross(row, column)
    slices = []
    for k in range(4):
        origin = np.array([10.0, 20.0, 30.0]) + normal * 5.0 * k
        i, j = np.mgrid[0:3, 0:5]
        where = origin + column * (2.0 * i[..., None]) + row * (3.0 * j[..., None])
        slices.append(slice_at(where @ np.array([1.0, 100.0, 10_000.0]), row, column, origin))
    shuffle.shuffle(slices)
    volume = stack(slices)
    for z, y, x in np.ndindex(*volume.values.shape):
        place = volume.affine @ np.array([x, y, z, 1.0])
        assert volume.values[z, y, x] == pytest.approx(place[:3] @ np.array([1.0, 100.0, 10_000.0]), rel=1e-5)
    assert (np.diag(volume.affine)[:3] > 0).all()
    assert sorted(volume.spacing_mm) == [2.0, 3.0, 5.0]


def flat(z: float, value: float = 0.0, side: int = 3, number: int = 0, thickness: float = 0.0) -> DicomImage:
    image = slice_at(np.full((side, side), value), AXES[0], AXES[1], np.array([0, 0, z]))
    return dataclasses.replace(image, instance_number=number, thickness_mm=thickness)


def test_missing_repeated_and_mixed_slices_are_refused() -> None:
    for slices, reason in (
        ([flat(0), flat(1), flat(2), flat(9)], "uneven-slices"),
        ([flat(0), flat(1), flat(3), flat(4)], "uneven-slices"),
        ([flat(0), flat(2), flat(6)], "uneven-slices"),
        ([flat(0), flat(0), flat(1)], "uneven-slices"),
        ([flat(0)], "single-slice"),
        ([flat(0), flat(1, side=4)], "mixed-series"),
        ([flat(0), slice_at(np.zeros((3, 3)), AXES[1], AXES[0], np.array([0, 0, 1.0]))], "mixed-series"),
    ):
        with pytest.raises(UnreadableImage) as caught:
            stack(slices)
        assert caught.value.reason == reason


def test_unevenly_spaced_slices_are_interpolated() -> None:
    volume = stack([flat(0, 0.0), flat(1, 0.1), flat(2, 0.2), flat(3.6, 0.36)])
    assert volume.values[:, 0, 0] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert volume.spacing_mm == (1.0, 2.0, 3.0)
    assert volume.affine[2, 2] == 1.0


def test_grey_values_mean_the_same_in_every_slice_of_a_volume(tmp_path: Path) -> None:
    for z, (level, window) in enumerate([(100, {}), (200, {}), (300, {})]):
        pixels = np.array([[0, level], [0, level]], np.uint16)
        write(tmp_path / f"{z}.dcm", pixels, ImagePositionPatient=[0, 0, z], **window)
    volume = stack([read_dicom(tmp_path / f"{z}.dcm") for z in range(3)])
    assert volume.values[:, 0, 1] == pytest.approx([1 / 3, 2 / 3, 1.0])
    for z, width in enumerate([301, 401, 501]):
        pixels = np.array([[0, 300], [0, 300]], np.uint16)
        write(tmp_path / f"{z}.dcm", pixels, ImagePositionPatient=[0, 0, z], WindowCenter=200.5, WindowWidth=width)
    volume = stack([read_dicom(tmp_path / f"{z}.dcm") for z in range(3)])
    assert volume.values[:, 0, 1] == pytest.approx([0.75] * 3)


@pytest.mark.parametrize("factor", [2.0, 3.0])
def test_a_distance_that_changes_with_the_thickness_is_no_gap(factor: float) -> None:
    """A head CT with thin slices at the base and thick ones above is whole; the same places with one thickness are not."""
    places = [*range(5), *(4 + factor * step for step in range(1, 4))]
    slices = [flat(place, place / 20, thickness=1.0 if place <= 4 else factor) for place in places]
    for order in (slices, slices[::-1]):
        volume = stack(order)
        assert volume.spacing_mm[0] == 1.0
        assert volume.values[:, 0, 0] == pytest.approx(np.arange(len(volume.values)) / 20, abs=1e-6)
    with pytest.raises(UnreadableImage, match="missing between the places 4"):
        stack([dataclasses.replace(image, thickness_mm=1.0) for image in slices])
    del slices[6]
    with pytest.raises(UnreadableImage, match="missing"):  # thick slices may be missing too
        stack(slices)


@pytest.mark.parametrize("odd", [Window(), Window("STRETCH", 0, 0)])
def test_a_slice_without_a_window_is_shown_under_the_median_of_the_others(odd: Window) -> None:
    window = Window("LINEAR_EXACT", 0.25, 0.5)
    slices = [dataclasses.replace(flat(z, 0.1), window=window) for z in range(4)]
    slices[2] = dataclasses.replace(slices[2], window=odd)
    assert stack(slices).values == pytest.approx(0.2)


def series_of(folder: Path) -> list[tuple[list[DicomImage], list[Path]]]:
    """Return every series below a folder with its files; multi-frame files and mosaics on their own."""
    found: dict[tuple[str, str], tuple[list[DicomImage], list[Path]]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and _is_dicom(p)):
        try:
            image = read_dicom(path)
        except UnreadableImage:
            continue
        key = (image.series_uid, path.name if image.values.shape[0] > 1 else "")
        images, paths = found.setdefault(key, ([], []))
        images.append(image)
        paths.append(path)
    return list(found.values())


def test_the_most_frequent_kind_of_window_is_the_volumes(tmp_path: Path) -> None:
    """One slice with a table or another function says nothing about the others, and a table is never read as a window."""
    table = Window("TABLE", table=Table(0, 8, (0, 51, 102, 255)))
    exact, sigmoid = Window("LINEAR_EXACT", 1.5, 3.0), Window("SIGMOID", 1.5, 3.0)
    for common, odd, wanted in ((table, exact, 0.4), (exact, table, 2 / 3), (exact, sigmoid, 2 / 3)):
        slices = [dataclasses.replace(flat(z, 2.0), window=common) for z in range(4)]
        slices[1] = dataclasses.replace(slices[1], window=odd)
        assert stack(slices).values == pytest.approx(wanted, abs=1e-6)


def first_volume(images: list[DicomImage]) -> list[DicomImage]:
    """Return the slices of the first volume of a series."""
    if len(images) == 1:
        return images
    volume, *_ = grouped([plane_of_image(image, str(number)) for number, image in enumerate(images)]).volumes
    return [images[int(plane.key)] for plane in volume.planes]


REAL = ["dcm_qa_ct/In/GE", "dcm_qa_nih/In/20180918GE", "studyforrest_t1"]


@pytest.mark.shared_data
@pytest.mark.parametrize("folder", REAL)
def test_real_series_lie_where_nibabel_puts_each_slice(shared_data: Path, folder: str) -> None:
    from nibabel.nicom.dicomwrappers import wrapper_from_file

    for images, paths in series_of(shared_data / "dicom" / folder):
        names = {id(image): path for image, path in zip(images, paths, strict=True)}
        slices = first_volume(images)
        volume = stack(slices)
        rows, columns = slices[0].values.shape[1:]
        corners = []
        for image in slices:
            affine = np.asarray(wrapper_from_file(names[id(image)]).affine)
            corners += [affine @ np.array([r, c, 0, 1.0]) for r in (0, rows - 1) for c in (0, columns - 1)]
        points = np.array(corners)[:, :3]
        # The tilted CT is interpolated to even slices, so its last slice may fall short by less than one step.
        tolerance = 0.02 if volume.values.shape[0] == len(slices) else max(volume.spacing_mm)
        ours = _box(volume.affine, volume.values.shape[::-1])
        assert np.allclose(ours, [points.min(axis=0), points.max(axis=0)], atol=tolerance)
        assert np.allclose(sorted(volume.spacing_mm[1:]), sorted(images[0].geometry.spacing_mm), atol=1e-3)


@pytest.mark.shared_data
def test_a_real_mr_series_has_monais_affine(shared_data: Path, tmp_path: Path) -> None:
    from monai.data.image_reader import PydicomReader

    images, paths = series_of(shared_data / "dicom" / "dcm_qa_nih" / "In" / "20180918GE")[0]
    names = {id(image): path for image, path in zip(images, paths, strict=True)}
    slices = first_volume(images)
    for image in slices:
        (tmp_path / names[id(image)].name).symlink_to(names[id(image)])
    volume = stack(slices)
    reader = PydicomReader(affine_lps_to_ras=False)
    data, meta = reader.get_data(reader.read(str(tmp_path)))
    assert data.shape == volume.values.shape[::-1]
    assert np.allclose(np.asarray(meta["affine"]), volume.affine, atol=1e-2)


@pytest.mark.shared_data
def test_a_real_tilted_ct_with_two_spacings_keeps_every_slice_in_its_place(shared_data: Path) -> None:
    ((images, _),) = series_of(shared_data / "dicom" / "dcm_qa_ct" / "In" / "GE")
    volume = stack(images)
    assert volume.spacing_mm[0] == pytest.approx(4.0, abs=0.01)  # its usual slice distance, across the tilt
    for image in images[:3] + images[-3:]:
        assert image.geometry.position is not None
        index = np.linalg.solve(volume.affine, np.array([*image.geometry.position, 1.0]))
        assert index[:2] == pytest.approx([0, 0], abs=0.05) or index[0] == pytest.approx(0, abs=0.05)


@pytest.mark.shared_data
def test_siemens_mosaics_are_taken_apart(shared_data: Path) -> None:
    found = series_of(shared_data / "dicom" / "dcm_qa_nih" / "In" / "20180918Si")
    assert len(found) == 8
    for images, _ in found:
        volume = stack(images)
        frames, rows, columns = images[0].values.shape
        assert frames > 1
        assert rows == columns
        assert volume.values.shape == images[0].values.shape
        assert volume.spacing_mm[1:] == (3.0, 3.0)
        # The tiles of a brain slice are not empty, and the middle of the volume is near the scanner's centre.
        assert volume.values[frames // 2].max() > 0.1
        centre = volume.affine @ np.array([columns / 2, rows / 2, frames / 2, 1.0])
        assert np.abs(centre[:3]).max() < 80


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(128)
        return file.read(4) == b"DICM"


def _box(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    corners = np.array([[i, j, k, 1] for i in (0, shape[0] - 1) for j in (0, shape[1] - 1) for k in (0, shape[2] - 1)])
    points = (corners @ affine.T)[:, :3]
    return np.stack([points.min(axis=0), points.max(axis=0)])
