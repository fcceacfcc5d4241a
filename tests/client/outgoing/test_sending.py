"""Results go into a real Orthanc over DICOMweb and C-STORE, and servers that refuse or lie are errors."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests.cli import salus
from tests.client.data.incoming.test_pacs import free_port, real, running_orthanc
from tests.client.outgoing.series import PRODUCER, series

from salus.client.data.dicom.instances import instance_of
from salus.client.data.incoming.pacs import PacsOptions
from salus.client.data.incoming.receiver import DimseOptions
from salus.client.outgoing.coding import coded
from salus.client.outgoing.dicom_seg import write_segmentation
from salus.client.outgoing.dicom_sr import write_volume_report
from salus.client.outgoing.sending import MAX_ANSWER_BYTES, objects_of, post, store
from salus.common.errors import ConfigError, DataError, LinkError

AUTH = ("salus", "orthanc-test")
STRUCTURES = coded(("liver",))


def results(folder: Path) -> Path:
    """Write a segmentation and its report as a prediction does."""
    for name in ("seg", "sr"):
        (folder / name).mkdir(parents=True)
    instances = [instance_of(dataset) for dataset in series()]
    written = write_segmentation(
        folder / "seg" / "a.dcm", np.ones((5, 6, 8), np.uint8), instances, STRUCTURES, PRODUCER
    )
    write_volume_report(folder / "sr" / "a.dcm", instances, written, {"liver": 1.5}, STRUCTURES, PRODUCER)
    return folder


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Start a real Orthanc with DICOMweb, and return its root and DICOM port."""
    folder = tmp_path_factory.mktemp("orthanc")
    port, dicom = free_port(), free_port()
    settings = {
        "HttpPort": port, "DicomPort": dicom, "DicomAet": "ORTHANC", "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"), "RemoteAccessAllowed": False, "AuthenticationEnabled": True,
        "RegisteredUsers": dict([AUTH]), "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}, "DicomAlwaysAllowStore": True,
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with running_orthanc(folder / "orthanc.json", f"http://127.0.0.1:{port}", AUTH):
        yield f"http://127.0.0.1:{port}", dicom


@real
@pytest.mark.parametrize("way", ["web", "classic"])
def test_a_real_pacs_has_what_was_sent_and_once_only(
    orthanc: tuple[str, int], tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, port = orthanc
    monkeypatch.setenv("SALUS_PACS_PASSWORD", AUTH[1])
    folder = results(tmp_path / "predictions")
    address = (
        ["--pacs", f"{root}/dicom-web", "--user", "salus"]
        if way == "web"
        else ["--pacs", f"dicom://ORTHANC@127.0.0.1:{port}"]
    )
    for _ in range(2):
        result = salus("send", folder, *address)
        assert result.returncode == 0, result.stderr
        assert "Sent 2 objects" in result.stdout
    kept = httpx.get(f"{root}/instances", auth=AUTH).json()
    assert len(kept) == 2
    files = {httpx.get(f"{root}/instances/{name}/file", auth=AUTH).content for name in kept}
    assert any(data.endswith((folder / "seg" / "a.dcm").read_bytes()[-20:]) for data in files)


class Lying(http.server.BaseHTTPRequestHandler):
    """Answers every request with what its server was given."""

    def do_POST(self) -> None:
        status, body = self.server.answer  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(status)
        self.send_header("Content-Type", "application/dicom+json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b""),
        (302, b""),
        (200, b'{"00081198": {"vr": "SQ", "Value": [{}]}}'),
        (202, b'{"00081198": {"vr": "SQ", "Value": [{}]}}'),
        (200, b"<html>log in</html>"),
        (200, b"[" * 100_000),
        (200, b" " * (MAX_ANSWER_BYTES + 1)),
    ],
)
def test_a_server_that_did_not_store_is_an_error(tmp_path: Path, status: int, body: bytes) -> None:
    paths = objects_of(results(tmp_path / "predictions"))
    with http.server.HTTPServer(("127.0.0.1", 0), Lying) as server:
        server.answer = (status, body)  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(LinkError, match="did not store 'a.dcm'.*0 objects before it"):
            post(paths, PacsOptions(url=f"http://127.0.0.1:{server.server_port}/dicom-web"))
        thread.join()


def test_results_never_leave_the_machine_unencrypted_by_default(tmp_path: Path) -> None:
    paths = objects_of(results(tmp_path / "predictions"))
    with pytest.raises(ConfigError, match="https"):
        post(paths, PacsOptions(url="http://pacs.example/dicom-web"))
    with pytest.raises(ConfigError, match="unencrypted"):
        store(paths, DimseOptions(called="PACS", host="pacs.example"))


def test_unreachable_and_empty_are_named(tmp_path: Path) -> None:
    folder = results(tmp_path / "predictions")
    with pytest.raises(LinkError, match="cannot be reached"):
        store(objects_of(folder), DimseOptions(called="PACS", port=free_port(), timeout_s=2.0))
    with pytest.raises(LinkError, match="cannot be reached"):
        post(objects_of(folder), PacsOptions(url=f"http://127.0.0.1:{free_port()}"))
    (folder / "seg" / "a.dcm").write_bytes(b"x" * 200)
    with pytest.raises(DataError, match="'a.dcm' is damaged"):
        store(objects_of(folder), DimseOptions(called="PACS"))
    with pytest.raises(DataError, match="salus predict --seg --sr"):
        objects_of(tmp_path)
