"""Generated headers, read by Salus, nibabel and ITK: all say the same, or Salus refuses the file by name.

Where the readers differ and the file is not refused, `ALLOWED` says what Salus does and why.
"""

import gzip
import itertools
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salus.client.data.records import ImageRecord, Quarantined
from salus.client.data.sources import open_source
from salus.client.data.sources.base import files_of
from salus.client.data.sources.local import LocalFiles
from salus.client.data.sources.nifti import NiftiVolume, decoded, read_stored
from salus.client.data.sources.nifti_header import MILLIMETRES, NUMBERS, OTHERS, header_of
from salus.client.data.sources.settings import SourceOptions
from salus.common.errors import DataError, UnreadableImage

UNIT_NAMES = {0: "unknown", 1: "meter", 2: "mm", 3: "micron"}
ALLOWED = {
    ("nibabel", "units"): "nibabel gives pixdim and affine as stored; Salus in millimetres, as ITK",
    ("nibabel", "trailing ones"): "nibabel keeps a last dimension of one; Salus and ITK's 3-D readers drop it",
    ("ITK", "NIfTI-2"): "this release of ITK does not read it",
    ("ITK", "slope of zero"): "nifti1.h: no scaling at all; ITK adds scl_inter all the same",
    (
        "ITK",
        "unplaced",
    ): "without sform and qform ITK takes x to the left; Salus, as nibabel, too, with the origin in the middle",
}


def raw_file(
    values: np.ndarray,
    *,
    order: str = "<",
    version: int = 1,
    units: int = 2,
    qform: Any = None,
    sform: Any = None,
    **fields: Any,
) -> bytes:
    """Return a single NIfTI file of ``[x, y, z, ...]`` whose header has exactly these fields."""
    kind = nibabel.Nifti1Header if version == 1 else nibabel.Nifti2Header
    header = kind(endianness=order)
    header.set_data_dtype(values.dtype.newbyteorder("="))
    header.set_data_shape(values.shape)
    header["pixdim"][1:4] = 1.0
    header["magic"] = b"n+1" if version == 1 else b"n+2\0\r\n\032\n"
    header["vox_offset"] = 352 if version == 1 else 544
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    header["xyzt_units"] = units
    if qform is not None:
        header.set_qform(qform, code=1)
    if sform is not None:
        header.set_sform(sform, code=1)
    for name, value in fields.items():
        header[name] = value
    data = values.astype(values.dtype.newbyteorder(order)).tobytes(order="F")
    return bytes(header.binaryblock) + b"\0" * 4 + data


def read(path: Path) -> NiftiVolume:
    return decoded(read_stored(LocalFiles(path.parent, SourceOptions()), path.name, mask=False))


def reason_of(data: bytes, folder: Path) -> tuple[str, str]:
    path = folder / "x.nii"
    path.write_bytes(data)
    with pytest.raises(UnreadableImage) as caught:
        read(path)
    return caught.value.reason, caught.value.detail


def rotation(numbers: tuple[float, float, float, float]) -> np.ndarray:
    """Return a rotation matrix of a quaternion (a, b, c, d) of any length, by its formula."""
    a, b, c, d = np.array(numbers) / np.linalg.norm(numbers)
    cross = np.array([[0, -d, c], [d, 0, -b], [-c, b, 0]])
    return np.eye(3) + 2 * a * cross + 2 * cross @ cross


