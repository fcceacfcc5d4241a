"""Studies go in by C-STORE and results come out, each once, whatever happens in between."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from tests.cli import salus
from tests.client.serving.worlds import CANARY, OPEN, Pacs, Running, pictures, predicting_of, running, saved, serving_of
from tests.packages import export

from salus.client.data.incoming.receiver import SUCCESS, DimseOptions
from salus.client.serving.working import Predicting

# pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def package(plain_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(plain_run, tmp_path_factory.mktemp("serve") / "package")


@pytest.fixture(scope="module")
def predicting(package: Path) -> Predicting:
    return predicting_of(package)


def test_a_study_comes_back_as_predict_would_write_it(package: Path, predicting: Predicting, tmp_path: Path) -> None:
    pacs = Pacs()
    files = pictures(1)
    with running(serving_of(tmp_path / "node", predicting, pacs)) as node:
        assert node.push(files) == [SUCCESS, SUCCESS]
        (study,) = node.wait("sent")
    assert (study.instances, study.objects, study.refused) == (2, 4, {})
    scans = tmp_path / "scans"
    scans.mkdir()
    for number, data in enumerate(files):
        (scans / f"{number}.dcm").write_bytes(data)
    result = salus("predict", package, scans, "--sr", "--output", tmp_path / "out", "--json")
    assert result.returncode == 0, result.stderr
    wanted = sorted(_numbers(dcmread(path)) for path in (tmp_path / "out" / "sr").glob("*.dcm"))
    reports = [found for found in pacs.objects.values() if found.Modality == "SR"]
    assert sorted(map(_numbers, reports)) == wanted
    for found in pacs.objects.values():
        assert found.StudyInstanceUID == "1.2.826.0.1.7778.1"
        assert found.PatientID == f"{CANARY}1"
        assert found.SeriesDescription.startswith("For research use")
        assert found.ContentQualification == "RESEARCH"
    captures = [found for found in pacs.objects.values() if found.Modality == "OT"]
    assert len(captures) == len(reports) == 2
    assert {one.SourceImageSequence[0].ReferencedSOPInstanceUID for one in captures} == {
        f"1.2.826.0.1.7778.1.1.{number}" for number in range(2)
    }
    assert all(one.pixel_array[:40].max() > 200 for one in captures)  # words at the top
    comments = [item.TextValue for one in reports for item in one.ContentSequence if _is_comment(item)]
    assert all("research use only" in text.lower() for text in comments)
    assert len(comments) == 2
    assert not list((tmp_path / "node" / "spool").iterdir())
    assert not list((tmp_path / "node" / "results").iterdir())
    log = (tmp_path / "node" / "events.jsonl").read_text()
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


def test_a_study_that_comes_again_makes_no_second_object(predicting: Predicting, tmp_path: Path) -> None:
    pacs = Pacs()
    with running(serving_of(tmp_path / "node", predicting, pacs)) as node:
        node.push(pictures(1))
        node.wait("sent")
        node.push(pictures(1))
        repeated = node.wait("sent", "sent")[1]
        assert (repeated.reason, len(pacs.sent)) == ("repeated", 4)
        assert salus("serve", "retry", tmp_path / "node", 1).returncode == 0  # sent: its next arrival is new
        node.push(pictures(1))
        node.wait("sent", "sent", "sent")
    assert len(pacs.sent) == 8
    assert len(pacs.objects) == 4


def test_what_is_no_image_or_our_own_is_taken_and_not_kept(predicting: Predicting, tmp_path: Path) -> None:
    own, none = dcmread_bytes(pictures(2)[0]), dcmread_bytes(pictures(3)[0])
    own.Manufacturer = "Salus"
    del none.PixelData
    with running(serving_of(tmp_path / "node", predicting, Pacs())) as node:
        assert node.push([saved(own), saved(none)]) == [SUCCESS, SUCCESS]
        assert node.states() == []
        assert node.studies.counts() == {"no-image": 1, "own-result": 1}


def dcmread_bytes(data: bytes) -> object:
    import io

    return dcmread(io.BytesIO(data))


def test_a_study_that_cannot_be_predicted_on_costs_only_itself(predicting: Predicting, tmp_path: Path) -> None:
    pacs = Pacs()
    mixed = [*pictures(5, 1), *pictures(5, 2, PhotometricInterpretation="NONSENSE")[1:]]
    with running(serving_of(tmp_path / "node", predicting, pacs)) as node:
        node.push(pictures(4, PhotometricInterpretation="NONSENSE"))
        node.wait("failed")
        node.push(mixed)
        node.push(pictures(6))
        failed, partly, whole = node.wait("failed", "sent", "sent")
        assert failed.reason
        assert sum(partly.refused.values()) == 1
        assert (partly.objects, whole.objects) == (2, 4)
        listed = salus("serve", "status", tmp_path / "node", "--json", "--uids")
        assert listed.returncode == 20
        values = json.loads(listed.stdout)
        assert values["running"] is True
        assert [one["study_uid"][-1] for one in values["studies"]] == ["6", "5", "4"]
        assert values["studies"][2]["files"] is True
        assert "7778" not in salus("serve", "status", tmp_path / "node").stdout
        assert salus("serve", "retry", tmp_path / "node", 2).returncode == 0
        assert salus("serve", "retry", tmp_path / "node", 1).returncode == 0
        node.wait("failed", "sent", "sent")
        assert salus("serve", "discard", tmp_path / "node", 1).returncode == 0
        assert salus("serve", "discard", tmp_path / "node", 1).returncode == 11
        assert salus("serve", "discard", tmp_path / "node", 9).returncode == 11
        assert salus("serve", "status", tmp_path / "node").returncode == 0
    assert not list((tmp_path / "node" / "spool").iterdir())


def test_an_unexpected_error_in_one_study_stops_no_other(
    predicting: Predicting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Predicting.__call__

    def failing(self: Predicting, files: Path, *rest: object) -> dict[str, int]:
        if files.name == "00000001":
            raise KeyError(CANARY)
        return call(self, files, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Predicting, "__call__", failing)
    with running(serving_of(tmp_path / "node", predicting, Pacs())) as node:
        node.push(pictures(1))
        node.wait("failed")
        node.push(pictures(2))
        first, _ = node.wait("failed", "sent")
    assert first.reason == "unexpected-KeyError"
    assert CANARY not in first.detail + (tmp_path / "node" / "events.jsonl").read_text()


def test_strangers_are_refused_and_several_may_be_named(predicting: Predicting, tmp_path: Path) -> None:
    options = DimseOptions(called="ONE", senders=("ONE", "TWO"), listen_port=0)
    with running(serving_of(tmp_path / "node", predicting, Pacs(), listening=options)) as node:
        assert node.push(pictures(1), title="STRANGER") == []
        assert node.push(pictures(1), title="TWO", called="ELSE") == []
        assert node.push(pictures(1), title="TWO") == [SUCCESS, SUCCESS]
        assert node.push(pictures(2), title="ONE") == [SUCCESS, SUCCESS]


def test_the_pacs_is_away_and_comes_back(
    predicting: Predicting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("salus.client.serving.studies.FIRST_WAIT_S", 0.0)
    pacs = Pacs(away=True)
    with running(serving_of(tmp_path / "node", predicting, pacs, keep="a reader study")) as node:
        node.push(pictures(1))
        node.wait("sending")
        while node.studies.listed()[0].tries < 2:
            pass
        assert node.studies.listed()[0].reason == "pacs"
        pacs.away = False
        (study,) = node.wait("sent")
    assert study.kept == "a reader study"
    assert len(list((tmp_path / "node" / "kept" / "00000001").iterdir())) == 2
    assert len(pacs.objects) == 4


def test_once_works_on_what_waits_and_says_how_it_ended(package: Path, predicting: Predicting, tmp_path: Path) -> None:
    bounds = OPEN.model_copy(update={"quiet_s": 3600.0})
    with running(serving_of(tmp_path / "node", predicting, Pacs(), bounds=bounds)) as node:
        node.push(pictures(1))
        busy = salus("serve", "start", tmp_path / "node", package, "--pacs", "dicom://PACS@127.0.0.1:9", "--once")
        assert busy.returncode == 11
        assert "already running" in busy.stderr
    words = ("serve", "start", tmp_path / "node", package, "--pacs", "dicom://PACS@127.0.0.1:9", "--once")
    away = salus(*words)
    assert away.returncode == 31, away.stderr
    assert "cannot be reached" in away.stderr
    assert [study.state for study in Running(tmp_path / "node", None).studies.listed()] == ["sending"]  # type: ignore[arg-type]


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
    assert not np.any([path.name == "studies.sqlite" for path in (tmp_path / "other").iterdir()])
