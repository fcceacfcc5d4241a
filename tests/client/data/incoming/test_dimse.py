"""Classic DICOM against a real Orthanc over TLS on both sides, and senders that misbehave."""

import gc
import io
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from pydicom.uid import UID, SecondaryCaptureImageStorage
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import CTImageStorage  # type: ignore[attr-defined]
from tests.client.data.dicom.test_deidentify import SECRET, image, leaks
from tests.client.data.incoming.test_importing import file_bytes
from tests.client.data.incoming.test_pacs import free_port, real, running_orthanc, study
from tests.processes import BACKSTOP_S, wait_until
from typer.testing import CliRunner

from salus.cli import app
from salus.client.config import init_site, open_catalogue
from salus.client.data.incoming import receiver as receiver_module
from salus.client.data.incoming.dimse import DicomNetwork, pushed
from salus.client.data.incoming.files import Incoming
from salus.client.data.incoming.progress import STORED, Progress
from salus.client.data.incoming.receiver import REFUSED, SUCCESS, DimseOptions, Receiver
from salus.client.data.incoming.requests import Moved
from salus.common.clock import ManualClock
from salus.common.errors import ConfigError, LinkError, UnreadableImage

# pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()


AUTH = ("salus", "orthanc-test")


def write_tls(folder: Path) -> Path:
    """Write an authority and certificates for ``pacs`` and ``site`` on this machine."""
    folder.mkdir(parents=True)
    now = datetime.now(UTC)
    root_key = rsa.generate_private_key(65537, 2048)
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])

    def certificate(name: x509.Name, key: rsa.RSAPrivateKey, *, authority: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(root_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        )
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(identifier, critical=False)
        if authority:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        else:
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
            builder = builder.add_extension(issuer, critical=False)
        return builder.sign(root_key, hashes.SHA256())

    def save(name: str, cert: x509.Certificate, key: rsa.RSAPrivateKey) -> None:
        (folder / f"{name}.crt").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    save("root", certificate(root_name, root_key, authority=True), root_key)
    for name in ("pacs", "site"):
        key = rsa.generate_private_key(65537, 2048)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        save(name, certificate(subject, key, authority=False), key)
    return folder


@dataclass(frozen=True)
class Pacs:
    root: str
    port: int
    ours: int
    tls: Path


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pacs]:
    """Start a real Orthanc whose DICOM port and outgoing connections are TLS with certificates."""
    folder = tmp_path_factory.mktemp("orthanc")
    tls = write_tls(folder / "tls")
    found = Pacs(f"http://127.0.0.1:{free_port()}", free_port(), free_port(), tls)
    settings = {
        "HttpPort": int(found.root.rsplit(":", 1)[1]), "DicomPort": found.port, "DicomAet": "ORTHANC",
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "RegisteredUsers": dict([AUTH]),
        "RemoteAccessAllowed": False, "AuthenticationEnabled": True, "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(tls / "pacs.crt"), "DicomTlsPrivateKey": str(tls / "pacs.key"),
        "DicomTlsTrustedCertificates": str(tls / "root.crt"), "DicomCheckCalledAet": True,
        "DicomModalities": {"salus": {"AET": "SALUS", "Host": "127.0.0.1", "Port": found.ours, "UseDicomTls": True}},
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with running_orthanc(folder / "orthanc.json", found.root, AUTH):
        yield found


def arguments(pacs: Pacs, site: Path, labels: Path) -> list[str]:
    return [
        "dataset", "import", str(site), "chest", "--labels", str(labels),
        "--pacs", f"dicom://ORTHANC@127.0.0.1:{pacs.port}", "--listen", f"SALUS@127.0.0.1:{pacs.ours}",
        "--authority", str(pacs.tls / "root.crt"), "--certificate", str(pacs.tls / "site.crt"),
        "--key", str(pacs.tls / "site.key"),
    ]  # fmt: skip


@real
def test_moved_over_tls_from_a_real_pacs(pacs: Pacs, tmp_path: Path) -> None:
    for patient in range(6):
        for data in study(patient, 3):
            assert httpx.post(f"{pacs.root}/instances", content=data, auth=AUTH).status_code == 200
    site = tmp_path / "site"
    init_site(site, "St. Mary")
    (tmp_path / "labels.csv").write_text("PatientID,label\n" + "".join(f"P{n},{n % 2}\n" for n in range(6)))
    some = [*arguments(pacs, site, tmp_path / "labels.csv"), "--query", "PatientID=P1"]
    result = CliRunner().invoke(app, some)
    assert result.exit_code == 0, result.output
    assert len(open_catalogue(site).images("chest")) == 3
    result = CliRunner().invoke(app, arguments(pacs, site, tmp_path / "labels.csv"))
    assert result.exit_code == 0, result.output
    report = json.loads((site / "images" / "chest" / "report.json").read_text())
    assert (report["images"], report["duplicates"], report["refused"]) == (15, 0, {})  # P1's study was finished
    assert len({image.patient for image in open_catalogue(site).images("chest")}) == 6
    for path in site.rglob("*"):
        if path.is_file():
            assert leaks(path.read_bytes()) == [], path.name
    pages = sorted((site / "reports").glob("import-chest-*.html"))
    assert "images stored" in pages[-1].read_text()


@real
def test_a_real_pacs_pushes_over_tls_and_is_refused_without_its_certificate(pacs: Pacs, tmp_path: Path) -> None:
    for data in study(90, 2):
        assert httpx.post(f"{pacs.root}/instances", content=data, auth=AUTH).status_code == 200
    found = httpx.post(
        f"{pacs.root}/tools/find", auth=AUTH, json={"Level": "Study", "Query": {"PatientID": "P90"}}
    ).json()
    options = DimseOptions(
        called="ORTHANC", listen_port=pacs.ours, authority=str(pacs.tls / "root.crt"),
        certificate=str(pacs.tls / "site.crt"), key=str(pacs.tls / "site.key"),
    )  # fmt: skip
    answers: list[int] = []

    def push() -> None:
        answer = httpx.post(f"{pacs.root}/modalities/salus/store", auth=AUTH, json=found[0], timeout=BACKSTOP_S)
        answers.append(answer.status_code)

    with Receiver(options) as receiver:
        thread = threading.Thread(target=push)
        thread.start()
        arrived = list(receiver.objects(lambda: not thread.is_alive()))
        thread.join()
        assert answers == [200]
        assert sorted(name for name, _ in arrived) == [f"1.2.826.0.1.7777.90.1.{n}" for n in range(2)]
        assert all(data[128:132] == b"DICM" for _, data in arrived)
        for context in (None, ssl.create_default_context(cafile=str(pacs.tls / "root.crt"))):  # no TLS; no certificate
            assert not send(receiver.port, study(91, 1), context=context)
        assert list(receiver.objects(lambda: True)) == []
    wrong = options.model_copy(update={"host": "127.0.0.1", "port": pacs.port, "called": "ELSE"})
    with pytest.raises(LinkError):
        DicomNetwork(wrong, sleep=lambda s: None).studies()


def send(
    port: int,
    files: list[bytes],
    *,
    title: str = "MODALITY",
    called: str = "SALUS",
    context: ssl.SSLContext | None = None,
) -> list[int]:
    """Push files as a modality does and return the answers; empty if we are refused."""
    import io

    import pydicom

    entity = AE(ae_title=title)
    entity.add_requested_context(CTImageStorage)
    entity.add_requested_context(SecondaryCaptureImageStorage)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = BACKSTOP_S
    association = entity.associate(
        "127.0.0.1", port, ae_title=called, tls_args=(context, "127.0.0.1") if context else None
    )
    if not association.is_established:
        return []
    answers = [int(association.send_c_store(pydicom.dcmread(io.BytesIO(f))).get("Status", -1)) for f in files]
    association.release()
    return answers


def test_the_sender_hears_of_success_after_storing_and_not_when_we_stop_before(tmp_path: Path) -> None:
    options = DimseOptions(called="MODALITY", listen_port=0)
    heard: list[int] = []
    with Receiver(options) as receiver:
        thread = threading.Thread(target=lambda: heard.extend(send(receiver.port, study(1, 2))))
        thread.start()
        objects = receiver.objects(lambda: not thread.is_alive())
        next(objects)
        thread.join(0.3)  # an answer that comes too early comes within this time; a correct receiver never fails by it
        assert heard == []  # the first object is not stored yet
        next(objects)  # now it is, and the second one is not
    thread.join()
    assert heard[0] == SUCCESS
    assert len(heard) == 1 or heard[1] != SUCCESS


def test_strangers_and_endless_objects_are_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = DimseOptions(called="MODALITY", listen_port=0)
    seen: list[int] = []
    count = Receiver._count

    def counting(self: Receiver, event: object) -> None:
        count(self, event)
        seen.extend(self._received.values())

    monkeypatch.setattr(Receiver, "_count", counting)
    with Receiver(options) as receiver:
        assert send(receiver.port, study(1, 1), title="STRANGER") == []
        assert send(receiver.port, study(1, 1), called="OTHER") == []
        with socket.create_connection(("127.0.0.1", receiver.port)) as raw:
            raw.sendall(b"GET / HTTP/1.0\r\n\r\n" * 100)
        monkeypatch.setattr(receiver_module, "MAX_FILE_BYTES", 100_000)
        large = image(
            PatientID="P1",
            Rows=2000,
            Columns=2000,
            PixelData=bytes(8_000_000),
            SOPInstanceUID="1.2.3",
            StudyInstanceUID="1.2",
        )
        answers: list[int] = []
        thread = threading.Thread(target=lambda: answers.extend(send(receiver.port, [file_bytes(large)])))
        thread.start()
        assert list(receiver.objects(lambda: not thread.is_alive())) == []
        assert answers in ([], [-1], [REFUSED])
        assert max(seen) < 500_000  # the connection ended long before eight megabytes were here


def test_a_push_ends_when_nothing_comes(tmp_path: Path) -> None:
    port = free_port()
    results: list[Incoming] = []
    options = DimseOptions(called="MODALITY", listen_port=port)
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    thread = threading.Thread(target=lambda: results.extend(pushed(options, idle_s=1.5, clock=clock)))
    thread.start()
    answers: list[int] = []

    def sent() -> bool:
        answers.extend(send(port, study(3, 2)))
        return bool(answers)

    wait_until(sent, "the listener")
    assert thread.is_alive()  # it waits until the clock says that nothing has come
    wait_until(lambda: len(results) == 2, "both objects")
    clock.sleep(2.0)
    thread.join()
    assert answers == [SUCCESS, SUCCESS]
    assert len(results) == 2


def test_images_do_not_cross_the_network_in_the_clear_unless_somebody_says_so(tmp_path: Path) -> None:
    for changes in ({"host": "10.0.0.7"}, {"listen_host": "0.0.0.0"}):
        options = DimseOptions(called="PACS", **changes)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="unencrypted"):
            options.context(server=True)
        assert options.model_copy(update={"trusted_network": True}).context(server=True) is None
    with pytest.raises(ConfigError, match="together"):
        DimseOptions(called="PACS", authority="x").context(server=False)
    with pytest.raises(ConfigError, match="PEM"):
        DimseOptions(called="PACS", authority="x", certificate="/secret/place/y", key="z").context(server=False)


