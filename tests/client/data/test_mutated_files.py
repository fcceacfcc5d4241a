"""2 000 damaged files of every kind that Salus reads: each is used or refused by name; no child dies or hangs.

The files go through the real sandboxed children: `add` reads them, `import` de-identifies them. Half of the damage is in bytes,
half in elements, so that it reaches what a parser would otherwise stop at.
"""

import contextlib
import copy
import gzip
import io
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless
from tests.client.data.dicom.enhanced import as_bytes
from tests.client.data.dicom.test_clips import TIMES, clip, spect
from tests.client.data.dicom.test_frames import volume_file
from tests.client.data.dicom.test_suv import pet
from tests.client.data.dicom_annotations import SHAPE, segmentation, series, structure_set
from tests.client.data.dicom_files import make
from tests.client.data.test_nifti_header import raw_file

from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.dicom.deidentify import PixelMask
from salus.client.data.dicom.isolation import Decoding
from salus.client.data.records import ImageRecord, Quarantined
from salus.client.data.sources import open_source
from salus.client.data.sources.base import files_of
from salus.client.data.sources.labels import read_labels
from salus.client.data.sources.local import LocalFiles
from salus.client.data.sources.remote import Remote
from salus.client.data.sources.settings import LabelSettings, SourceOptions
from salus.common.errors import DataError, UnreadableImage

SEED = 13
EACH = 100  # files of each of the eleven kinds of images
ANNOTATIONS = 150  # files each of segmentations and structure sets
VOLUMES, LABEL_FILES = 350, 250  # half of the NIfTI files are masks
MOST_BYTES = 2**30
MASK = PixelMask("OTHER", 6, 8, ((0, 0, 1, 1),))
NUMBERS = (0, -1, 1, 2**15, 65535, 2**31 - 1, 1e300, float("nan"), float("inf"), -1e-30)
Damage = Callable[[bytes, random.Random], bytes]


