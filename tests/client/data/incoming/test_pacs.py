"""DICOMweb against a real Orthanc, and against servers that lie."""

import contextlib
import json
import resource
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import zstandard
from tests.client.data.dicom.test_deidentify import SECRET, image, leaks
from tests.client.data.incoming.test_importing import file_bytes
from tests.processes import running, wait_until
from typer.testing import CliRunner

from salus.cli import app
from salus.client.config import init_site, open_catalogue
from salus.client.data.incoming.files import Incoming
from salus.client.data.incoming.pacs import TRIES, DicomWeb, PacsOptions
from salus.client.data.incoming.progress import STORED, Progress
from salus.client.data.incoming.query import fits, loosened, parse_query
from salus.common.errors import ConfigError, DataError, LinkError, UnreadableImage

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
ORTHANC = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
real = pytest.mark.skipif(
    not (Path(ORTHANC).exists() and PLUGIN.exists()), reason="needs Orthanc: apt-get install orthanc orthanc-dicomweb"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running_orthanc(settings: Path, root: str, auth: tuple[str, str]) -> Iterator[None]:
    """Run a real Orthanc, which dies with the tests, and wait until it answers."""

    def answers() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{root}/system", auth=auth).status_code == 200
        return False

    with running([ORTHANC, settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(answers, "Orthanc", process=process)
        yield


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a real Orthanc with DICOMweb and basic authentication and return its root."""
    folder = tmp_path_factory.mktemp("orthanc")
    port = free_port()
    settings = {
        "Name": "test", "HttpPort": port, "DicomPort": free_port(), "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"), "RemoteAccessAllowed": False, "AuthenticationEnabled": True,
        "RegisteredUsers": {"salus": "orthanc-test"}, "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    root = f"http://127.0.0.1:{port}"
    with running_orthanc(folder / "orthanc.json", root, ("salus", "orthanc-test")):
        yield root


def store(root: str, data: bytes) -> None:
    answer = httpx.post(f"{root}/instances", content=data, auth=("salus", "orthanc-test"))
    assert answer.status_code == 200


def study(patient: int, pictures: int, **changes: object) -> list[bytes]:
    """Return the files of one study with learnable pictures: class 1 is bright."""
    files = []
    for number in range(pictures):
        rng = np.random.default_rng(patient * 100 + number)
        pixels = (rng.integers(0, 800, (8, 8)) + (patient % 2) * 2500).astype("<u2")
        dataset = image(
            PatientID=f"P{patient}", PatientName=f"CANARY^P{patient}", StudyInstanceUID=f"1.2.826.0.1.7777.{patient}",
            SeriesInstanceUID=f"1.2.826.0.1.7777.{patient}.1", SOPInstanceUID=f"1.2.826.0.1.7777.{patient}.1.{number}",
            Rows=8, Columns=8, PixelData=pixels.tobytes(), InstanceNumber=number + 1, StudyDate="20200101", **changes,
        )  # fmt: skip
        files.append(file_bytes(dataset))
    return files


@real
def test_from_a_real_pacs_to_a_trained_model(orthanc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for patient in range(12):
        for data in study(patient, 2):
            store(orthanc, data)
    for data in study(40, 1, Modality="US", SOPClassUID="1.2.840.10008.5.1.4.1.1.6.1"):
        store(orthanc, data)
    monkeypatch.setattr("salus.client.data.dicom.text.installed", lambda: False)
    init_site(tmp_path / "site", "St. Mary")
    rows = "\n".join(f"P{n},{n % 2}" for n in [*range(12), 40])
    (tmp_path / "labels.csv").write_text(f"PatientID,label\n{rows}\n")
    monkeypatch.setenv("SALUS_PACS_PASSWORD", "orthanc-test")
    arguments = [
        "dataset", "import", str(tmp_path / "site"), "chest", "--labels", str(tmp_path / "labels.csv"),
        "--pacs", f"{orthanc}/dicom-web", "--user", "salus",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "site" / "images" / "chest" / "report.json").read_text())
    assert (report["images"], report["patients"], report["refused"]) == (24, 12, {"burned-in": 1})
    catalogue = open_catalogue(tmp_path / "site")
    assert len({item.patient for item in catalogue.images("chest")}) == 12
    for path in (tmp_path / "site").rglob("*"):
        if path.is_file():
            assert leaks(path.read_bytes()) == [], path.name
            assert leaks(str(path.name).encode()) == []
    again = CliRunner().invoke(app, arguments)  # finished studies are not fetched again
    assert again.exit_code == 0
    assert json.loads((tmp_path / "site" / "images" / "chest" / "report.json").read_text())["images"] == 0
    assert len(catalogue.images("chest")) == 24
    assert _auc(catalogue) > 0.9


def _auc(catalogue: object) -> float:
    """Train on what was imported and return the AUC on the same patients: the pictures came through."""
    from tests.builders import job_text

    from salus.client.data.catalogue import Catalogue
    from salus.client.data.loading import Memory, local_data
    from salus.client.performance import Performance
    from salus.client.training import Trainer
    from salus.common.job import parse_job
    from salus.common.models import build_model
    from salus.common.tasks import make_task
    from salus.common.vectors import layout_of, read_parameters

    assert isinstance(catalogue, Catalogue)
    job = parse_job(job_text(training="local_epochs = 8\nvalidation_fraction = 0.0").replace('"toy"', '"chest"'))
    task = make_task(job.task)
    data = local_data(catalogue, job, task, Memory(2**24))
    model = build_model(job.task, 0)
    trainer = Trainer(model, layout_of(model), task, job, Performance(device="cpu"))
    start = read_parameters(model, trainer.layout)
    update = trainer.train(start, data.train, 0)
    return task.metrics(trainer.evaluate(start + update, data.train))["auc"]


@real
def test_wildcards_and_identifiers_with_spaces_select(orthanc: str) -> None:
    for patient in (711, 712):
        for data in study(patient, 1):
            store(orthanc, data)
    uids = {name: f"1.2.826.0.1.7777.73{end}" for name, end in (("Study", ""), ("Series", ".1"))}
    named = {f"{name}InstanceUID": uid for name, uid in uids.items()}
    store(orthanc, file_bytes(image(PatientID="MRN 7&3", SOPInstanceUID="1.2.826.0.1.7777.73.1.1", **named)))
    for query, expected in (
        ("P71*", {711, 712}),
        ("P71?", {711, 712}),
        ("MRN 7&3", {73}),
        ("MRN*", {73}),
        (" MRN 7&3 ", {73}),
    ):
        options = PacsOptions(
            url=f"{orthanc}/dicom-web", query=parse_query(f"PatientID={query}"), requests_per_s=1000.0
        )
        with DicomWeb(options, user="salus", password="orthanc-test") as server:
            assert set(server.studies()) == {f"1.2.826.0.1.7777.{number}" for number in expected}, query


@real
def test_a_query_selects_and_a_wrong_password_is_named(orthanc: str) -> None:
    for data in study(60, 1):
        store(orthanc, data)
    options = PacsOptions(url=f"{orthanc}/dicom-web", query={"PatientID": "P60"}, requests_per_s=1000.0)
    with DicomWeb(options, user="salus", password="orthanc-test") as server:
        assert server.studies() == ["1.2.826.0.1.7777.60"]
    with (
        DicomWeb(options, user="salus", password="wrong", sleep=lambda s: None) as server,
        pytest.raises(LinkError, match="status 401"),
    ):
        server.studies()


def lying(handler: Callable[[httpx.Request], httpx.Response]) -> DicomWeb:
    server = DicomWeb(PacsOptions(url="http://pacs.test/dicom-web"), sleep=lambda s: None)
    server._client = httpx.Client(transport=httpx.MockTransport(handler))
    return server


def rows(*uids: str) -> list[dict[str, object]]:
    return [
        {"0020000D": {"vr": "UI", "Value": [uid]}, "0020000E": {"Value": [uid]}, "00080018": {"Value": [uid]}}
        for uid in uids
    ]


def fetched(server: DicomWeb, folder: Path) -> list[Incoming]:
    return list(server.incoming(Progress(folder, SECRET)))


def reasons(items: list[Incoming]) -> list[str]:
    return ["" if isinstance(item.data, bytes) else item.data.reason for item in items]


def test_uids_that_are_paths_never_become_urls(tmp_path: Path) -> None:
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(
            200, json=rows("1.2.3", "../../admin", "1.2/../../x", "http://evil") if len(asked) == 1 else []
        )

    assert reasons(fetched(lying(handler), tmp_path)) == ["no-study-uid"] * 3
    assert set(asked) == {"/dicom-web/studies", "/dicom-web/studies/1.2.3/instances"}


def paged(store: dict[str, dict[str, bytes]], cap: int, **changes: object) -> Callable[[httpx.Request], httpx.Response]:
    """Return a server of these studies and objects whose pages hold at most `cap` rows."""

    def handler(request: httpx.Request) -> httpx.Response:
        parts = request.url.path.strip("/").split("/")[1:]
        if len(parts) == 7 or (len(parts) == 6 and parts[4] == "instances"):
            return httpx.Response(200, headers=changes.get("headers", {}), content=store[parts[1]][parts[5]])  # type: ignore[arg-type]
        if parts == ["studies"]:
            counts = {uid: {"00201208": {"Value": [len(store[uid])]}} if "counts" in changes else {} for uid in store}
            found = [{"0020000D": {"Value": [uid]}} | counts[uid] for uid in store]
        else:
            found = [{"0020000E": {"Value": ["1.5"]}, "00080018": {"Value": [uid]}} for uid in store[parts[1]]]
        offset = int(request.url.params.get("offset", 0))
        rest = found[offset : offset + min(cap, int(request.url.params.get("limit", 10**6)))]
        if not rest and "end" in changes:
            return httpx.Response(int(str(changes["end"])))
        return httpx.Response(int(str(changes.get("status", 200))), json=rest)

    return handler


@pytest.mark.parametrize(("cap", "end", "status"), [(20, 200, 200), (7, 204, 206), (1, 404, 200)])
def test_a_server_that_caps_its_pages_loses_nothing(tmp_path: Path, cap: int, end: int, status: int) -> None:
    """Thirty studies, one of 40 objects, once arrived as 20 and 39."""
    data = bytes(128) + b"DICM"
    store = {f"1.2.{n}": {f"1.3.{n}.{k}": data for k in range(40 if n == 0 else 1)} for n in range(30)}
    changes = {"status": status} | ({"end": end} if end != 200 else {})
    items = fetched(lying(paged(store, cap, **changes)), tmp_path)
    assert reasons(items) == [""] * 69
    assert {(item.study, item.name) for item in items} == {
        (uid, name) for uid, found in store.items() for name in found
    }


def test_a_fraction_of_an_object_is_not_the_object(tmp_path: Path) -> None:
    data = bytes(128) + b"DICM"
    for text, expected in (
        ("bytes 0-99/500", "pacs"),
        ("bytes 0-131/132", ""),
        ("bytes 9-99/100", "pacs"),
        ("?", "pacs"),
    ):
        handler = paged({"1.2": {"1.3": data}}, 100, headers={"content-range": text})
        assert reasons(fetched(lying(handler), tmp_path / text[-3:])) == [expected]


def test_a_row_without_its_identifiers_is_counted_and_named(tmp_path: Path) -> None:
    instances = [
        {"00080018": {"Value": ["1.7"]}},
        {"0020000E": {"Value": ["1.5"]}},
        {"00080018": {"Value": ["1.8"]}, "00081190": {"Value": ["http://x/studies/1.2/series/1.5/instances/1.8"]}},
        {"00080018": {"Value": ["1.9"]}, "00081190": {"Value": ["http://x/series/../instances/1.9"]}},
        {},
    ]

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.params.get("offset", "0") != "0":
            return httpx.Response(204)
        if request.url.path.endswith("/studies"):
            return httpx.Response(200, json=[{"0020000D": {"Value": ["1.2"]}}, {}, {"0020000D": {"vr": "UI"}}])
        if request.url.path.endswith("/instances"):
            return httpx.Response(200, json=instances)
        return httpx.Response(200, content=bytes(128) + b"DICM")

    items = fetched(lying(handler), tmp_path)
    assert Counter(reasons(items)) == {"no-study-uid": 2, "no-series-uid": 3, "no-instance-uid": 1, "": 1}
    assert [item.name for item in items if isinstance(item.data, bytes)] == ["1.8"]
    named = {str(item.data) for item in items if isinstance(item.data, UnreadableImage)}
    assert any("SeriesInstanceUID" in text for text in named)
    assert any("StudyInstanceUID" in text for text in named)


def test_a_list_that_the_server_cuts_is_named(tmp_path: Path) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/studies"):
            row = {"0020000D": {"Value": ["1.2"]}, "00201208": {"Value": [3]}}
            return httpx.Response(200, headers={"warning": '299 - "there are more results"'}, json=[row])
        if request.url.path.endswith("/instances"):
            return httpx.Response(200, json=rows("1.9"))
        return httpx.Response(200, content=bytes(128) + b"DICM")

    assert sorted(reasons(fetched(lying(handler), tmp_path))) == ["", "pacs-list", "pacs-list"]


def test_a_server_that_repeats_itself_or_redirects_or_answers_nonsense_ends(tmp_path: Path) -> None:
    endless = lying(lambda request: httpx.Response(200, json=rows("1.2.3") * 100))
    assert endless.studies() == ["1.2.3"]
    for answer in (
        httpx.Response(302, headers={"location": "http://evil"}),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={"a": 1}),
        httpx.Response(500),
    ):
        with pytest.raises(LinkError, match="PACS answered"):
            lying(lambda request, answer=answer: answer).studies()


def test_a_study_that_fails_is_counted_and_asked_for_again_next_time(tmp_path: Path) -> None:
    good = b"\r\n".join([b"--b", b"Content-Type: application/dicom", b"", b"DATA", b"--b--", b""])

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/studies"):
            return httpx.Response(200, json=rows("1.1", "1.2"))
        if request.url.path.endswith("1.1/instances") or request.url.path.endswith("1.2/instances"):
            return httpx.Response(200, json=rows("1.9"))
        return httpx.Response(200, content=good) if "/studies/1.1/" in request.url.path else httpx.Response(503)

    items = fetched(lying(handler), tmp_path)
    assert [item.data if isinstance(item.data, bytes) else item.data.reason for item in items] == [b"DATA", "pacs"]
    progress = Progress(tmp_path, SECRET)
    progress.put(
        (item.study, item.name, STORED if isinstance(item.data, bytes) else item.data.reason) for item in items
    )
    again = Progress(tmp_path, SECRET)
    assert [item.study for item in lying(handler).incoming(again)] == ["1.2"]
    assert (again.earlier, again.listed) == (1, {"studies": 2, "objects": 2})


def test_a_study_that_grew_and_studies_that_come_meanwhile_are_fetched(tmp_path: Path) -> None:
    """The PACS gets objects while it is read; with its own counts, also those of studies that were finished already."""
    data = bytes(128) + b"DICM"
    store = {"1.1": {"1.1.1": data}, "1.2": {"1.2.1": data}}
    answer = paged(store, 100, counts=True)
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        asked.append(path.rsplit("/", 1)[1])
        if path.endswith("1.2.1"):
            store["1.1"]["1.1.2"] = data  # in a study that is finished
            store["1.3"] = {"1.3.1": data}
        if path.endswith("1.3.1"):
            store["1.4"] = {"1.4.1": data}
        return answer(request)

    items = fetched(lying(handler), tmp_path)
    assert [item.name for item in items] == ["1.1.1", "1.2.1", "1.1.2", "1.3.1", "1.4.1"]
    progress = Progress(tmp_path, SECRET)
    progress.put((item.study, item.name, STORED) for item in items)
    store["1.2"]["1.2.2"] = data
    asked.clear()
    assert [item.name for item in lying(handler).incoming(Progress(tmp_path, SECRET))] == ["1.2.2"]
    assert not {"1.1.1", "1.2.1", "1.3.1"} & set(asked)


def test_a_list_that_fails_and_then_works_counts_as_nothing(tmp_path: Path) -> None:
    data = bytes(128) + b"DICM"
    answer = paged({"1.1": {"1.1.1": data}}, 100, counts=True)
    left = [TRIES]

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/instances") and left[0]:
            left[0] -= 1
            return httpx.Response(503)
        return answer(request)

    assert reasons(fetched(lying(handler), tmp_path)) == [""]


def test_a_password_is_not_sent_in_clear_to_another_machine() -> None:
    options = PacsOptions(url="http://pacs.hospital.example/dicom-web")
    with pytest.raises(ConfigError, match="https"):
        DicomWeb(options, user="salus", password="secret")
    DicomWeb(options).__exit__()


def test_a_list_without_end_is_one_refused_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salus.client.data.incoming.pacs.MAX_LIST_BYTES", 1000)

    def handler(request: httpx.Request) -> httpx.Response:
        short = request.url.path.endswith("/studies")
        return httpx.Response(200, json=rows("1.1")) if short else httpx.Response(200, content=b"[" + b" " * 5000)

    (item,) = fetched(lying(handler), tmp_path)
    assert isinstance(item.data, UnreadableImage)
    assert item.data.reason == "pacs"


def test_compressed_answers_are_not_inflated(tmp_path: Path) -> None:
    """77 kB of zstd once became 3.4 GB."""
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(200_000_000))
    assert len(bomb) < 100_000
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["accept-encoding"])
        stream = httpx.ByteStream(bomb)
        return httpx.Response(200, headers={"content-encoding": "zstd"}, stream=stream)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(LinkError, match="compressed"):
        lying(handler).studies()
    with pytest.raises(LinkError, match="compressed"):
        lying(handler)._object("/studies/1/series/1/instances/1")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
    assert set(asked) == {"identity"}


def test_queries_are_parsed_strictly() -> None:
    assert parse_query("Modality=CT, StudyDate=20200101-") == {"Modality": "CT", "StudyDate": "20200101-"}
    assert parse_query("") == {}
    for bad in ("Modality", "../x=1", "a b=1"):
        with pytest.raises(DataError):
            parse_query(bad)


def test_characters_that_a_url_escapes_become_wildcards_and_the_rest_is_compared_here() -> None:
    assert loosened("MRN 7&3") == "MRN?7?3"
    assert loosened("P1*") == "P1*"
    row: dict[str, object] = {"00100020": {"Value": [" MRN 7&3"]}, "00100010": {"Value": [{"Alphabetic": "DOE^JOHN"}]}}
    for query, expected in (
        ({"PatientID": "MRN 7&3"}, True),
        ({"00100020": "mrn 7&*"}, True),
        ({"PatientID": "MRN 7+3"}, False),
        ({"PatientName": "DOE^J*"}, True),
        ({"PatientName": "DOE^M*"}, False),
        ({"AccessionNumber": "7 8"}, True),  # the row does not say
        ({"PatientID": "[A] *"}, False),
    ):
        assert fits(row, query) is expected, query
