from pathlib import Path

import nibabel
import numpy as np
import pytest
from tests.client.outgoing.series import COLUMNS, ORIENTATIONS, ROWS, position, series, volume

from salus.client.outgoing.nifti import write_nifti
from salus.common.errors import DataError


@pytest.mark.parametrize("orientation", sorted(ORIENTATIONS))
def test_every_voxel_is_where_the_scanner_saw_it(tmp_path: Path, orientation: str) -> None:
    slices = series(orientation)
    values, affine = volume(slices)
    write_nifti(tmp_path / "mask.nii.gz", values, affine)
    image = nibabel.load(tmp_path / "mask.nii.gz")
    assert image.get_data_dtype() == np.uint16
    assert image.header["qform_code"] == image.header["sform_code"] == 1
    assert image.header.get_xyzt_units()[0] == "mm"
    to_index, found = np.linalg.inv(image.affine), np.asarray(image.dataobj)
    for number, dataset in enumerate(slices):
        for row, column in ((0, 0), (2, 5), (ROWS - 1, COLUMNS - 1)):
            lps = position(dataset, row, column)
            index = to_index @ np.array([-lps[0], -lps[1], lps[2], 1.0])  # NIfTI is RAS
            assert index == pytest.approx(index.round(), abs=1e-3)
            assert found[tuple(index[:3].round().astype(int))] == 100 * number + 10 * row + column


def test_the_mask_of_a_nifti_file_has_the_axes_of_that_file(tmp_path: Path) -> None:
    values, affine = volume(series())
    for axes in ("RAS", "LPS", "PIR", "SAL"):
        order = nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt(("L", "P", "S")), nibabel.orientations.axcodes2ornt(tuple(axes))
        )
        lps = nibabel.Nifti1Image(
            values.transpose(2, 1, 0).astype(np.int16), np.diag([-1, -1, 1, 1]) @ affine @ np.eye(4)[[2, 1, 0, 3]]
        )
        source = lps.as_reoriented(order)
        write_nifti(tmp_path / "mask.nii.gz", values, affine, axes=axes)
        written = nibabel.load(tmp_path / "mask.nii.gz")
        assert (np.asarray(written.dataobj) == np.asarray(source.dataobj)).all()
        assert written.affine == pytest.approx(source.affine, abs=1e-4)


def test_overlapping_structures_are_the_fourth_axis_and_bytes_repeat(tmp_path: Path) -> None:
    values, affine = volume(series())
    layers = np.stack([values > 100, values > 200])
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, layers, affine)
    found = np.asarray(nibabel.load(tmp_path / "a.nii.gz").dataobj)
    assert found.dtype == np.uint8
    assert (found.transpose(3, 2, 1, 0) == layers).all()
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_what_is_no_mask_is_refused(tmp_path: Path) -> None:
    values, affine = volume(series())
    for mask in (values - 1, values.astype(float), values[0], values + 70_000):
        with pytest.raises(DataError, match="Expected a mask"):
            write_nifti(tmp_path / "mask.nii.gz", mask, affine)
    with pytest.raises(DataError, match="Expected a position"):
        write_nifti(tmp_path / "mask.nii.gz", values, affine * np.nan)
    assert list(tmp_path.iterdir()) == []