def palette() -> FileDataset:
    """Return a picture with a palette, a modality table and a display table."""
    colours: dict[str, Any] = {}
    for name in ("Red", "Green", "Blue"):
        colours[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        colours[f"{name}PaletteColorLookupTableData"] = (np.arange(256) * 257).astype("<u2").tobytes()
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    return make(pixels, PhotometricInterpretation="PALETTE COLOR", **colours)


def tables() -> FileDataset:
    modality, shown = Dataset(), Dataset()
    modality.LUTDescriptor, modality.LUTData = [64, 0, 12], (np.arange(64) * 3).astype("<u2").tobytes()
    shown.LUTDescriptor, shown.LUTData = [200, 0, 16], (np.arange(200) * 300).astype("<u2").tobytes()
    pixels = np.arange(48, dtype=np.uint16).reshape(6, 8)
    return make(pixels, ModalityLUTSequence=[modality], VOILUTSequence=[shown], PixelPaddingValue=3)


def deflated() -> FileDataset:
    dataset = make(np.arange(4000, dtype=np.uint16).reshape(40, 100), ImageComments="x" * 500)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return dataset


def packed() -> FileDataset:
    dataset = make(np.arange(4000, dtype=np.uint16).reshape(40, 100))
    dataset.compress(RLELossless, generate_instance_uid=False)
    return dataset


def floats() -> FileDataset:
    pixels = np.arange(48, dtype=np.uint16).reshape(6, 8)
    dataset = make(pixels, PixelData=None, BitsAllocated=32, BitsStored=None, HighBit=None, PixelRepresentation=None)
    dataset.add_new("FloatPixelData", "OF", pixels.astype("<f4").tobytes())
    return dataset


def images() -> dict[str, bytes]:
    """Return a whole file of each kind of image."""
    timed = clip(4, True, FrameTimeVector=[0, 5, 6, 7], FrameIncrementPointer=TIMES)
    whole = {"clip": timed, "grey clip": clip(3, False, FrameTime=40), "spect": spect(5), "gated": spect(-5, 2),
             "palette": palette(), "tables": tables(), "deflated": deflated(), "rle": packed(), "float": floats(),
             "pet": pet()}  # fmt: skip
    return {"enhanced": volume_file(), **{name: as_bytes(dataset) for name, dataset in whole.items()}}


def in_bytes(data: bytes, chance: random.Random) -> bytes:
    """Return a file with some bytes changed, mostly those of the header, with a part repeated, or cut."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        most = len(changed) if chance.random() < 0.3 else max(min(len(changed), 900), 1)
        place = chance.randrange(min(128, most - 1), most)
        changed[place] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
    if chance.random() < 0.15:
        place = chance.randrange(len(changed))
        changed[place:place] = changed[place : place + chance.randrange(1, 300)]
    if chance.random() < 0.15:
        del changed[chance.randrange(len(changed)) :]
    return bytes(changed)


def places(dataset: Dataset, depth: int = 0) -> Iterator[tuple[Dataset, Any]]:
    """Yield every element with the data set that holds it."""
    for element in list(dataset):
        yield dataset, element
        if element.VR == "SQ" and depth < 12:
            for item in element.value:
                yield from places(item, depth + 1)


def in_elements(data: bytes, chance: random.Random) -> bytes:
    """Return a file in which an element, at any depth, is gone, empty, extreme, longer or repeated."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    for _ in range(chance.choice([1, 1, 2, 4])):
        holder, element = chance.choice(list(places(dataset)))
        if element.tag not in holder:
            continue
        kind = chance.randrange(5)
        if kind == 0:
            del holder[element.tag]
        elif element.VR == "SQ":
            element.value = list(element.value) * chance.choice([0, 2, 30])
        elif element.VR in ("US", "SS", "UL", "SL", "AT"):
            element.value = chance.choice([0, 1, 2, 255, 32767])
        elif element.VR in ("DS", "IS", "FD", "FL"):
            number = chance.choice(NUMBERS)
            text = chance.choice([f"{number:.6g}", "", "one", "1\\2\\3\\4", "1,5", " 7 "])
            holder.add_new(element.tag, element.VR if element.VR in ("FD", "FL") else "LO",
                           float(number) if element.VR in ("FD", "FL") else text)  # fmt: skip
        elif isinstance(element.value, bytes):
            element.value = chance.choice([b"", element.value[: len(element.value) // 4 * 2], element.value * 3])
        else:
            holder.add_new(element.tag, "LO", chance.choice(["", "X" * 64, "1.2", "\\".join("abc")]))
    return as_bytes(dataset)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Return a DICOM file with damage of either kind; some damage of elements cannot be written, so it is tried again."""
    for _ in range(20):
        with contextlib.suppress(Exception):  # pydicom refuses to write what makes no sense
            return chance.choice([in_bytes, in_elements])(data, chance)
    return in_bytes(data, chance)


def peak_bytes(process: int | str) -> int:
    """Return the most memory that a process has used."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found
    return int(found[1]) * 1024


def results(folder: Path, kind: str, **options: Any) -> Counter[str]:
    """Scan a folder in a child and load what is used; each file is found exactly once and no child has died."""
    source = open_source(kind, folder, SourceOptions.asked(**options), Decoding(memory_mb=1024))
    assert isinstance(source, Remote)
    first, reasons = source._child.incarnation, Counter[str]()
    used, unused = [], []
    for item in source.everything():
        if isinstance(item, Quarantined):
            reasons[item.reason] += 1
            unused += [item.key] if (folder / item.key).is_file() else []
            continue
        assert isinstance(item, ImageRecord)
        used += [name for name in files_of(item.key) if name not in used]
        try:
            sample = source.load(item.key)
            assert np.isfinite(sample.values).all()
            reasons["used"] += 1
        except UnreadableImage as problem:
            reasons[f"not loaded: {problem.reason}"] += 1
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {*used, *unused} >= there - set(source._parts(sorted(there)))
    assert not {"crashed", "too-slow"} & set(reasons), reasons
    assert source._child.incarnation == first
    peak = peak_bytes(source._child.process_id)
    print("peak of the reading child", peak)
    assert peak < MOST_BYTES
    return reasons


@pytest.fixture(autouse=True)
def bounded_parent() -> Iterator[None]:
    """The process that reads the answers needs little memory of its own."""
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_bytes("self")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    assert peak_bytes("self") - before < MOST_BYTES


@pytest.mark.slow
def test_images_of_every_kind(tmp_path: Path) -> None:
    chance, cleaned = random.Random(SEED), Counter[str]()
    (tmp_path / "labels.csv").write_text("PatientID,label\nP1,1\n")
    with Isolated(b"secret" * 8, (MASK,)) as child:
        first = child._child.incarnation
        for name, data in images().items():
            for number in range(EACH):
                broken = damaged(data, chance)
                (tmp_path / f"{name}-{number}.dcm").write_bytes(broken)
                try:
                    child.clean(broken)
                    cleaned["used"] += 1
                except UnreadableImage as problem:
                    cleaned[problem.reason] += 1
        assert not {"crashed", "too-slow"} & set(cleaned), cleaned
        assert child._child.incarnation == first
        assert peak_bytes(child.process_id) < MOST_BYTES
    added = results(tmp_path, "dicom")
    print("imported", dict(cleaned), "added", dict(added))
    assert cleaned["used"] > EACH
    assert min(cleaned["damaged"], cleaned["not-understood"], added["damaged"], added["used"]) > 10


@pytest.mark.slow
def test_segmentations_and_structure_sets(tmp_path: Path) -> None:
    chance, mask = random.Random(SEED), np.zeros(SHAPE, bool)
    mask[1:4, 2:6, 1:4] = True
    square = np.array([[2.0, 1], [2, 4], [6, 4], [6, 1]])
    rows, found = ["PatientID,label"], Counter[str]()
    with Isolated(b"secret" * 8, structures=("liver",)) as child:
        first = child._child.incarnation
        for number in range(2 * ANNOTATIONS):
            folder = tmp_path / f"P{number}"
            slices = series(folder, patient=f"P{number}")
            rows.append(f"P{number},{number % 2}")
            kind = ("BINARY", "FRACTIONAL", "LABELMAP")[number % 3]
            whole = (
                segmentation(slices, {"liver": mask}, kind)
                if number % 2
                else structure_set(slices, {"liver": {1: [square]}})
            )
            broken = damaged(as_bytes(copy.deepcopy(whole)), chance)  # type: ignore[arg-type]
            (folder / "annotation.dcm").write_bytes(broken)
            for door in (child.clean, child.annotations):
                try:
                    door(broken)
                    found["used"] += 1
                except UnreadableImage as problem:
                    found[problem.reason] += 1
        assert not {"crashed", "too-slow"} & set(found), found
        assert child._child.incarnation == first
        assert peak_bytes(child.process_id) < MOST_BYTES
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    added = results(tmp_path, "dicom", volumes=True)
    print("imported", dict(found), "added", dict(added))
    assert added["used"] >= ANNOTATIONS  # a damaged annotation costs itself, not the series


@pytest.mark.slow
def test_nifti_images_and_masks(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    values = np.arange(6 * 5 * 4).reshape(6, 5, 4)
    for number in range(VOLUMES // 2):
        version, packing = 1 + number % 2, number % 3 == 0
        for place, whole in (("images", values.astype(np.int16)), ("masks", (values > 60).astype(np.uint8))):
            data = raw_file(whole, version=version, sform=np.eye(4), qform=np.eye(4))
            broken = bytearray(data)
            for _ in range(chance.choice([0, 1, 2, 5])):
                broken[chance.randrange(352)] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
            if chance.random() < 0.1:
                del broken[chance.randrange(len(broken)) :]
            stored = gzip.compress(bytes(broken)) if packing else bytes(broken)
            if packing and chance.random() < 0.3:
                stored = in_bytes(stored, chance)
            (tmp_path / place / f"{number}.nii{'.gz' if packing else ''}").write_bytes(stored)
    added = results(tmp_path, "nifti", masks="masks")
    print("added", dict(added))
    assert added["used"] > 10
    assert len(added) > 3


@pytest.mark.slow
def test_label_files(tmp_path: Path) -> None:
    """Read in this process, which is what the child does, so that a whole one is not needed for each."""
    chance, found = random.Random(SEED), Counter[str]()
    text = "PatientID;label;size\n" + "".join(f"Käthe {number};krank;1,5\n" for number in range(30))
    for number in range(LABEL_FILES):
        data = text.replace(";", chance.choice(";,\t|")).encode(
            chance.choice(["utf-8-sig", "utf-16", "cp1252", "utf-8"])
        )
        for _ in range(chance.choice([0, 1, 2, 5])):
            place = chance.randrange(len(data))
            data = data[:place] + bytes([chance.choice([0, 10, 34, 255, chance.randrange(256)])]) + data[place + 1 :]
        if chance.random() < 0.1:
            data = data[: chance.randrange(len(data))]
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "labels.csv").write_bytes(data)
        try:
            read_labels(LocalFiles(folder, SourceOptions()), LabelSettings())
            found["used"] += 1
        except DataError:
            found["refused"] += 1
    print("label files", dict(found))
    assert min(found["used"], found["refused"]) > 10


def test_the_files_are_two_thousand_and_damage_is_damage() -> None:
    assert 11 * EACH + 2 * ANNOTATIONS + VOLUMES + LABEL_FILES == 2000
    assert len(images()) == 11
    chance = random.Random(SEED)
    for data in images().values():
        assert sum(damaged(data, chance) != data for _ in range(10)) > 7