quaternions = st.tuples(*[st.sampled_from([-1.0, -0.5, 0.0, 0.3, 1.0])] * 4).filter(any)


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, dict[str, Any]]:
    """Return a whole file, and what its header says."""
    version, order = draw(st.sampled_from([1, 2])), draw(st.sampled_from(["<", ">"]))
    code = draw(st.sampled_from(sorted(NUMBERS)))
    shape = (*draw(st.tuples(*[st.integers(1, 5)] * 3)), *draw(st.sampled_from([(), (1,), (1, 1)])))
    values = np.arange(np.prod(shape)).reshape(shape).astype(NUMBERS[code])
    units = draw(st.sampled_from(sorted(MILLIMETRES))) + draw(st.sampled_from([0, 8, 16]))
    sides = np.array(draw(st.tuples(*[st.sampled_from([0.5, 1.0, 2.5])] * 3)))
    qfac = draw(st.sampled_from([1.0, -1.0]))
    affine = np.eye(4)
    affine[:3, :3] = rotation(draw(quaternions)) * sides * [1, 1, qfac]
    affine[:3, 3] = draw(st.tuples(*[st.sampled_from([-90.0, 0.0, 12.5])] * 3))
    placed = draw(st.sampled_from(["sform", "qform", "both"]))
    scaling = draw(st.sampled_from([(1.0, 0.0), (0.0, 0.0), (2.0, -1024.0), (0.1, 3.0), (np.nan, 0.0)]))
    fields: dict[str, Any] = {"scl_slope": scaling[0], "scl_inter": scaling[1]}
    if placed != "qform":
        fields["sform"] = affine
    if placed != "sform":
        fields["qform"] = affine
    data = raw_file(values, order=order, version=version, units=units, **fields, pixdim=[qfac, *sides, 1, 1, 1, 1])
    return data, {"units": units & 7, "placed": placed, "version": version}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files())
def test_every_header_means_what_nibabel_and_itk_read(tmp_path_factory: pytest.TempPathFactory, made: Any) -> None:
    data, facts = made
    path = tmp_path_factory.mktemp("x") / "x.nii"
    path.write_bytes(data)
    ours = read(path)
    millimetres = MILLIMETRES[facts["units"]]
    theirs: Any = nibabel.load(path)
    affine = np.diag([-millimetres, -millimetres, millimetres, 1]) @ theirs.affine
    compare(ours, affine, theirs.get_fdata(dtype=np.float32).reshape(theirs.shape[:3]).transpose(2, 1, 0))
    assert ours.placed
    assert ours.voxel_ml == pytest.approx(np.prod(theirs.header.get_zooms()[:3]) * millimetres**3 / 1000, rel=1e-4)
    assert np.prod(ours.spacing_mm) / 1000 == pytest.approx(ours.voxel_ml, rel=1e-4)
    if facts["version"] == 1:
        image = sitk.ReadImage(str(path))
        while image.GetDimension() > 3:
            image = image[..., 0]
        affine = np.eye(4)
        affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
        affine[:3, 3] = image.GetOrigin()
        compare(ours, affine, sitk.GetArrayFromImage(image))


def compare(ours: NiftiVolume, affine: np.ndarray, array: np.ndarray) -> None:
    """Compare value and place of every voxel with ``[z, y, x]`` of another reader, whose affine goes from x, y, z to LPS."""
    to_index = np.linalg.solve(affine, ours.affine)
    for index in itertools.product(*(range(side) for side in ours.values.shape[1:])):
        x, y, z, _ = to_index @ [*index, 1.0]
        near = np.rint([z, y, x]).astype(int)
        assert np.allclose([z, y, x], near, atol=1e-2)
        assert ours.values[0][index] == pytest.approx(float(array[tuple(near)]), rel=1e-5, abs=1e-4)


def test_the_readers_differ_where_the_table_says(tmp_path: Path) -> None:
    path = tmp_path / "x.nii"
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    path.write_bytes(raw_file(values, scl_slope=0, scl_inter=5, sform=np.eye(4)))
    assert [float(reader(path)) for reader in (_smallest, _nibabels, _itks)] == [0.0, 0.0, 5.0]
    path.write_bytes(raw_file(values))
    ours, theirs = read(path), nibabel.load(path)
    assert not ours.placed
    compare(ours, np.diag([-1, -1, 1, 1]) @ theirs.affine, values.transpose(2, 1, 0))
    assert sitk.ReadImage(str(path)).GetOrigin() == (0.0, 0.0, 0.0)
    path.write_bytes(raw_file(values, version=2))
    assert np.array_equal(np.sort(read(path).values.ravel()), values.ravel())
    with pytest.raises(RuntimeError):
        sitk.ReadImage(str(path))
    assert len(ALLOWED) == 5


def _smallest(path: Path) -> float:
    return float(read(path).values.min())


def _nibabels(path: Path) -> float:
    return float(nibabel.load(path).get_fdata().min())


