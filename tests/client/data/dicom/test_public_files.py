"""Every file that pydicom and pydicom-data bring: read or refused as the table beside this test says, at both doors.

`public_files.txt` holds for each file what `add` does and what `import` does; write it again with

    python -m tests.client.data.dicom.test_public_files

Where SimpleITK reads the file as well, its numbers are the same, but for the differences in `ALLOWED`.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from tests.client.data.dicom.doors import Outcome, added, assert_alike, imported

from salus.client.data.dicom.meaning import meaning_of
from salus.client.data.dicom.opening import open_dataset

TABLE = Path(__file__).with_name("public_files.txt")
SUFFIXES = {".py", ".pyc", ".json", ".txt", ".md", ".icc", ".dump"}
ALLOWED = {
    "test_files/SC_rgb_rle_16bit.dcm": "ITK misplaces the planes of RLE; ours equal SC_rgb_16bit.dcm, the same without it",
    "test_files/SC_rgb_rle_32bit.dcm": "as before; ours equal SC_rgb_32bit.dcm",
    "test_files/SC_rgb_rle_16bit_2frame.dcm": "as before; ours equal SC_rgb_16bit_2frame.dcm",
    "test_files/SC_rgb_rle_32bit_2frame.dcm": "as before; ours equal SC_rgb_32bit_2frame.dcm",
    "data_store/mlut_18.dcm": "ITK does not apply ModalityLUTSequence (PS3.3 C.11.1)",
    "test_files/rtdose_expb.dcm": "ITK reads 32-bit big-endian words in the wrong order",
}
SAME = (  # one picture in two encodings
    ("data_store/SC_rgb_16bit.dcm", "test_files/SC_rgb_rle_16bit.dcm"),
    ("data_store/SC_rgb_32bit.dcm", "test_files/SC_rgb_rle_32bit.dcm"),
    ("data_store/SC_rgb_16bit_2frame.dcm", "test_files/SC_rgb_rle_16bit_2frame.dcm"),
    ("data_store/SC_rgb_32bit_2frame.dcm", "test_files/SC_rgb_rle_32bit_2frame.dcm"),
    ("data_store/OBXXXX1A.dcm", "data_store/OBXXXX1A_expb.dcm"),
    ("data_store/OBXXXX1A.dcm", "data_store/OBXXXX1A_rle.dcm"),
    ("data_store/gdcm-US-ALOKA-16.dcm", "data_store/gdcm-US-ALOKA-16_big.dcm"),
    ("test_files/MR_small.dcm", "test_files/MR_small_bigendian.dcm"),
)
RELATIVE = 1e-6  # slopes keep nine digits, and ITK computes some images in single precision
SLOW = {"data_store/color3d_jpeg_baseline.dcm", "test_files/examples_ybr_color.dcm"}


def files() -> dict[str, Path]:
    """Return the files by a name that does not depend on where they are installed."""
    pytest.importorskip("data_store")
    import data_store

    roots = (
        ("data_store", Path(next(iter(data_store.__path__))) / "data"),
        ("test_files", Path(pydicom.__file__).parent / "data" / "test_files"),
        ("charset_files", Path(pydicom.__file__).parent / "data" / "charset_files"),
    )
    return {
        f"{name}/{path.relative_to(root)}": path
        for name, root in roots
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix not in SUFFIXES and path.name != "README"
    }


def said(outcome: Outcome) -> str:
    """Return an outcome as the table writes it."""
    if outcome.refused is not None:
        return f"{outcome.refused[0]}: {outcome.refused[1]}"
    assert outcome.image is not None
    shape = "x".join(map(str, outcome.image.values.shape))
    low, high = outcome.image.info["intensity_range"]  # type: ignore[misc]
    return f"{shape} from {low:.6g} to {high:.6g}, {outcome.image.window.function}"


def rows() -> Iterator[tuple[str, str, str, Outcome, Outcome, Path]]:
    """Yield what both doors do with each file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, path in files().items():
            if name not in SLOW:
                data = path.read_bytes()
                one, other = added(data), imported(data)
                yield name, said(one), said(other), one, other, path


def test_every_public_file_is_read_or_refused_as_the_table_says() -> None:
    expected = {line.split(" | ")[0]: line for line in TABLE.read_text().splitlines()}
    found = {}
    for name, one, other, added_, imported_, _ in rows():
        found[name] = f"{name} | {one} | {other}"
        assert found[name] == expected.get(name)
        if added_.image is not None and imported_.image is not None:
            assert_alike(added_.image, imported_.image)
        elif added_.refused is not None:  # what cannot be read has one reason; the import has rules of its own besides
            assert imported_.refused is not None
            assert imported_.refused[0] in (added_.refused[0], "burned-in")
    assert set(expected) == set(found)


def test_simpleitk_reads_the_same_numbers() -> None:
    sitk = pytest.importorskip("SimpleITK")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    compared, table = 0, files()
    for pair in SAME:
        plain, packed = (added(table[name].read_bytes()).image for name in pair)
        assert plain is not None
        assert packed is not None
        np.testing.assert_array_equal(plain.values, packed.values)
    for name, _, _, outcome, _, path in rows():
        if outcome.image is None or name in ALLOWED:
            continue
        try:
            theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float64)
        except RuntimeError:
            continue
        dataset = open_dataset(path.read_bytes())
        measured = meaning_of(dataset).measured
        ours = measured.values().astype(np.float64)
        if measured.colour:
            theirs = np.moveaxis(theirs.reshape(len(ours), *theirs.shape[-3:]), -1, 1)
            ours, theirs = ours / max(ours.max(), 1e-12), theirs / max(theirs.max(), 1e-12)  # ITK widens palettes
        elif dataset.PhotometricInterpretation == "MONOCHROME1":  # ITK turns it over before the rescale
            ours = sum(measured.ends) - ours
        theirs = theirs.reshape(ours.shape)
        scale = max(float(np.abs(ours).max()), 1e-12)
        assert np.abs(ours - theirs).max() <= RELATIVE * scale, name
        compared += 1
    assert compared > 120


def write_table() -> None:
    """Write the table again; read what has changed before it is committed."""
    TABLE.write_text("".join(f"{name} | {one} | {other}\n" for name, one, other, *_ in rows()))


if __name__ == "__main__":
    write_table()
