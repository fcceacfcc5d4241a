"""Studies go in by C-STORE and results come out, each once, whatever happens in between."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from tests.cli import salus
from tests.client.serving.worlds import (
    CANARY,
    Pacs,
    Running,
    pictures,
    predicting_of,
    received,
    running,
    saved,
    serving_of,
    study_of,
)
from tests.packages import export
from tests.processes import wait_until

from salus.client.data.incoming.receiver import NOT_UNDERSTOOD, SUCCESS, DimseOptions
from salus.client.serving.spool import Spool
from salus.client.serving.studies import Study
from salus.client.serving.working import Predicting

# pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
TWICE = [SUCCESS, SUCCESS]


@pytest.fixture(scope="module")
def package(plain_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(plain_run, tmp_path_factory.mktemp("serve") / "package")


@pytest.fixture(scope="module")
def predicting(package: Path) -> Predicting:
    return predicting_of(package)


@pytest.fixture(scope="module")
def node(predicting: Predicting, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A node for all tests here; each has its own patients."""
    options = DimseOptions(called="MODALITY", senders=("MODALITY", "OTHER"), listen_port=0)
    serving = serving_of(
        tmp_path_factory.mktemp("node") / "node", predicting, Pacs(), listening=options, keep="a study"
    )
    with running(serving) as found:
        yield found


def results(node: Running, patient: int) -> list[FileDataset]:
    return [one for one in node.pacs.objects.values() if one.StudyInstanceUID == study_of(patient)]


def test_a_study_comes_back_as_predict_would_write_it(package: Path, node: Running, tmp_path: Path) -> None:
    files = pictures(1)
    assert node.push(files) == TWICE
    (study,) = node.wait(1, "sent")
    assert (study.instances, study.objects, study.refused, study.kept) == (2, 4, {}, "a study")
    scans = tmp_path / "scans"
    scans.mkdir()
    for number, data in enumerate(files):
        (scans / f"{number}.dcm").write_bytes(data)
    result = salus("predict", package, scans, "--sr", "--output", tmp_path / "out", "--json")
    assert result.returncode == 0, result.stderr
    wanted = sorted(_numbers(dcmread(path)) for path in (tmp_path / "out" / "sr").glob("*.dcm"))
    found = results(node, 1)
    reports = [one for one in found if one.Modality == "SR"]
    assert sorted(map(_numbers, reports)) == wanted
    for one in found:
        assert one.PatientID == f"{CANARY}1"
        assert one.SeriesDescription.startswith("For research use")
        assert one.ContentQualification == "RESEARCH"
    captures = [one for one in found if one.Modality == "OT"]
    assert len(captures) == len(reports) == 2
    sources = {one.SourceImageSequence[0].ReferencedSOPInstanceUID for one in captures}
    assert sources == {f"{study_of(1)}.1.{number}" for number in range(2)}
    assert all(one.pixel_array[:40].max() > 200 for one in captures)  # words at the top
    comments = [item.TextValue for one in reports for item in one.ContentSequence if _is_comment(item)]
    assert all("research use only" in text.lower() for text in comments)
    assert len(comments) == 2
    kept = node.folder / "kept" / f"{study.id:08d}"
    wait_until(kept.exists, "the kept files")
    assert len(list(kept.iterdir())) == 2
    assert not list((node.folder / "results").iterdir())
    log = (node.folder / "events.jsonl").read_text()
    assert CANARY not in log
    assert "7778" not in log


def _is_comment(item: object) -> bool:
    return item.ConceptNameCodeSequence[0].CodeValue == "121106"  # type: ignore[attr-defined]


def _numbers(report: object) -> list[str]:
    """Return the probabilities of a report, with the image that they are of."""
    found = []

    def visit(items: object) -> None:
        for item in items:  # type: ignore[attr-defined]
            if item.ValueType == "NUM":
                found.append(str(item.MeasuredValueSequence[0].NumericValue))
            if item.ValueType == "IMAGE":
                found.append(str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID))
            visit(getattr(item, "ContentSequence", []))

    visit(report.ContentSequence)  # type: ignore[attr-defined]
    return found


def test_a_study_that_comes_again_makes_no_second_object(node: Running) -> None:
    before = len(node.pacs.sent)
    node.push(pictures(10))
    (first,) = node.wait(10, "sent")
    node.push(pictures(10))
    repeated = node.wait(10, "sent", "sent")[1]
    assert (repeated.reason, len(node.pacs.sent) - before) == ("repeated", 4)
    assert salus("serve", "retry", node.folder, first.id).returncode == 0  # sent: its next arrival is new
    node.push(pictures(10))
    node.wait(10, "sent", "sent", "sent")
    assert len(node.pacs.sent) - before == 8
    assert len(results(node, 10)) == 4