def _itks(path: Path) -> float:
    return float(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).min())


@pytest.mark.parametrize("code", sorted(OTHERS))
def test_pictures_that_are_not_grey_are_refused_by_their_true_name(tmp_path: Path, code: int) -> None:
    data = bytearray(raw_file(np.zeros((2, 2, 2), np.float64)))
    data[70:72] = np.int16(code).tobytes()
    reason, detail = reason_of(bytes(data), tmp_path)
    assert reason == "unsupported"
    assert OTHERS[code] in detail


UPRIGHT = np.diag([1.0, 1.0, 2.0, 1.0])
LYING = np.array([[1.0, 0, 0, 0], [0, 0, 2.0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(("fields", "reason", "word"), [
    ({"sform": UPRIGHT, "pixdim": [1, 1, 1, 1, 1, 1, 1, 1]}, "two-geometries", "pixdim"),
    ({"sform": LYING, "qform": UPRIGHT}, "two-geometries", "qform"),
    ({"sform": np.diag([-1.0, 1, 2, 1]), "qform": UPRIGHT}, "two-geometries", "qform"),
    ({"sform": np.zeros((4, 4)), "qform": UPRIGHT}, "bad-geometry", "sform"),
    ({"qform": UPRIGHT, "quatern_b": 0.9, "quatern_c": 0.9}, "bad-geometry", "quatern"),
    ({"qform": UPRIGHT, "quatern_b": np.nan}, "bad-geometry", "quatern"),
    ({"pixdim": [1, 0, 1, 1, 1, 1, 1, 1]}, "bad-geometry", "pixdim"),
    ({"pixdim": [1, np.nan, 1, 1, 1, 1, 1, 1]}, "bad-geometry", "pixdim"),
    ({"units": 5}, "not-understood", "xyzt_units"),
    ({"scl_slope": np.inf}, "not-understood", "scl_slope"),
    ({"scl_slope": 2.0, "scl_inter": np.nan}, "not-understood", "scl_inter"),
    ({"vox_offset": 0}, "not-understood", "vox_offset"),
    ({"vox_offset": 352.5}, "not-understood", "vox_offset"),
    ({"magic": b""}, "unsupported", "ANALYZE"),
    ({"magic": b"ni1"}, "damaged", "another file"),
    ({"magic": b"xyz"}, "damaged", "header"),
    ({"datatype": 77}, "not-understood", "datatype"),
    ({"dim": [3, 2, 0, 2, 1, 1, 1, 1]}, "damaged", "dim"),
    ({"dim": [9, 2, 2, 2, 1, 1, 1, 1]}, "damaged", "dim"),
])  # fmt: skip
def test_what_has_two_meanings_or_none_is_refused_by_the_fields_name(
    tmp_path: Path, fields: dict[str, Any], reason: str, word: str
) -> None:
    if "sform" in fields or "qform" in fields:
        fields = {"pixdim": [1, 1, 1, 2, 1, 1, 1, 1], **fields}
    found, detail = reason_of(raw_file(np.ones((2, 2, 2), np.int16), **fields), tmp_path)
    assert (found, word in detail) == (reason, True)


def test_a_rigid_movement_between_the_forms_is_no_contradiction(tmp_path: Path) -> None:
    moved = UPRIGHT.copy()
    moved[:3, :3] = rotation((1.0, 0.1, 0.05, 0.0)) @ moved[:3, :3]
    moved[:3, 3] = 40.0
    path = tmp_path / "x.nii"
    path.write_bytes(
        raw_file(np.ones((2, 2, 2), np.int16), sform=moved, qform=UPRIGHT, pixdim=[1, 1, 1, 2, 1, 1, 1, 1])
    )
    assert read(path).voxel_ml == pytest.approx(0.002)
    assert np.allclose(nibabel.load(path).affine, header_of(path.read_bytes()).affine, atol=1e-6)


@pytest.mark.parametrize("qfac", [0.0, 1.0, -1.0, -3.0])
def test_only_the_sign_of_pixdim_0_counts(tmp_path: Path, qfac: float) -> None:
    data = raw_file(np.ones((2, 2, 3), np.int16), qform=UPRIGHT, pixdim=[qfac, 1, 1, 2, 1, 1, 1, 1])
    assert np.linalg.det(header_of(data).affine) == pytest.approx(-2.0 if qfac < 0 else 2.0)


def test_negative_sides_are_sizes_and_a_sform_is_enough(tmp_path: Path) -> None:
    data = raw_file(np.ones((2, 2, 2), np.int16), qform=UPRIGHT, pixdim=[1, -1, 1, 2, 1, 1, 1, 1])
    assert np.allclose(header_of(data).affine, UPRIGHT)
    data = raw_file(np.ones((2, 2, 2), np.int16), sform=UPRIGHT, pixdim=[1, 0, 0, 0, 1, 1, 1, 1])
    assert header_of(data).sides_mm == (1.0, 1.0, 2.0)


def scanned(folder: Path, **options: Any) -> tuple[dict[str, ImageRecord], dict[str, str], Any]:
    source = open_source("nifti", folder, SourceOptions(**options))
    items = list(source.everything())
    good = {item.key: item for item in items if isinstance(item, ImageRecord)}
    bad = {item.key: item.reason for item in items if isinstance(item, Quarantined)}
    return good, {key: reason for key, reason in bad.items() if reason != "label-without-image"}, source


def labelled(folder: Path) -> Path:
    names = [path.name for path in folder.iterdir()]
    (folder / "labels.csv").write_text("file,label\n" + "".join(f"{name},1\n" for name in names))
    return folder


def test_pairs_upper_case_and_left_over_files_are_used_or_named(tmp_path: Path) -> None:
    values = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)
    nibabel.save(nibabel.Nifti1Pair(values, np.eye(4)), tmp_path / "pair.img")
    nibabel.save(nibabel.Nifti1Pair(values, np.eye(4)), tmp_path / "t.img.gz")
    (tmp_path / "t.img.gz").rename(tmp_path / "PACKED.IMG.GZ")
    (tmp_path / "t.hdr.gz").rename(tmp_path / "PACKED.HDR.GZ")
    nibabel.save(nibabel.Nifti1Pair(values, np.eye(4)), tmp_path / "u.img")
    (tmp_path / "u.hdr").unlink()
    nibabel.save(nibabel.Nifti1Pair(values, np.eye(4)), tmp_path / "v.img")
    (tmp_path / "v.img").unlink()
    nibabel.save(nibabel.Nifti2Image(values, np.eye(4)), tmp_path / "two.nii")
    (tmp_path / "UPPER.NII.GZ").write_bytes(gzip.compress(nibabel.Nifti1Image(values, np.eye(4)).to_bytes()))
    (tmp_path / "x.mgz").write_bytes(b"other")
    nibabel.save(nibabel.AnalyzeImage(values, np.eye(4)), tmp_path / "old.img")
    good, bad, source = scanned(labelled(tmp_path))
    used = {files_of(key) for key in good}
    assert used == {("pair.img", "pair.hdr"), ("PACKED.IMG.GZ", "PACKED.HDR.GZ"), ("two.nii",), ("UPPER.NII.GZ",)}
    for key, item in good.items():
        sample = source.load(key)
        assert np.array_equal(np.sort(sample.measured.ravel()), values.ravel())
        assert sample.sha256 == item.sha256
    assert bad.pop("labels.csv") == "set-aside"
    assert bad.pop("old.hdr") == "part-of-refused"
    assert bad == {
        "u.img": "image-without-header", "v.hdr": "header-without-image", "x.mgz": "other-kind", "old.img": "unsupported",
    }  # fmt: skip
    everything = {path.name for path in tmp_path.iterdir()}
    assert everything == set().union(*used) | {"labels.csv", "old.hdr", *bad}


def test_a_changed_header_of_a_pair_is_another_sample(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(np.ones((2, 2, 2), np.float32), np.eye(4)), tmp_path / "pair.img")
    good, _, source = scanned(labelled(tmp_path))
    ((key, item),) = good.items()
    nibabel.save(nibabel.Nifti1Pair(np.ones((2, 2, 2), np.float32), np.diag([2, 2, 2, 1])), tmp_path / "pair.img")
    assert source.load(key).sha256 != item.sha256


def test_several_volumes_are_channels_or_images_as_the_operator_chooses(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4 * 3, dtype=np.int16).reshape(2, 3, 4, 3)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "dwi.nii.gz")
    nibabel.save(
        nibabel.Nifti1Image(values[:, :, :, None], np.eye(4)), tmp_path / "vector.nii"
    )  # in the fifth dimension
    (tmp_path / "dwi.bval").write_text("0 1000 1000\n")
    labelled(tmp_path)
    assert scanned(tmp_path)[1] | {"labels.csv": ""} == {
        "dwi.nii.gz": "several-volumes", "vector.nii": "several-volumes", "dwi.bval": "set-aside", "labels.csv": "",
    }  # fmt: skip
    joined, _, source = scanned(tmp_path, channels="time")
    assert {key: item.info["channels"] for key, item in joined.items()} == {"dwi.nii.gz": 3, "vector.nii": 3}
    whole = source.load("dwi.nii.gz").measured
    apart, _, source = scanned(tmp_path, volumes=True)
    mine = sorted(key for key in apart if "dwi" in key)
    assert [files_of(key) for key in mine] == [("dwi.nii.gz",)] * 3
    for number, key in enumerate(mine):
        sample = source.load(key)
        assert np.array_equal(sample.measured, whole[number : number + 1])
        assert (sample.sha256, sample.pixel_sha256) == (apart[key].sha256, apart[key].pixel_sha256)
    assert len({apart[key].patient for key in mine}) == 1  # the volumes of one file are of one patient
    (tmp_path / "dwi.bval").write_text("0 1000\n")
    assert scanned(tmp_path, channels="b-value")[1]["dwi.nii.gz"] == "bval-mismatch"
    with pytest.raises(DataError, match="time"):
        open_source("nifti", tmp_path, SourceOptions(channels="phase"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.floats(-4e-4, 4e-4), st.sampled_from([np.float32, np.float64]), st.sampled_from(["", "1"]),
    st.sampled_from([0, 1, 2, 3]), st.tuples(*[st.sampled_from([0.5, 1.0, 3.0])] * 3),
)  # fmt: skip
def test_a_masks_volume_does_not_depend_on_rounding_or_units(
    tmp_path_factory: pytest.TempPathFactory, noise: float, kind: Any, column: str, units: int, sides: Any
) -> None:
    folder = tmp_path_factory.mktemp("x")
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    mask = np.zeros((6, 6, 6), kind)
    mask[1:4, 1:4, 1:4] = 1
    stored = np.array(sides) / MILLIMETRES[units]
    for place, values in (("images", np.arange(216.0).reshape(6, 6, 6)), ("masks", mask + kind(noise))):
        image = nibabel.Nifti1Image(values.astype(kind), np.diag([*stored, 1]))
        image.header["xyzt_units"] = units
        nibabel.save(image, folder / place / "a.nii")
    options = {"label_column": column} if column else {}
    good, bad, _ = scanned(folder, masks="masks", **options)
    assert not bad
    (item,) = good.values()
    assert float(item.label) == pytest.approx(27 * np.prod(sides) / 1000, abs=6e-4)
    assert item.targets["mask"].amounts["1"] == pytest.approx(27 * np.prod(sides) / 1000, rel=1e-4)


def test_masks_that_are_far_from_whole_numbers_or_not_numbers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for name, value in {"half": 0.5, "nan": np.nan, "minus": -1.0}.items():
        nibabel.save(nibabel.Nifti1Image(np.ones((2, 2, 2), np.float32), np.eye(4)), tmp_path / f"{name}.nii")
        mask = np.zeros((2, 2, 2), np.float32)
        mask[0] = value
        nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), tmp_path / "masks" / f"{name}.nii")
    _, bad, _ = scanned(tmp_path, masks="masks")
    reasons = {name: reason for name, reason in bad.items() if "/" not in name}
    assert reasons == {"half.nii": "not-a-mask", "nan.nii": "not-finite", "minus.nii": "not-a-mask"}
