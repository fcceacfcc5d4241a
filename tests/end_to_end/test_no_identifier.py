"""Canaries from every element of the DICOM dictionary, in file names and label files: none in the site's folder, the logs at
DEBUG, or anything that leaves the site, through import, training with and without noise, and statistics."""

import contextlib
import copy
import io
import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset
from tests.builders import toy_identity, toy_keys
from tests.client.data.dicom.enhanced import enhanced
from tests.client.data.dicom.test_deidentify import image, leaks, planted
from tests.client.data.dicom_files import make
from tests.client.data.incoming.test_pacs import free_port
from tests.processes import running
from tests.server.test_measuring import job_of
from tests.server.test_rounds import World

from salus.client.commands.importing import Target, local_files, pushed_files, run_import
from salus.client.commands.importing import Tls as NoTls
from salus.client.config import init_site, open_catalogue, open_ledger
from salus.client.data.dicom.kinds import STORAGE
from salus.client.data.loading import read_registered
from salus.client.data.sources.settings import SourceOptions
from salus.client.performance import Performance
from salus.client.policy import Policy
from salus.client.site import Site
from salus.common.clock import SystemClock
from salus.common.errors import SalusError
from salus.common.events import EventLog
from salus.common.job import Job, parse_job
from salus.common.packets import Reply, Request
from salus.privacy.protocol.store import MemoryStore
from salus.server.attempts import Attempts
from salus.server.rounds import run_of

TRAINING = """
[job]
name = "train"
rounds = 1
min_sites = 5
[task]
kind = "classification"
model = "logistic"
dataset = "toy"
classes = ["no", "yes"]
shape = [4, 4]
[privacy]
noise = "{noise}"
"""


def planted_file(number: int, *, everything: bool = True) -> bytes:
    """Return a file with canaries in every element, or in an ordinary file where a picture still makes sense."""
    dataset = planted()[0] if everything else image(PatientName="CANARY^DOE", InstitutionName="CANARY HOSPITAL")
    dataset.PatientID, dataset.SOPInstanceUID = f"CANARY-PID-{number}", f"1.2.826.0.1.7777.9.{number}"
    dataset.StudyInstanceUID = f"1.2.826.0.1.7777.8.{number}"
    pixels = np.random.default_rng(number).integers(0, 4000, (4, 5), dtype=np.uint16)
    dataset.PixelData = pixels.tobytes()
    if everything and number % 2:
        dataset.ModalityLUTSequence, dataset.VOILUTSequence = [lookup_table(4096, 2)], [lookup_table(8192, 7)]
        dataset.PixelPaddingValue = 4001
    return as_file(dataset)


def lookup_table(entries: int, factor: int) -> Dataset:
    """Return a table that an import keeps, or applies, with a canary beside it."""
    table = Dataset()
    table.LUTDescriptor, table.LUTExplanation = [entries, 0, 16], "CANARY TABLE"
    table.LUTData = (np.arange(entries) * factor).astype("<u2").tobytes()
    return table


def as_file(dataset: Dataset) -> bytes:
    """Return the bytes of a file with a canary before its header."""
    buffer = io.BytesIO()
    whole = FileDataset(buffer, dataset, file_meta=dataset.file_meta, preamble=b"CANARY PREAMBLE ".ljust(128))
    pydicom.dcmwrite(buffer, whole, enforce_file_format=False)
    return buffer.getvalue()


