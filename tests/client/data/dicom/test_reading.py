"""What the child reads is what this process reads, for every kind of data; and what a hostile file does stays in the child."""

import ctypes
import gzip
import io
import resource
import sys
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.charset import python_encoding
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless
from tests.builders import write_npz
from tests.client.data.dicom.test_deidentify import image
from tests.client.data.dicom_files import write
from tests.client.data.incoming.test_importing import hostile

from salus.client.config import init_site, open_catalogue
from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.dicom.isolation import ACCEPTED, Decoding
from salus.client.data.records import ImageRecord, Quarantined, Sample
from salus.client.data.sources import SOURCES, open_source
from salus.client.data.sources.local import LocalFiles
from salus.client.data.sources.remote import Remote
from salus.client.data.sources.settings import SourceOptions
from salus.common.errors import ConfigError, DataError, UnreadableImage

SHARED = Path(__file__).resolve().parents[5] / "shared" / "data" / "dicom"
RAMP = np.arange(48, dtype=np.uint16).reshape(6, 8)
CHILD = Decoding(memory_mb=2048)


def outcome(kind: str, root: Path, options: SourceOptions, decoding: Decoding | None) -> list[object]:
    """Return everything that a source says of its data: its scan, and each sample in full."""
    source = open_source(kind, root, options, decoding)
    found = list(source.scan())
    samples = [source.load(item.key) for item in found if isinstance(item, ImageRecord)]
    stamps = [source.stamp(item.key) for item in found]
    return [*found, *stamps, *map(plain, samples)]


def plain(sample: Sample) -> list[object]:
    values = [*vars(sample).values(), *sample.targets.values()]
    return [
        (value.dtype, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value
        for value in values
        if value is not sample.targets
    ]


def make_dicom(root: Path) -> SourceOptions:
    for number, attributes in enumerate(
        ({}, {"PhotometricInterpretation": "MONOCHROME1"}, {"RescaleSlope": 2, "RescaleIntercept": -1024})
    ):
        write(root / f"{number}.dcm", RAMP, Manufacturer="SIEMENS", PatientID=f"P{number}", **attributes)
    (root / "damaged.dcm").write_bytes((root / "0.dcm").read_bytes()[:-20])
    (root / "labels.csv").write_text("PatientID,label\nP0,a\nP1,b\nP2,a\n")
    return SourceOptions()


def make_volumes(root: Path) -> SourceOptions:
    for series, slices in (("7.1", 3), ("7.2", 1)):
        for z in range(slices):
            write(
                root / f"{series}-{z}.dcm", RAMP + z, ImagePositionPatient=[0, 0, z], PixelSpacing=[1, 1],
                SeriesInstanceUID=series, ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            )  # fmt: skip
    (root / "labels.csv").write_text("PatientID,label\nP1,yes\n")
    return SourceOptions(volumes=True)


def make_images(root: Path) -> SourceOptions:
    (root / "sub").mkdir()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(root / "grey.png")
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(root / "sub" / "colour.jpg")
    Image.fromarray(np.full((3, 4), 65535, np.uint16)).save(root / "deep.tif")
    (root / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    (root / "labels.csv").write_text(
        "file,PatientID,label\ngrey.png,1,a\ncolour.jpg,1,a\ndeep.tif,2,b\nbroken.png,3,b\n"
    )
    return SourceOptions()


def make_nifti(root: Path) -> SourceOptions:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for folder, values in (("images", rng.normal(size=(4, 5, 6))), ("masks", rng.integers(0, 2, (4, 5, 6)))):
            (root / folder).mkdir(exist_ok=True)
            volume = nibabel.Nifti1Image(values.astype(np.float32), np.diag([1.0, 2.0, 3.0, 1.0]))
            nibabel.save(volume, root / folder / f"{name}.nii.gz")
    (root / "images" / "cut.nii.gz").write_bytes(b"\x1f\x8b" + bytes(20))
    return SourceOptions(masks="masks")


def make_npz(root: Path) -> SourceOptions:
    write_npz(root / "toy.npz")
    return SourceOptions()


def make_table(root: Path) -> SourceOptions:
    rows = "".join(f"{n},{n % 2},{'a' if n % 3 else 'b'}\n" for n in range(2500))  # several pages
    (root / "a.csv").write_text(f"age,sex,label\n{rows}?,0,a\nold,0,a\n1,a\n")
    (root / "b.csv").write_text("age,sex,label\n1,0,b\n")
    return SourceOptions()


MADE = {
    "dicom": make_dicom, "dicom in series": make_volumes, "images": make_images, "nifti": make_nifti, "medmnist": make_npz,
    "table": make_table,
}  # fmt: skip


@pytest.mark.parametrize("kind", MADE)
def test_both_ways_find_and_read_the_same(tmp_path: Path, kind: str) -> None:
    options = MADE[kind](tmp_path)
    here = outcome(kind.split()[0], tmp_path, options, None)
    assert len(here) > 3
    assert outcome(kind.split()[0], tmp_path, options, CHILD) == here


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared DICOM data")
def test_both_ways_agree_on_real_files(tmp_path: Path) -> None:
    seen: dict[str, int] = {}
    for number, path in enumerate(sorted(SHARED.rglob("*"))):
        key = f"{path.parent}/{path.suffix}"
        if path.is_file() and seen.get(key, 0) < 4:  # some of every scanner and series
            seen[key] = seen.get(key, 0) + 1
            (tmp_path / f"{number}.dcm").write_bytes(path.read_bytes())
    names = [path.name for path in tmp_path.iterdir()]
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"{name},a\n" for name in names))
    here = outcome("dicom", tmp_path, SourceOptions(), None)
    assert sum(isinstance(item, ImageRecord) for item in here) > 10
    assert outcome("dicom", tmp_path, SourceOptions(), CHILD) == here


