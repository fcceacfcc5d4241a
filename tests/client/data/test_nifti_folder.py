import gzip
import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from salus.client.data.catalogue import Catalogue
from salus.client.data.records import ImageRecord, Quarantined
from salus.client.data.sources import guess_kind, open_source
from salus.client.data.sources.local import LocalFiles
from salus.client.data.sources.nifti_folder import NiftiFolder
from salus.client.data.sources.settings import SourceOptions
from salus.common.errors import DataError, UnreadableImage

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "hippocampus"
VALUES = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)  # x, y, z


def write(path: Path, values: np.ndarray, axes: str = "RAS", spacing: tuple[float, ...] = (1.0, 2.0, 3.0)) -> Path:
    """Write a volume whose array runs along `axes`, so that the picture in space is the same for all axes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, np.diag([*spacing, 1.0]))
    wanted = nibabel.orientations.axcodes2ornt(tuple(axes))
    turn = nibabel.orientations.ornt_transform(nibabel.orientations.io_orientation(image.affine), wanted)
    nibabel.save(image.as_reoriented(turn), path)
    return path


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAR", "PIL"])
def test_every_orientation_gives_the_same_volume_in_space(tmp_path: Path, axes: str) -> None:
    write(tmp_path / "a.nii.gz", VALUES, axes)
    (tmp_path / "labels.csv").write_text("file,label,PatientID\na.nii.gz,x,P1\n")
    source = open_source(guess_kind(tmp_path), tmp_path, SourceOptions())
    (record,) = source.scan()
    assert isinstance(record, ImageRecord)
    assert (record.patient, record.label, record.info["slices"]) == ("P1", "x", 6)
    sample = source.load("a.nii.gz")
    assert sample.spacing_mm == (3.0, 2.0, 1.0)
    assert np.array_equal(
        sample.measured[0], VALUES.transpose(2, 1, 0)[:, ::-1, ::-1]
    )  # from right and front to left and back
    assert (sample.values.min(), sample.values.max()) == (0.0, 1.0)
    assert sample.sha256 == record.sha256


def test_masks_become_volumes_or_classes(tmp_path: Path) -> None:
    for name, voxels in (("a", 10), ("b", 40), ("c", 0)):
        mask = np.zeros(VALUES.shape, np.uint8)
        mask.reshape(-1)[:voxels] = 1
        mask.reshape(-1)[:5] *= 2
        write(tmp_path / "images" / f"{name}.nii.gz", VALUES)
        write(tmp_path / "masks" / f"{name}.nii.gz", mask)
    write(tmp_path / "images" / "orphan.nii.gz", VALUES)
    elsewhere = nibabel.Nifti1Image(np.ones(VALUES.shape, np.uint8), nibabel.affines.from_matvec(np.eye(3), [99, 0, 0]))
    nibabel.save(elsewhere, tmp_path / "masks" / "far.nii.gz")
    write(tmp_path / "images" / "far.nii.gz", VALUES)
    found = list(open_source("nifti", tmp_path, SourceOptions(masks="masks")).scan())
    labels = {json.loads(item.key)[0]: item.label for item in found if isinstance(item, ImageRecord)}
    assert labels == {"images/a.nii.gz": "0.060", "images/b.nii.gz": "0.240", "images/c.nii.gz": "0.000"}
    assert [item.reason for item in found if isinstance(item, Quarantined)] == ["mask-elsewhere", "unlabelled"]
    above = open_source("nifti", tmp_path, SourceOptions(masks="masks", positive_above=0.1))
    assert [item.label for item in above.scan() if isinstance(item, ImageRecord)] == ["0", "1", "0"]
    second = open_source("nifti", tmp_path, SourceOptions(masks="masks", label_column="2"))
    assert [item.label for item in second.scan() if isinstance(item, ImageRecord)] == ["0.030", "0.030", "0.000"]
    with pytest.raises(DataError, match="masks"):
        open_source("nifti", tmp_path, SourceOptions(masks="nowhere"))


def test_images_of_one_name_have_their_own_masks_or_none(tmp_path: Path) -> None:
    for patient, voxels in (("sub-01", 10), ("sub-02", 40)):
        write(tmp_path / "images" / patient / "T1.nii.gz", VALUES)
        mask = np.zeros(VALUES.shape, np.uint8)
        mask.reshape(-1)[:voxels] = 1
        write(tmp_path / "own" / patient / "T1.nii.gz", mask)
    write(tmp_path / "one" / "T1.nii.gz", mask)
    found = open_source("nifti", tmp_path / "images", SourceOptions(masks="../own")).scan()
    assert [item.label for item in found if isinstance(item, ImageRecord)] == ["0.060", "0.240"]
    shared = list(open_source("nifti", tmp_path / "images", SourceOptions(masks="../one")).scan())
    assert [item.reason for item in shared if isinstance(item, Quarantined)] == ["unlabelled"] * 2 + [
        "mask-without-image"
    ]


def test_damaged_files_and_bombs_are_quarantined(tmp_path: Path) -> None:
    good = write(tmp_path / "good.nii", VALUES).read_bytes()
    (tmp_path / "cut.nii").write_bytes(good[:-20])
    (tmp_path / "empty.nii").write_bytes(b"")
    (tmp_path / "cut.nii.gz").write_bytes(gzip.compress(good)[:-30])
    (tmp_path / "junk.nii.gz").write_bytes(b"\x1f\x8b" + b"x" * 100)
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(good[:352] + bytes(300_000_000), 9))
    huge = bytearray(good)
    huge[42:48] = np.array([30000, 30000, 30000], np.int16).tobytes()
    (tmp_path / "huge.nii").write_bytes(bytes(huge))
    far = bytearray(good)
    far[108:112] = np.float32(1.9e9).tobytes()
    (tmp_path / "far.nii").write_bytes(bytes(far))
    os.mkfifo(tmp_path / "pipe.nii")
    with (tmp_path / "sparse.nii").open("wb") as sparse:
        sparse.write(good)
        sparse.truncate(8 * 2**30)
    nan = VALUES.astype(np.float32)
    nan[0, 0, 0] = np.nan
    write(tmp_path / "nan.nii", nan)
    write(tmp_path / "time.nii", VALUES)
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2, 5), np.int16), np.eye(4)), tmp_path / "time.nii")
    rows = "\n".join(f"{path.name},x" for path in tmp_path.iterdir())
    (tmp_path / "labels.csv").write_text(f"file,label\n{rows}\n")
    catalogue = Catalogue(tmp_path.with_suffix(".sqlite"), b"s" * 16)
    summary = catalogue.add("n", "nifti", tmp_path, SourceOptions())
    assert (
        summary.images == 3
    )  # the good one, and the bomb and the sparse one of which no byte beyond the volume was read
    assert summary.quarantined == {"damaged": 4, "too-large": 2, "not-finite": 1, "several-volumes": 1, "not-a-file": 1}
    assert summary.set_aside == 1


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared hippocampus data")
def test_real_volumes_with_masks() -> None:
    source = open_source("nifti", SHARED, SourceOptions(structures=("anterior", "posterior")))
    found = [item for _, item in zip(range(30), source.scan(), strict=False)]
    (first, *_) = (item for item in found if isinstance(item, ImageRecord))
    assert list(first.targets["mask"].amounts) == ["anterior", "posterior"]
    assert sum(first.targets["mask"].amounts.values()) == pytest.approx(float(first.label), abs=1e-3)
    sample = source.load(first.key)
    assert sample.targets["mask"].shape == sample.values.shape[1:]
    assert np.unique(sample.targets["mask"]).tolist() == [0, 1, 2]
    volumes = [float(item.label) for item in found if isinstance(item, ImageRecord)]
    assert len(volumes) >= 29
    assert 1.5 < np.median(volumes) < 5  # a hippocampus has about three millilitres


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared hippocampus data")
def test_real_orphans_are_counted_by_reason() -> None:
    reader = NiftiFolder(LocalFiles(SHARED, SourceOptions()), NiftiFolder.Settings())
    names = [name for name in LocalFiles(SHARED, SourceOptions()).names() if reader.wants(name)]
    assert len(names) == 263  # 261 images, and 2 masks without an image
    reasons = {}
    for name in ("images/hippocampus_118.nii.gz", "labels/hippocampus_010.nii.gz", "labels/hippocampus_281.nii.gz"):
        with pytest.raises(UnreadableImage) as caught:
            list(reader.examine([name]))
        reasons[name] = caught.value.reason
    assert list(reasons.values()) == ["unlabelled", "mask-without-image", "mask-without-image"]