def kept_structures() -> dict[str, Dataset]:
    """Return an image of each kind whose tables, palettes, groups of frames or times an import keeps or applies."""
    colours: dict[str, object] = {}
    for name in ("Red", "Green", "Blue"):
        colours[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        colours[f"{name}PaletteColorLookupTableData"] = (np.arange(256) * 257).astype("<u2").tobytes()
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    words, clip = np.arange(48, dtype=np.uint16).reshape(6, 8), np.stack([grey + n for n in range(4)])
    xa = {"SOPClassUID": STORAGE + "12.1", "Modality": "XA", "FrameIncrementPointer": 0x00181065}
    shared = {"PixelSpacing": [1, 2], "SliceThickness": 3, "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    frames = [
        {"ImagePositionPatient": [0, 0, 3.0 * n], "FrameType": ["ORIGINAL", "CANARY", "M"], "FrameComments": "CANARY"}
        for n in range(4)
    ]
    tables = {"ModalityLUTSequence": [lookup_table(64, 3)], "VOILUTSequence": [lookup_table(200, 300)]}
    return {
        "palette": make(grey, PhotometricInterpretation="PALETTE COLOR", **colours),
        "tables": make(words, PixelPaddingValue=3, **tables),
        "clip": make(clip, FrameTimeVector=[0, 5, 6, 7], **xa),
        "enhanced": enhanced(np.stack([words + n for n in range(4)]), frames, shared),
    }


def hospital_files(folder: Path, patients: range, *, everything: bool) -> Path:
    """Write planted files with canaries in their names, damaged ones among them, and a label file of real identifiers."""
    folder.mkdir(parents=True)
    rows = ["PatientID,label"]
    for number in patients:
        data = planted_file(number, everything=everything)
        (folder / f"CANARY DOE {number}.dcm").write_bytes(data)
        rows.append(f"CANARY-PID-{number},{('no', 'yes')[number % 2]}")
    (folder / "CANARY cut.dcm").write_bytes(data[: len(data) // 2])
    (folder / "CANARY junk.dcm").write_bytes(b"CANARY junk" * 100)
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


class Wire:
    """Keeps everything that sites answer."""

    def __init__(self, sites: Mapping[int, Site]) -> None:
        self.sites = sites
        self.bytes = b""

    def online(self) -> tuple[int, ...]:
        return tuple(sorted(self.sites))

    def exchange(
        self, requests: Mapping[int, tuple[Request, bytes]], timeout_s: float
    ) -> Iterator[tuple[int, Reply | SalusError, bytes]]:
        for number, (request, blob) in requests.items():
            reply, answer = self.sites[number].handle(request, blob)
            self.bytes += reply.model_dump_json().encode() + answer
            yield number, reply, answer


@contextlib.contextmanager
def debug_log() -> Iterator[io.StringIO]:
    """Record every logger of this process at DEBUG, those that Salus has silenced too."""
    stream, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(stream), root.level
    silenced = {name: logging.getLogger(name).level for name in ("httpx", "httpcore", "pynetdicom", "pydicom")}
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)
    assert silenced["httpx"] >= logging.WARNING  # it would write URLs with UIDs


def site_of(folder: Path, number: int, coordinator_key: bytes) -> Site:
    rules = Policy(allow_without_noise=True, min_patients_per_cell=1)
    return Site(
        site_id=number,
        identity=toy_identity(number),
        keys=toy_keys(5),
        store=MemoryStore(),
        coordinator_key=coordinator_key,
        catalogue=open_catalogue(folder),
        policy=lambda: rules,
        performance=Performance(device="cpu", threads=1),
        events=EventLog(folder / "events.jsonl"),
        ledger=open_ledger(folder, SystemClock()),
        cache=folder / "cache",
    )


def run(world: World, wire: Wire, job: Job) -> None:
    from salus.common.job import seal_job

    signed = seal_job(job, world.coordinator)
    job_id = world.store.submit(signed, job.job.name)
    events = EventLog(listeners=(world.events.append,))
    run_of(Attempts(job, job_id, signed, wire, world.store, events, world.keys, world.transcript)).run()


MODALITY = """
import sys, pydicom
from pathlib import Path
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage
entity = AE(ae_title="MODALITY")
entity.add_requested_context(CTImageStorage)
for attempt in range(100):
    association = entity.associate("127.0.0.1", int(sys.argv[1]), ae_title="SALUS")
    if association.is_established:
        break
for path in sorted(Path(sys.argv[2]).glob("*DOE*.dcm")):
    association.send_c_store(pydicom.dcmread(path))
association.release()
"""


def import_all(folder: Path, hospitals: Mapping[int, Path]) -> None:
    """Bring each hospital's files in: pushed, used where they are, and from folders."""
    for number, data in hospitals.items():
        site, target = folder / f"site{number}", Target(folder / f"site{number}", "toy", data / "labels.csv")
        if number == 1:
            port = free_port()
            command = [sys.executable, "-c", MODALITY, str(port), str(data)]
            with running(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
                run_import(target, pushed_files("MODALITY", f"SALUS@127.0.0.1:{port}", 4.0, NoTls()))
        elif number == 2:
            open_catalogue(site).add("toy", "dicom", data, SourceOptions())
        else:
            run_import(target, local_files(data))
        assert len(open_catalogue(site).images("toy")) == 10


def test_no_canary_is_left_by_palettes_tables_clips_and_groups_of_frames(tmp_path: Path) -> None:
    """Each kind is planted in every element and in every item, and what an import keeps of it is there afterwards."""
    site, planned = tmp_path / "site", 0
    init_site(site, "S")
    with debug_log() as log:
        for name, base in kept_structures().items():
            data, rows = tmp_path / f"CANARY {name}", ["PatientID,label"]
            data.mkdir()
            for number in range(4):
                dataset, count = planted(copy.deepcopy(base))
                if name == "enhanced":
                    del dataset.FrameTimeVector, dataset.FrameTime  # times that make no sense are refused
                assert count > 600, name
                planned += count
                dataset.PatientID, dataset.SOPInstanceUID = f"CANARY-PID-{number}", f"1.2.826.0.1.7777.9.{number}"
                dataset.StudyInstanceUID = f"1.2.826.0.1.7777.8.{number}"
                data_of = as_file(dataset)
                assert set(leaks(data_of)) == {b"CANARY", b"1.2.826.0.1.7777", b".77777", b"777777777"}
                (data / f"CANARY DOE {number}.dcm").write_bytes(data_of)
                rows.append(f"CANARY-PID-{number},{number % 2}")
            (data / "labels.csv").write_text("\n".join(rows))
            run_import(Target(site, name, data / "labels.csv", volumes=name == "enhanced"), local_files(data))
            catalogue = open_catalogue(site)
            records = catalogue.images(name)
            assert len({record.patient for record in records}) == 4, name
            read_registered(catalogue.source(name), records[0])
    stored = {name: pydicom.dcmread(next((site / "images" / name).rglob("*.dcm"))) for name in kept_structures()}
    assert stored["palette"].PhotometricInterpretation == "RGB"
    assert "VOILUTSequence" in stored["tables"]
    assert [float(step) for step in stored["clip"].FrameTimeVector] == [0, 5, 6, 7]
    assert len(stored["enhanced"].PerFrameFunctionalGroupsSequence) == 4
    looked = 0
    for path in site.rglob("*"):
        if path.is_file() and path.parent.name != "keys":
            looked += 1
            assert leaks(path.read_bytes()) == [], path.relative_to(site)
            assert leaks(str(path.relative_to(site)).encode()) == []
    assert looked > 16
    assert planned > 16 * 600
    assert leaks(log.getvalue().encode()) == []


def test_no_canary_is_left_anywhere(tmp_path: Path) -> None:
    hospitals = {}
    for number in range(1, 6):
        init_site(tmp_path / f"site{number}", f"S{number}")
        patients = range(number * 10, number * 10 + 10)  # five of each class, which is as few as a declaration names
        hospitals[number] = hospital_files(tmp_path / f"CANARY{number}", patients, everything=number != 2)
    with debug_log() as log:
        import_all(tmp_path, hospitals)
        world = World(tmp_path / "world", parse_job(TRAINING.format(noise="none")), sites=5)
        wire = Wire({n: site_of(tmp_path / f"site{n}", n, world.coordinator.public_key) for n in range(1, 6)})
        run(world, wire, world.job)
        run(world, wire, parse_job(TRAINING.format(noise="local")))
        run(world, wire, job_of("summary", least=1))
    assert any(event.kind == "evaluated" for event in world.events)
    looked = 0
    for path in tmp_path.rglob("*"):
        if not path.is_file() or "CANARY" in path.relative_to(tmp_path).parts[0] or path.parent.name == "keys":
            continue
        looked += 1
        assert leaks(path.read_bytes()) == [], path.relative_to(tmp_path)
        assert leaks(str(path.relative_to(tmp_path)).encode()) == []
    assert looked > 60
    assert len(wire.bytes) > 10_000
    assert leaks(wire.bytes) == []
    assert leaks("".join(str(event) for event in world.events).encode()) == []
    logged = log.getvalue()
    assert logged  # something was logged at all
    assert leaks(logged.encode()) == []