def test_hostile_files_cost_themselves_only(tmp_path: Path) -> None:
    write(tmp_path / "good.dcm", RAMP)
    for number, data in enumerate(hostile().values()):
        (tmp_path / f"{number}.bin").write_bytes(data)
    (tmp_path / "labels.csv").write_text(
        "file,label\ngood.dcm,a\n" + "".join(f"{n}.bin,a\n" for n in range(len(hostile())))
    )
    found = list(open_source("dicom", tmp_path, SourceOptions(), CHILD).scan())
    assert "good.dcm" in {item.key for item in found if isinstance(item, ImageRecord)}
    assert len(found) == len(hostile()) + 1
    for item in found:
        if isinstance(item, Quarantined):
            assert item.reason != "crashed"
            assert str(tmp_path) not in item.detail


def huge_png(side: int) -> bytes:
    """Return a small file that declares a huge grey picture, with all its rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    squeezer = zlib.compressobj(9)
    rows = b"".join(squeezer.compress(bytes(side + 1)) for _ in range(side)) + squeezer.flush()
    header = side.to_bytes(4, "big") * 2 + bytes((8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_small_files_that_expand_are_refused_by_their_headers(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "huge.png").write_bytes(huge_png(16_000))
    assert (tmp_path / "p" / "huge.png").stat().st_size < 300_000
    (tmp_path / "p" / "labels.csv").write_text("file,label\nhuge.png,a\n")
    (tmp_path / "n").mkdir()
    header = nibabel.Nifti1Header()
    header.set_data_shape((512, 512, 512))
    header.set_data_dtype(np.uint8)
    header["magic"], header["vox_offset"] = b"n+1", 352
    with gzip.open(tmp_path / "n" / "huge.nii.gz", "wb") as file:
        file.write(header.binaryblock + bytes(4))
        for _ in range(512):
            file.write(bytes(512 * 512))
    (tmp_path / "n" / "labels.csv").write_text("file,label\nhuge.nii.gz,a\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind, folder in (("images", "p"), ("nifti", "n")):
        (found,) = open_source(kind, tmp_path / folder, SourceOptions(), CHILD).scan()
        assert isinstance(found, Quarantined)
        assert found.reason == "too-large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB: nothing was expanded here


class Hostile:
    """A plug-in source whose files say what to do."""

    @staticmethod
    def prepare() -> None:
        pass

    def __init__(self, files: LocalFiles, options: SourceOptions) -> None:
        self._files = files

    def wants(self, name: str) -> bool:
        return name.endswith(".evil")

    def group(self, name: str) -> str:
        return ""

    def examine(self, names: list[str]) -> Iterator[ImageRecord | Quarantined]:
        for name in names:
            self.load(name)
            yield ImageRecord(name, name, name, "a")

    def load(self, key: str) -> Sample:
        what = bytes(self._files.read(key)).decode()
        if what == "crash":
            ctypes.string_at(0)
        if what == "hang":
            while True:
                pass
        if what == "memory":
            return Sample(np.ones((1, 30_000, 30_000), np.float32))
        if what == "nan":
            return Sample(np.full((1, 2, 2), np.nan, np.float32))
        if what == "print":
            print("taken for an answer", flush=True)
            sys.stderr.write("or for an error")
        if what == "outside":
            for name in ("../secret", "/etc/passwd", "link", "a/../../secret", "", ".", "sub/link/x"):
                try:
                    self._files.read(name)
                    return Sample(np.zeros((1, 9, 9), np.float32))  # reached something
                except UnreadableImage:
                    continue
        return Sample(np.ones((1, 2, 2), np.float32))


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(SOURCES._builtin, "hostile", "tests.client.data.dicom.test_reading:Hostile")
    return "hostile"


def test_a_plug_in_runs_in_the_child_and_costs_its_file_only(tmp_path: Path, plug_in: str) -> None:
    (tmp_path / "secret").write_text("x")
    data = tmp_path / "data"
    (data / "sub").mkdir(parents=True)
    (data / "link").symlink_to(tmp_path / "secret")
    (data / "sub" / "link").symlink_to("/etc")
    for what in ("crash", "good", "hang", "memory", "nan", "outside", "print"):
        (data / f"{what}.evil").write_text(what)
    source = open_source(plug_in, data, SourceOptions(), Decoding(memory_mb=512, seconds=2.0))
    found = {item.key: getattr(item, "reason", "") for item in source.scan()}
    assert found == {
        "crash.evil": "crashed", "good.evil": "", "hang.evil": "too-slow", "memory.evil": "too-large", "nan.evil": "",
        "outside.evil": "", "print.evil": "", "link": "link", "sub/link": "link",
    }  # fmt: skip
    assert source.load("outside.evil").values.shape == (1, 2, 2)
    with pytest.raises(UnreadableImage, match="not-finite"):
        source.load("nan.evil")
    with pytest.raises(UnreadableImage, match="missing"):
        source.load("gone.evil")
    assert source.load("good.evil").values.sum() == 4


def test_several_sources_and_threads_share_a_child(tmp_path: Path) -> None:
    """More sources than the child keeps open, a child that is killed between, and callers at the same time."""
    sources = []
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "a.csv").write_text(f"age,label\n{number},x\n")
        sources.append(open_source("table", tmp_path / str(number), SourceOptions(), CHILD))
    first = sources[0]
    assert isinstance(first, Remote)
    read: list[tuple[int, float]] = []

    def work(number: int) -> None:
        for turn in range(10):
            if number == 0 and turn == 5:
                first._child.stop()
            read.append((number, float(sources[number].load("a.csv/0").values[0])))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read) == 40
    assert all(number == value for number, value in read)


def test_a_label_file_that_cannot_be_used_says_so_from_the_child(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm", RAMP)
    for text, message in ((None, r"labels\.csv"), ("who,what\n", "column 'label'"), ("who,label\n", "PatientID")):
        if text is not None:
            (tmp_path / "labels.csv").write_text(text)
        with pytest.raises(DataError, match=message) as caught:
            open_source("dicom", tmp_path, SourceOptions(), CHILD)
        assert not isinstance(caught.value, UnreadableImage)
        assert caught.value.remedy


@pytest.mark.parametrize("kind", ["dicom", "images", "medmnist"])
def test_a_site_decodes_in_the_child_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    site, data = tmp_path / "site", tmp_path / "data"
    data.mkdir()
    init_site(site, "S")
    MADE[kind](data)
    for decoder in ("pydicom.dcmread", "PIL.Image.open", "numpy.load"):
        monkeypatch.setattr(decoder, lambda *_, **__: pytest.fail("decoded in this process"))
    catalogue = open_catalogue(site)
    assert catalogue.add("d", kind, data, SourceOptions()).images >= 3
    key = catalogue.images("d")[0].key
    assert catalogue.source("d").load(key).values.ndim == 3


def test_a_site_decodes_without_a_sandbox_only_in_these_words(tmp_path: Path) -> None:
    site = tmp_path / "site"
    init_site(site, "S")
    assert open_catalogue(site).decoding.layers  # type: ignore[union-attr]
    settings = (site / "site.toml").read_text()
    (site / "site.toml").write_text(f'decode_without_sandbox = "{ACCEPTED}"\n{settings}')
    assert open_catalogue(site).decoding.layers == ()  # type: ignore[union-attr]
    (site / "site.toml").write_text(f'decode_without_sandbox = "yes"\n{settings}')
    with pytest.raises(ConfigError):
        open_catalogue(site)


def encoded(dataset: Dataset) -> bytes:
    """Return a file in the dataset's own transfer syntax."""
    buffer = io.BytesIO()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def child() -> Iterator[Isolated]:
    with Isolated(b"secret of the test") as opened:
        yield opened