def test_what_is_no_image_or_our_own_is_taken_and_not_kept(node: Running) -> None:
    own, none = (dcmread(io.BytesIO(data)) for data in pictures(20))
    del none.PixelData
    own.Manufacturer, own.ContentQualification = "Salus", "RESEARCH"
    own.SOPClassUID, own.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "2.25.7"
    own.file_meta.MediaStorageSOPClassUID, own.file_meta.MediaStorageSOPInstanceUID = own.SOPClassUID, "2.25.7"
    assert node.push([saved(own), saved(none)]) == [SUCCESS, NOT_UNDERSTOOD]  # an image that was cut off is no report
    assert node.deliveries(20) == []
    assert node.studies.counts() == {"refused: no-pixels": 1, "own-result": 1}
    node.push(pictures(21))
    node.wait(21, "sent")
    before = node.studies.counts()["own-result"]
    captures = [one for one in results(node, 21) if one.Modality == "OT"]
    assert node.push([saved(one) for one in captures]) == TWICE  # what it really writes
    assert node.studies.counts()["own-result"] == before + 2
    node.push(pictures(22, Manufacturer="Salus"))  # a scanner of this name
    node.wait(22, "sent")


def test_results_are_of_the_patient_of_their_image(node: Running) -> None:
    """A broken device gives one UID to images of two patients, and a PACS keeps one object of a UID."""
    node.push(pictures(23))
    node.wait(23, "sent")
    same = [str(dcmread(io.BytesIO(data)).SOPInstanceUID) for data in pictures(23)]
    other = pictures(23, 1, PatientID="OTHER", IssuerOfPatientID="WARD", StudyInstanceUID=study_of(24))
    node.push(other)
    node.wait(24, "sent")
    assert {str(dcmread(io.BytesIO(data)).SOPInstanceUID) for data in other} < set(same)
    assert {one.PatientID for one in results(node, 23)} == {f"{CANARY}23"}
    assert [(one.PatientID, one.IssuerOfPatientID) for one in results(node, 24)] == [("OTHER", "WARD")] * 2
    node.push(pictures(23, PatientID="CORRECTED"))
    node.wait(23, "sent", "sent")
    assert sorted({one.PatientID for one in results(node, 23)}) == [f"{CANARY}23", "CORRECTED"]


@pytest.mark.parametrize(("patient", "identifier"), [(25, "A\\B"), (26, "X" * 70), (27, "12\x1b34"), (28, "12\n34")])
def test_no_result_names_another_patient(node: Running, patient: int, identifier: str) -> None:
    node.push(pictures(patient, PatientID=identifier))
    (failed,) = node.wait(patient, "failed")
    assert "unclear-patient" in failed.detail
    assert results(node, patient) == []
    salus("serve", "discard", node.folder, failed.id)