def test_a_pacs_that_is_not_there_and_a_study_that_does_not_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    options = DimseOptions(called="PACS", port=free_port(), listen_port=0, timeout_s=2)
    network = DicomNetwork(options, sleep=waits.append)
    with pytest.raises(LinkError):
        list(network.incoming(Progress(tmp_path / "store", SECRET)))
    assert waits == [1.0, 2.0]
    port = free_port()
    network = DicomNetwork(options.model_copy(update={"listen_port": port, "called": "MODALITY"}), sleep=waits.append)
    full = {"status": SUCCESS}
    said = {  # failed; nothing sent; fewer arrived than sent; whole; one failed that is named
        "1.2.1": Moved(),
        "1.2.2": Moved(**full),
        "1.2.3": Moved(**full, sent=5),
        "1.2.4": Moved(**full, sent=2),
        "1.2.5": Moved(0xB000, sent=2, failed=2, named=frozenset({"1.2.5.9"})),
    }

    def move(study_uid: str) -> Moved:
        if study_uid >= "1.2.3":
            patient = int(study_uid[-1])
            assert send(port, study(patient, 2)) == [SUCCESS, SUCCESS]
        return said[study_uid]

    monkeypatch.setattr(network, "studies", lambda: (dict.fromkeys(said), []))
    monkeypatch.setattr(network, "objects", lambda study_uid: None)
    monkeypatch.setattr(network, "move", move)
    progress = Progress(tmp_path / "store", SECRET)
    found = list(network.incoming(progress))
    lost = [(item.study, item.name) for item in found if isinstance(item.data, UnreadableImage)]
    three, five = [("1.2.3", "")] * 3, [("1.2.5", "1.2.5.9"), ("1.2.5", "")]
    assert lost == [("1.2.1", ""), ("1.2.2", ""), *three, *five]
    assert sum(isinstance(item.data, bytes) for item in found) == 6  # each once, whatever the number of tries


