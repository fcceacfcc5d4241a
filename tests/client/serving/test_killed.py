"""kill -9 at every point of a study's way, and another process that goes on: a real PACS ends with each result once."""

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from tests.client.data.incoming.test_dimse import send
from tests.client.data.incoming.test_pacs import free_port, real, running_orthanc
from tests.client.serving.held import POINTS, HeldNode
from tests.client.serving.worlds import pictures
from tests.packages import export
from tests.processes import wait_until

from salus.client.data.incoming.receiver import SUCCESS
from salus.client.serving.studies import FILE, Studies
from salus.common.clock import SystemClock

AUTH = ("salus", "orthanc-test")
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@dataclass(frozen=True)
class Orthanc:
    root: str
    port: int

    def modalities(self, study: str) -> Counter[str]:
        """Return how many objects of each modality it has of a study."""
        found = httpx.post(
            f"{self.root}/tools/find",
            auth=AUTH,
            json={"Level": "Instance", "Query": {"StudyInstanceUID": study}, "Expand": False},
        ).json()
        files = [httpx.get(f"{self.root}/instances/{one}/file", auth=AUTH).content for one in found]
        return Counter(str(dcmread(DicomBytesIO(data)).Modality) for data in files)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("orthanc")
    found = Orthanc(f"http://127.0.0.1:{free_port()}", free_port())
    settings = {
        "HttpPort": int(found.root.rsplit(":", 1)[1]), "DicomPort": found.port, "DicomAet": "ORTHANC",
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True, "RegisteredUsers": dict([AUTH]), "DicomAlwaysAllowStore": True,
        "DicomCheckCalledAet": True,
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with running_orthanc(folder / "orthanc.json", found.root, AUTH):
        yield found


@pytest.fixture(scope="module")
def package(plain_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(plain_run, tmp_path_factory.mktemp("serve") / "package")


def states(node: Path) -> list[str]:
    return [study.state for study in reversed(Studies(node, SystemClock()).listed())] if (node / FILE).exists() else []


def listening(log: Path) -> bool:
    return log.exists() and "listening" in log.read_text()


@real
@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_and_every_result_is_in_the_pacs_once(
    orthanc: Orthanc, package: Path, tmp_path: Path, point: str
) -> None:
    node, port = tmp_path / "node", free_port()
    patient = 100 + POINTS.index(point)
    words = [
        "serve", "start", str(node), str(package), "--pacs", f"dicom://ORTHANC@127.0.0.1:{orthanc.port}",
        "--sender", "MODALITY", "--listen", f"SALUS@127.0.0.1:{port}", "--floor-gb", "0",
    ]  # fmt: skip
    quiet = "3600" if point == "receiving" else "0"
    first = HeldNode(point, [*words, "--quiet-s", quiet], tmp_path / "first.log")
    wait_until(lambda: listening(tmp_path / "first.log"), "the node")
    answers: list[int] = []
    sender = threading.Thread(target=lambda: answers.extend(send(port, pictures(patient))), daemon=True)
    sender.start()
    if point != "receiving":
        wait_until(first.held.exists, point)
    if point != "stored":
        sender.join()
        assert answers == [SUCCESS, SUCCESS]
    before = states(node)
    assert before == [{"stored": "receiving", "all-sent": "sending"}.get(point, point)]
    first.kill()  # a sender without an answer waits for longer than this test
    second = HeldNode("", [*words, "--quiet-s", "0"], tmp_path / "second.log")
    try:
        wait_until(lambda: listening(tmp_path / "second.log"), "the second node")
        if answers != [SUCCESS, SUCCESS]:  # the sender never heard of success, so it sends again
            assert send(port, pictures(patient)) == [SUCCESS, SUCCESS]
        wait_until(lambda: set(states(node)) == {"sent"}, f"the end of {states(node)}")
        wait_until(lambda: not list((node / "spool").iterdir()), "an empty spool")
        os.kill(second.process.pid or 0, signal.SIGTERM)
        second.process.join()
        assert second.process.exitcode == 0, (tmp_path / "second.log").read_text()
    finally:
        second.kill()
    assert orthanc.modalities(f"1.2.826.0.1.7778.{patient}") == {"SR": 2, "OT": 2}
    assert not list((node / "results").iterdir())
    assert "CANARY" not in (node / "events.jsonl").read_text() + (tmp_path / "second.log").read_text()