def read_in_child(folder: Path, data: bytes) -> Sample:
    """Return a DICOM file's sample as the child reads it."""
    (folder / "a.dcm").write_bytes(data)
    (folder / "labels.csv").write_text("file,label\na.dcm,a\n")
    return open_source("dicom", folder, SourceOptions(), CHILD).load("a.dcm")


@pytest.mark.parametrize("charset", sorted(filter(None, python_encoding)))
def test_hospitals_write_names_in_every_character_set(tmp_path: Path, child: Isolated, charset: str) -> None:
    """A codec that was not loaded before the child closed itself in once cost every file of such a hospital."""
    dataset = image(SpecificCharacterSet=charset, PatientName="Muster^Max", PatientID="P1", SOPInstanceUID="1.2.3")
    data = encoded(dataset)
    assert read_in_child(tmp_path, data).values.size == 20
    assert child.clean(data).vendor == "OTHER"


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGBaseline8Bit])
def test_every_compression_is_decoded_in_the_child(tmp_path: Path, child: Isolated, syntax: str, samples: int) -> None:
    rng = np.random.default_rng(0)
    shape = (64, 80, 3) if samples == 3 else (64, 80)
    smooth = np.add.outer(np.arange(64), np.arange(80))
    pixels = (smooth[..., None] if samples == 3 else smooth) + rng.integers(0, 5, shape)
    kind = "RGB" if samples == 3 else "MONOCHROME2"
    dataset = image(
        Rows=64, Columns=80, SamplesPerPixel=samples, BitsAllocated=8, BitsStored=8, HighBit=7, SOPInstanceUID="1.2.3",
        PhotometricInterpretation=kind, PixelData=pixels.astype(np.uint8).tobytes(), WindowCenter=127.5, WindowWidth=256,
    )  # fmt: skip
    if samples == 3:
        dataset.PlanarConfiguration = 0
    if syntax == JPEGBaseline8Bit:
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=98, subsampling=0)
        dataset.PixelData = encapsulate([buffer.getvalue()])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PhotometricInterpretation = "YBR_FULL" if samples == 3 else kind
    else:
        dataset.compress(syntax, generate_instance_uid=False)
    data = encoded(dataset)
    values = read_in_child(tmp_path, data).measured * (255 if samples == 3 else 1)
    expected = np.moveaxis(pixels, -1, 0) if samples == 3 else pixels
    assert np.abs(values - expected).max() <= (12 if syntax == JPEGBaseline8Bit else 0.01)
    clean = pydicom.dcmread(io.BytesIO(child.clean(data).data))
    assert np.abs(clean.pixel_array.astype(int) - pixels).max() <= (12 if syntax == JPEGBaseline8Bit else 0)


@pytest.mark.parametrize("name", ["JPGLosslessP14SV1_1s_1f_8b.dcm", "JPEG-LL.dcm"])
def test_jpeg_lossless_is_decoded_in_the_child(tmp_path: Path, child: Isolated, name: str) -> None:
    """GDCM must have loaded everything before the child closes itself in; the values are those of an independent reader."""
    folder = Path(next(iter(pytest.importorskip("data_store").__path__))) / "data"
    sitk = pytest.importorskip("SimpleITK")
    data = bytearray((folder / name).read_bytes())
    secondary, radiograph = b"1.2.840.10008.5.1.4.1.1.7\0", b"1.2.840.10008.5.1.4.1.1.1\0"  # else it is no picture
    data = data.replace(secondary, radiograph)
    values = read_in_child(tmp_path, bytes(data)).measured
    np.testing.assert_array_equal(values[0], sitk.GetArrayFromImage(sitk.ReadImage(str(folder / name))).squeeze())