def test_what_a_pacs_lists_and_does_not_send_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A C-MOVE that succeeds with an object less than the PACS lists, and one that only grew since the last import."""
    port = free_port()
    options = DimseOptions(called="MODALITY", port=free_port(), listen_port=port, timeout_s=2)
    network = DicomNetwork(options, sleep=lambda seconds: None)
    names = [f"1.2.826.0.1.7777.4.1.{number}" for number in range(3)]
    moves: list[int] = []

    def move(study_uid: str) -> Moved:
        moves.append(1)
        assert send(port, study(4, 2)) == [SUCCESS, SUCCESS]
        return Moved(SUCCESS, sent=2)

    monkeypatch.setattr(network, "studies", lambda: ({"1.2.4": 3}, []))
    monkeypatch.setattr(network, "objects", lambda study_uid: set(names))
    monkeypatch.setattr(network, "move", move)
    progress = Progress(tmp_path, SECRET)
    found = list(network.incoming(progress))
    assert [(item.name, isinstance(item.data, bytes)) for item in found] == [(n, n != names[2]) for n in names]
    progress.put((item.study, item.name, STORED if isinstance(item.data, bytes) else "pacs") for item in found)
    again = Progress(tmp_path, SECRET)
    assert [item.name for item in network.incoming(again)] == [names[2]]  # what came before is not yielded again
    assert (again.earlier, again.listed) == (2, {"studies": 1, "objects": 3})
    again.put([("1.2.4", names[2], STORED)])
    moves.clear()
    assert list(network.incoming(Progress(tmp_path, SECRET))) == []
    assert moves == []  # nothing is missing, so nothing is asked for


@real
def test_a_real_pacs_whose_study_grew(pacs: Pacs, tmp_path: Path) -> None:
    for data in study(70, 2):
        assert httpx.post(f"{pacs.root}/instances", content=data, auth=AUTH).status_code == 200
    site = tmp_path / "site"
    init_site(site, "St. Mary")
    (tmp_path / "labels.csv").write_text("PatientID,label\nP70,1\n")
    some = [*arguments(pacs, site, tmp_path / "labels.csv"), "--query", "PatientID=P70"]
    for images, before in ((2, 0), (0, 2), (3, 2)):
        result = CliRunner().invoke(app, some)
        assert result.exit_code == 0, result.output
        report = json.loads((site / "images" / "chest" / "report.json").read_text())
        assert (report["found"], report["images"], report["pacs"]["stored_before"]) == (images, images, before)
        assert report["pacs"]["objects"] == images + before
        if before:
            for data in study(70, 5):
                assert httpx.post(f"{pacs.root}/instances", content=data, auth=AUTH).status_code == 200
    assert len(open_catalogue(site).images("chest")) == 5


def test_a_silent_caller_holds_up_nobody_and_a_large_message_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver_module, "SILENCE_S", 2.0)
    tls = write_tls(tmp_path / "tls")
    names = {"authority": str(tls / "root.crt"), "certificate": str(tls / "site.crt"), "key": str(tls / "site.key")}
    options = DimseOptions(called="MODALITY", listen_port=0, **names)  # type: ignore[arg-type]
    ours = ssl.create_default_context(cafile=str(tls / "root.crt"))
    ours.load_cert_chain(tls / "pacs.crt", tls / "pacs.key")
    strange = write_tls(tmp_path / "strange")
    theirs = ssl.create_default_context(cafile=str(tls / "root.crt"))
    theirs.load_cert_chain(strange / "pacs.crt", strange / "pacs.key")
    nobody = ssl.create_default_context(cafile=str(tls / "root.crt"))
    answers: list[int] = []
    with Receiver(options) as receiver:
        silent = [socket.create_connection(("127.0.0.1", receiver.port)) for _ in range(3)]
        assert send(receiver.port, study(1, 1), context=nobody) == []  # the right title and no certificate
        assert send(receiver.port, study(1, 1), context=theirs) == []  # one of another authority
        thread = threading.Thread(target=lambda: answers.extend(send(receiver.port, study(1, 1), context=ours)))
        thread.start()
        assert len(list(receiver.objects(lambda: not thread.is_alive()))) == 1
        assert answers == [SUCCESS]
        for caller in silent:
            caller.close()
    plain = DimseOptions(called="MODALITY", listen_port=0)
    with Receiver(plain) as receiver, socket.create_connection(("127.0.0.1", receiver.port)) as raw:
        raw.sendall(b"\x01\x00" + (0xFFFFFFFF).to_bytes(4, "big"))
        with pytest.raises(OSError, match="reset|Broken pipe"):
            flood(raw)


def flood(raw: socket.socket) -> None:
    for _ in range(400):
        raw.sendall(bytes(1_000_000))


def test_our_side_demands_the_right_host_and_authority(tmp_path: Path) -> None:
    tls = write_tls(tmp_path / "tls")
    names = {"authority": str(tls / "root.crt"), "certificate": str(tls / "site.crt"), "key": str(tls / "site.key")}
    options = DimseOptions(called="PACS", **names)  # type: ignore[arg-type]
    client, server = options.context(server=False), options.context(server=True)
    assert client is not None
    assert server is not None
    assert client.check_hostname
    assert client.verify_mode == server.verify_mode == ssl.CERT_REQUIRED
    assert min(client.minimum_version, server.minimum_version) >= ssl.TLSVersion.TLSv1_2


def test_nothing_of_what_cannot_be_read_is_quoted(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    caplog.set_level("DEBUG")
    with Receiver(DimseOptions(called="MODALITY", listen_port=0)) as receiver:
        wrong = image(PatientID="P", SOPInstanceUID="CANARY^JOHN", StudyInstanceUID="CANARY^DOE")
        wrong.SOPClassUID = CTImageStorage
        entity = AE(ae_title="MODALITY")
        entity.add_requested_context(CTImageStorage)
        association = entity.associate("127.0.0.1", receiver.port, ae_title="SALUS")
        request = C_STORE()
        request.MessageID, request.AffectedSOPClassUID, request.Priority = 1, CTImageStorage, 2
        request._affected_sop_instance_uid = UID("CANARY^JOHN", validation_mode=0)
        context = association.accepted_contexts[0]
        syntax = context.transfer_syntax[0]
        request.DataSet = io.BytesIO(encode(wrong, syntax.is_implicit_VR, syntax.is_little_endian) or b"")
        association._reactor_checkpoint.clear()  # as in pynetdicom's own requests: the answer is for us
        association.dimse.send_msg(request, context.context_id)
        wait_until(lambda: not association.dul.socket.ready or bool(association.dimse.msg_queue.qsize()), "an answer")
        association.abort()
    quoted = "".join(capfd.readouterr()) + caplog.text + "".join(str(w.message) for w in recwarn)
    assert "CANARY" not in quoted


def test_addresses_and_queries_that_do_not_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="DICOM attributes"):
        DicomNetwork(DimseOptions(called="PACS", query={"Nonsense": "1"}))
    init_site(tmp_path / "site", "S")
    (tmp_path / "labels.csv").write_text("PatientID,label\nP1,1\n")
    base = ["dataset", "import", str(tmp_path / "site"), "x", "--labels", str(tmp_path / "labels.csv"), "--pacs"]
    for more in (["dicom://host:1"], ["dicom://A@h:1", "--listen", "nowhere"], ["dicom://a b@h:1"], ["ftp://x"]):
        assert isinstance(CliRunner().invoke(app, [*base, *more]).exception, ConfigError)
