"""A real Orthanc that limits its lists: everything arrives page by page, or the import says aloud that it did not."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.client.data.incoming.test_pacs import PLUGIN, free_port, real, running_orthanc, study
from typer.testing import CliRunner

from salus.cli import app
from salus.client.config import init_site, open_catalogue
from salus.client.data.incoming.pacs import DicomWeb
from salus.common.errors import DataError

AUTH = ("salus", "orthanc-test")
STUDIES, OBJECTS = 24, 26  # of the second study, the others have one; more than each limit
TITLE = "SALUS"
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@dataclass(frozen=True)
class Limited:
    root: str
    port: int
    ours: int
    limit: int


@pytest.fixture(scope="module", params=[1, 7, pytest.param(20, marks=pytest.mark.slow)])
def limited(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    """Start an Orthanc that gives out at most so many rows."""
    folder = tmp_path_factory.mktemp("orthanc")
    found = Limited(f"http://127.0.0.1:{free_port()}", free_port(), free_port(), request.param)
    settings = {
        "HttpPort": int(found.root.rsplit(":", 1)[1]), "DicomPort": found.port, "DicomAet": "ORTHANC",
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True, "RegisteredUsers": dict([AUTH]), "Plugins": [str(PLUGIN)],
        "LimitFindResults": found.limit, "LimitFindInstances": found.limit,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "DicomModalities": {"salus": {"AET": TITLE, "Host": "127.0.0.1", "Port": found.ours}},
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with running_orthanc(folder / "orthanc.json", found.root, AUTH):
        for patient in range(STUDIES):
            for data in study(patient, OBJECTS if patient == 1 else 1):
                put(found, data)
        yield found


def put(pacs: Limited, data: bytes) -> None:
    assert httpx.post(f"{pacs.root}/instances", content=data, auth=AUTH).status_code == 200


def imported(folder: Path, *arguments: str) -> tuple[BaseException | None, dict[str, object], Path]:
    """Import into a new site and return the error, the report and the site."""
    site, labels = folder / "site", folder / "labels.csv"
    init_site(site, "St. Mary")
    labels.write_text("PatientID,label\n" + "".join(f"P{n},{n % 2}\n" for n in range(100)))
    result = CliRunner().invoke(app, ["dataset", "import", str(site), "chest", "--labels", str(labels), *arguments])
    report = json.loads((site / "images" / "chest" / "report.json").read_text())
    assert report["found"] == report["images"] + report["duplicates"] + sum(report["refused"].values())
    return result.exception, report, site


@real
def test_every_page_is_read_and_found_is_used_and_refused(
    limited: Limited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the import runs, a study grows, a study arrives, and one arrives that is refused."""
    late = [(STUDIES - 1, 3, {}), (50 + limited.limit, 2, {})]
    late.append((80 + limited.limit, 1, {"Modality": "US", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1"}))
    fetched = DicomWeb._object

    def and_meanwhile(self: DicomWeb, path: str) -> list[bytes]:
        while late:
            patient, objects, changes = late.pop()
            for data in study(patient, objects, **changes):
                put(limited, data)
        return fetched(self, path)

    monkeypatch.setattr(DicomWeb, "_object", and_meanwhile)
    monkeypatch.setenv("SALUS_PACS_PASSWORD", AUTH[1])
    defaults = {**(DicomWeb.__init__.__kwdefaults__ or {}), "sleep": lambda seconds: None}
    monkeypatch.setattr(DicomWeb.__init__, "__kwdefaults__", defaults)  # no pauses between requests
    web = ("--pacs", f"{limited.root}/dicom-web", "--user", AUTH[0])
    before = sum(len(answer.json()) for answer in [httpx.get(f"{limited.root}/instances", auth=AUTH)])
    problem, report, site = imported(tmp_path, *web)
    assert problem is None
    held = len(httpx.get(f"{limited.root}/instances", auth=AUTH).json())
    assert held == before + 5  # two more of a study, a study of two, and one that is refused
    refused = sum(report["refused"].values())  # type: ignore[attr-defined]
    assert report["pacs"] == {
        "studies": len(httpx.get(f"{limited.root}/studies", auth=AUTH).json()),
        "objects": held,
        "stored_before": 0,
        "missing": 0,
    }
    assert (report["found"], report["images"]) == (held, held - refused)
    assert len(open_catalogue(site).images("chest")) == held - refused


@real
def test_a_list_that_classic_dicom_cuts_is_an_error_and_what_came_is_kept(limited: Limited, tmp_path: Path) -> None:
    """C-FIND has no pages."""
    listen = ("--listen", f"{TITLE}@127.0.0.1:{limited.ours}")
    problem, report, site = imported(tmp_path, "--pacs", f"dicom://ORTHANC@127.0.0.1:{limited.port}", *listen)
    assert isinstance(problem, DataError)
    assert "did not deliver everything" in str(problem)
    assert report["refused"]["pacs-list"] == 1  # type: ignore[index]
    assert report["pacs"]["studies"] == limited.limit  # type: ignore[index]
    assert len(open_catalogue(site).images("chest")) == report["images"]
    if limited.limit == 7:  # once is enough
        (tmp_path / "again").mkdir()
        allowed = ("--pacs", f"dicom://ORTHANC@127.0.0.1:{limited.port}", *listen, "--allow-missing")
        problem, report, site = imported(tmp_path / "again", *allowed)
        assert problem is None
        assert report["pacs"]["missing"] == 1  # type: ignore[index]
