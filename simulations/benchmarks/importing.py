"""Import of many small studies: files per second and memory, compared with only reading and hashing the same files."""

import hashlib
import io
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import pydicom

from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.incoming.files import from_folder
from salus.client.data.incoming.importing import import_images
from salus.client.data.incoming.pipeline import started
from salus.client.data.sources.label_match import LabelRow, Labels
from salus.simulations.benchmarks.environment import cpu_seconds, describe_machine, peak_rss_mb, versions
from salus.simulations.phantoms import Hospital, write_hospital

STUDIES, QUICK_STUDIES, SIDE = 10_000, 300, 64
SECRET = b"secret of the benchmark only"


class _Everything(Labels):
    """Labels every file, because reading label files is not measured."""

    def __init__(self) -> None:
        super().__init__({})

    def find(self, **_: str) -> LabelRow | None:
        return LabelRow("x")


def run(*, quick: bool = False) -> dict[str, Any]:
    """Return seconds and memory of an import with de-identification in the child process, and of plain reading as the floor."""
    wanted = QUICK_STUDIES if quick else STUDIES
    with tempfile.TemporaryDirectory(prefix="salus-bench-") as temporary:
        data, store = Path(temporary) / "data", Path(temporary) / "store"
        hospital = Hospital("B", "PhantomA Imaging", 1.0, (600, 1200), False, 0.5, 60, wanted // 2 + 1, damaged=0)
        write_hospital(data, hospital, seed=1, side=SIDE)
        studies = sum(1 for path in data.glob("*/*") if path.is_dir())
        files = sum(1 for _ in data.rglob("*.dcm"))
        started_at = time.monotonic()
        with started(lambda: Isolated(SECRET)) as children:
            before = time.process_time()
            report = import_images(from_folder(data), _Everything(), SECRET, store, children)
            seconds, parent_cpu = time.monotonic() - started_at, time.process_time() - before
            processes = [child.process_id for child in children if child.process_id]
            child_cpu, child_peak = cpu_seconds(processes), max(map(peak_rss_mb, processes))
        before = time.process_time()
        floor = _floor(data)
        floor_cpu = time.process_time() - before
        return {
            "benchmark": "importing",
            "studies": studies,
            "files": files,
            "ours_s": round(seconds, 2),
            "ours_files_per_s": round(files / seconds, 1),
            "ours_studies_per_s": round(studies / seconds, 1),
            "ours_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "children": len(processes),
            "child_peak_mb": round(child_peak, 1),
            "children_cpu_s": round(child_cpu, 2),
            "parent_cpu_s": round(parent_cpu, 2),
            "stored": report.images,
            "refused": sum(report.refused.values()),
            "peer_s": None,
            "floor_s": round(floor, 2),
            "floor_cpu_s": round(floor_cpu, 2),
            "times_floor": round(seconds / floor, 2),
            "machine": describe_machine(),
            "versions": versions("pydicom"),
        }


def _floor(data: Path) -> float:
    started = time.monotonic()
    for path in sorted(data.rglob("*.dcm")):
        content = path.read_bytes()
        pydicom.dcmread(io.BytesIO(content)).pixel_array.sum()
        hashlib.sha256(content).hexdigest()
    return time.monotonic() - started