def test_a_worker_outlives_its_own_errors(node: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salus.client.serving.daemon.PAUSE_S", 0.0)
    remove, calls = Spool.remove, []

    def failing(self: Spool, study: Study, **options: bool) -> None:
        calls.append(study.id)
        if len(calls) == 1:
            raise OSError(5, CANARY)
        remove(self, study, **options)

    monkeypatch.setattr(Spool, "remove", failing)
    node.push(pictures(70))
    node.push(pictures(71))
    node.wait(71, "sent")
    node.wait(70, "sent")
    assert CANARY not in (node.folder / "events.jsonl").read_text()


def test_a_study_whose_files_are_gone_fails_and_does_not_wait_for_ever(predicting: Predicting, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    received(folder, 1, 2)
    next((folder / "spool" / "00000001").iterdir()).unlink()
    with running(serving_of(folder, predicting, Pacs())) as found:
        (first,), _ = found.wait(1, "failed"), found.wait(2, "sent")
    assert first.reason == "files-gone"


def test_a_study_that_cannot_be_predicted_on_costs_only_itself(node: Running) -> None:
    mixed = [*pictures(31, 1), *pictures(31, 2, PhotometricInterpretation="NONSENSE")[1:]]
    node.push(pictures(30, PhotometricInterpretation="NONSENSE"))
    node.push(mixed)
    node.push(pictures(32))
    (failed,), (partly,), (whole,) = node.wait(30, "failed"), node.wait(31, "sent"), node.wait(32, "sent")
    assert failed.reason
    assert sum(partly.refused.values()) == 1
    assert (partly.objects, whole.objects) == (2, 4)
    listed = salus("serve", "status", node.folder, "--json", "--uids")
    assert listed.returncode == 20
    values = json.loads(listed.stdout)
    assert values["running"] is True
    assert [one["study_uid"] for one in values["studies"]][:3] == [study_of(32), study_of(31), study_of(30)]
    assert values["studies"][2]["files"] is True
    plain = salus("serve", "status", node.folder).stdout
    assert failed.reason in plain
    assert "7778" not in plain
    assert salus("serve", "retry", node.folder, failed.id).returncode == 0
    node.wait(30, "failed")
    assert salus("serve", "discard", node.folder, failed.id).returncode == 0
    assert not (node.folder / "spool" / f"{failed.id:08d}").exists()
    assert salus("serve", "discard", node.folder, failed.id).returncode == 11
    assert salus("serve", "discard", node.folder, 999).returncode == 11
    assert salus("serve", "status", node.folder).returncode == 0


def test_an_unexpected_error_in_one_study_stops_no_other(node: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    call = Predicting.__call__

    def failing(self: Predicting, files: Path, *rest: object) -> dict[str, int]:
        if len(list(files.iterdir())) == 3:
            raise KeyError(CANARY)
        return call(self, files, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Predicting, "__call__", failing)
    node.push(pictures(40, 3))
    node.push(pictures(41))
    (first,), _ = node.wait(40, "failed"), node.wait(41, "sent")
    assert first.reason == "unexpected-KeyError"
    assert CANARY not in first.detail + (node.folder / "events.jsonl").read_text()


def test_strangers_are_refused_and_several_may_be_named(node: Running) -> None:
    assert node.push(pictures(50), title="STRANGER") == []
    assert node.push(pictures(50), title="OTHER", called="ELSE") == []
    assert node.deliveries(50) == []
    assert node.push(pictures(50, 1), title="OTHER") == [SUCCESS]


def test_the_pacs_is_away_and_comes_back(node: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salus.client.serving.studies.FIRST_WAIT_S", 0.0)
    node.pacs.away = True
    node.push(pictures(60))
    wait_until(lambda: any(one.tries > 1 for one in node.deliveries(60)), "the second attempt")
    assert [(one.state, one.reason) for one in node.deliveries(60)] == [("sending", "pacs")]
    node.pacs.away = False
    node.wait(60, "sent")
    assert len(results(node, 60)) == 4


def test_a_study_that_ends_the_process_again_and_again_is_left_alone(
    package: Path, predicting: Predicting, tmp_path: Path
) -> None:
    folder = tmp_path / "node"
    received(folder, 1, 2).change(1, begun=3, state="predicting")
    with running(serving_of(folder, predicting, Pacs())) as found:
        (first,), (second,) = found.wait(1, "failed"), found.wait(2, "sent")
        words = ("serve", "start", folder, package, "--pacs", "dicom://PACS@127.0.0.1:9", "--once")
        busy = salus(*words)
        assert busy.returncode == 11
        assert "already running" in busy.stderr
        taken = ("--sender", "MODALITY", "--listen", f"SALUS@127.0.0.1:{found.daemon.port}")
        other = salus("serve", "start", tmp_path / "other", *words[3:-1], *taken)
        assert other.returncode == 11
        assert "--listen" in other.stderr
    assert (first.reason, second.objects) == ("process-ended", 4)
    assert (folder / "spool" / "00000001").exists()


def test_once_works_on_what_waits_and_says_how_it_ended(package: Path, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    studies = received(folder, 1)
    away = salus("serve", "start", folder, package, "--pacs", "dicom://PACS@127.0.0.1:9", "--once")
    assert away.returncode == 31, away.stderr
    assert "cannot be reached" in away.stderr
    assert [study.state for study in studies.listed()] == ["sending"]


def test_mistakes_are_named_before_anything_is_received(package: Path, tmp_path: Path) -> None:
    good = ("--pacs", "dicom://PACS@127.0.0.1:9")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("x")
    for words, code, text in (
        ((tmp_path / "other", package, *good), 11, "holds no queue"),
        ((tmp_path / "node", tmp_path / "none.zip", *good), 11, "none.zip"),
        ((tmp_path / "node", package, "--pacs", "https://pacs.example/dicom-web"), 11, "--sender"),
        ((tmp_path / "node", package, "--pacs", "nonsense"), 11, "PACS"),
        ((tmp_path / "node", package, *good, "--listen", "SALUS@0.0.0.0:11112"), 11, "unencrypted"),
        ((tmp_path / "node", package, "--pacs", "dicom://PACS@10.0.0.7:104"), 11, "unencrypted"),
        ((tmp_path / "node", package, *good, "--sender", "no title"), 11, "senders"),
        ((tmp_path / "node", package, *good, "--quiet-s", "nan"), 11, "bounds"),
    ):
        result = salus("serve", "start", *words)
        assert result.returncode == code, (words, result.stderr)
        assert text in result.stderr, result.stderr
    assert not (tmp_path / "node").exists()
    assert salus("serve", "status", tmp_path / "other").returncode == 11
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["x"]
