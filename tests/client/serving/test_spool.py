"""What the spool takes, what it refuses and with which status, and what is left of it after the process was killed."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from salus.client.data.dicom.decoder_cleaning import Identity
from salus.client.data.incoming.receiver import BUSY, NOT_UNDERSTOOD, SUCCESS
from salus.client.serving import spool as spool_module
from salus.client.serving.handling import discard, retry
from salus.client.serving.spool import Bounds, Spool
from salus.client.serving.studies import FAILED, RECEIVED, RECEIVING, SENT, Studies
from salus.common.clock import ManualClock
from salus.common.errors import ConfigError, DataError, UnreadableImage

MORNING = datetime(2026, 1, 1, tzinfo=UTC)


class Reader:
    """Reads objects that are written as ``study/object``."""

    def identify(self, data: bytes) -> Identity:
        text = data.decode()
        if text == "crash":
            raise UnreadableImage("crashed", "the decoder died")
        if text == "none":
            raise DataError("The process cannot be started.", remedy="Wait.")
        study, _, name = text.partition("/")
        return Identity(study_uid=study, instance_uid=name, image=name != "1.0", own=name == "2.0")


def opened(folder: Path, clock: ManualClock | None = None, **bounds: float) -> tuple[Studies, Spool]:
    clock = clock or ManualClock(MORNING)
    studies = Studies(folder, clock)
    limits = Bounds(**{"floor_gb": 0.0, "quiet_s": 10.0, **bounds})  # type: ignore[arg-type]
    return studies, Spool(folder, studies, limits, Reader(), clock)  # type: ignore[arg-type]


def push(spool: Spool, study: str, name: str, connection: int = 1) -> int:
    return spool.take(name, f"{study}/{name}".encode(), connection)


def test_a_study_is_whole_when_its_connections_have_ended_and_it_was_quiet(tmp_path: Path) -> None:
    clock = ManualClock(MORNING)
    studies, spool = opened(tmp_path, clock)
    assert [push(spool, "1.2", "1.5", 1), push(spool, "1.2", "1.6", 2)] == [SUCCESS, SUCCESS]
    assert push(spool, "1.3", "1.7", 3) == SUCCESS
    clock.sleep(20)
    assert spool.settle({2}) == 1  # a connection of the first is open
    assert [one.state for one in studies.listed()] == [RECEIVED, RECEIVING]
    push(spool, "1.2", "1.8", 4)
    assert spool.settle(set()) == 1  # not quiet
    push(spool, "1.2", "1.8", 4)  # again, which is one object
    clock.sleep(11)
    assert spool.settle(set()) == 0
    assert [(one.state, one.instances) for one in studies.listed()] == [(RECEIVED, 1), (RECEIVED, 3)]
    assert push(spool, "1.2", "1.9") == SUCCESS  # a late one is a delivery of its own
    assert [one.state for one in studies.listed()] == [RECEIVING, RECEIVED, RECEIVED]


def test_statuses_and_counts(tmp_path: Path) -> None:
    studies, spool = opened(tmp_path)
    assert spool.take("1.5", b"crash", 1) == NOT_UNDERSTOOD
    assert spool.take("1.5", b"none", 1) == BUSY
    assert spool.take("1.5", b"1.2/1.6", 1) == NOT_UNDERSTOOD
    assert [push(spool, "1.2", "1.0"), push(spool, "1.2", "2.0")] == [SUCCESS, SUCCESS]
    assert studies.counts() == {
        "refused: crashed": 1,
        "refused: no-reader": 1,
        "refused: other-identifier": 1,
        "no-image": 1,
        "own-result": 1,
    }
    assert studies.listed() == []


@pytest.mark.parametrize(
    ("bounds", "answers", "reason"),
    [
        ({"floor_gb": 1e6}, [BUSY, BUSY, BUSY], "disk-floor"),
        ({"instances": 2}, [SUCCESS, SUCCESS, BUSY], "too-many-instances"),
        ({"studies": 1}, [SUCCESS, SUCCESS, BUSY], "too-many-studies"),
    ],
)
def test_a_full_spool_is_out_of_resources(
    tmp_path: Path, bounds: dict[str, float], answers: list[int], reason: str
) -> None:
    clock = ManualClock(MORNING)
    studies, spool = opened(tmp_path, clock, **bounds)
    assert [push(spool, *names) for names in (("1.2", "1.5"), ("1.2", "1.6"), ("1.3", "1.7"))] == answers
    assert studies.counts() == {f"refused: {reason}": answers.count(BUSY)}
    spool.settle_all()
    assert push(spool, "1.3", "1.7") == BUSY  # waiting studies count, too
    for one in studies.listed():
        studies.change(one.id, state=SENT, files=False)
        spool.remove(one)
    assert push(spool, "1.3", "1.7") == (BUSY if reason == "disk-floor" else SUCCESS)


def test_a_disk_that_takes_nothing_is_out_of_resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studies, spool = opened(tmp_path)

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool_module, "write_whole", full)
    assert push(spool, "1.2", "1.5") == BUSY
    assert studies.counts() == {"refused: disk": 1}


def test_what_a_killed_process_leaves_is_taken_up(tmp_path: Path) -> None:
    clock = ManualClock(MORNING)
    studies, spool = opened(tmp_path, clock)
    push(spool, "1.2", "1.5")
    push(spool, "1.3", "1.6")
    half = next((tmp_path / "spool" / "00000001").iterdir())
    half.with_name("x.dcm.part").write_bytes(b"half")
    studies.change(2, state=SENT, files=False)  # killed before its files were removed
    (tmp_path / "results" / "00000002-ab").mkdir()
    (tmp_path / "spool" / "somebody").mkdir()
    studies, spool = opened(tmp_path, clock)
    spool.tidy()
    assert sorted(path.name for path in (tmp_path / "spool").iterdir()) == ["00000001", "somebody"]
    assert list((tmp_path / "results").iterdir()) == []
    assert [path.name for path in (tmp_path / "spool" / "00000001").iterdir()] == [half.name]
    assert spool.settle(set()) == 1  # quiet is counted anew
    assert push(spool, "1.2", "1.5") == SUCCESS  # its sender may not have heard of success
    clock.sleep(11)
    spool.settle(set())
    assert [(one.state, one.instances) for one in studies.listed()] == [(SENT, 0), (RECEIVED, 1)]


def test_of_many_failed_studies_the_newest_keep_their_files(tmp_path: Path) -> None:
    studies, spool = opened(tmp_path, failed=2)
    for number in range(1, 5):
        push(spool, f"1.{number}", "1.5")
    spool.settle_all()
    for one in studies.listed():
        studies.change(one.id, state=FAILED, reason="x")
    spool.bound_failed()
    assert [one.files for one in studies.listed()] == [True, True, False, False]
    assert sorted(path.name for path in (tmp_path / "spool").iterdir()) == ["00000003", "00000004"]
    with pytest.raises(ConfigError, match="files are gone"):
        retry(studies, studies.get(1))
    assert retry(studies, studies.get(3)) == "It is tried again."
    with pytest.raises(ConfigError, match="not failed"):
        discard(tmp_path, studies, studies.get(3))
    discard(tmp_path, studies, studies.get(4))
    assert [path.name for path in (tmp_path / "spool").iterdir()] == ["00000003"]


def test_a_study_waits_longer_each_time_and_never_for_ever(tmp_path: Path) -> None:
    clock = ManualClock(MORNING)
    studies, spool = opened(tmp_path, clock)
    push(spool, "1.2", "1.5")
    spool.settle_all()
    waits = []
    for _ in range(12):
        one = studies.next(RECEIVED)
        assert one is not None
        studies.later(one, RECEIVED, "pacs", "away")
        assert studies.next(RECEIVED) is None
        waits.append(studies.get(1).due_at - clock.now().timestamp())
        clock.sleep(waits[-1])
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (5.0, 900.0)
    studies.change(1, due_at=clock.now().timestamp() + 10**6)
    assert studies.next(RECEIVED) is not None  # the clock was set back


def test_old_rows_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salus.client.serving.studies.MOST_DONE", 2)
    studies, _ = opened(tmp_path)
    for number in range(5):
        studies.change(studies.open(f"1.{number}"), state=SENT if number else FAILED, files=not number)
    studies.prune()
    assert sorted(one.id for one in studies.listed()) == [1, 4, 5]


def test_a_study_that_is_tried_again_keeps_no_other_from_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("salus.client.serving.studies.FIRST_WAIT_S", 0.0)
    clock = ManualClock(MORNING)
    studies, spool = opened(tmp_path, clock)
    for number in range(3):
        push(spool, f"1.{number}", "1.5")
        clock.sleep(1)
    spool.settle_all()
    turns = []
    for _ in range(6):
        one = studies.next(RECEIVED)
        assert one is not None
        turns.append(one.id)
        studies.later(one, RECEIVED, "pacs", "away")
        clock.sleep(1)
    assert turns == [1, 2, 3, 1, 2, 3]


def test_a_study_is_whole_although_its_sender_keeps_the_connection_for_others(tmp_path: Path) -> None:
    clock = ManualClock(MORNING)
    studies, spool = opened(tmp_path, clock)
    push(spool, "1.2", "1.5", 1)
    clock.sleep(spool_module.LONGEST_QUIET_S - 1)
    push(spool, "1.3", "1.6", 1)
    assert spool.settle({1}) == 2
    clock.sleep(1)
    assert spool.settle({1}) == 1
    assert [one.state for one in studies.listed()] == [RECEIVING, RECEIVED]


def test_numbers_of_files_that_are_here_are_never_given_again(tmp_path: Path) -> None:
    studies, spool = opened(tmp_path)
    push(spool, "1.2", "1.5")
    push(spool, "1.3", "1.5")
    spool.settle_all()
    for path in tmp_path.glob("studies.sqlite*"):  # lost, or an older copy of it was put back
        path.unlink()
    studies, spool = opened(tmp_path)
    spool.tidy()
    assert push(spool, "1.4", "1.7") == SUCCESS
    assert [(one.id, one.study_uid) for one in studies.listed()] == [(3, "1.4")]
    assert len(list((tmp_path / "spool" / "00000003").iterdir())) == 1


def test_kept_files_are_never_mixed(tmp_path: Path) -> None:
    studies, spool = opened(tmp_path)
    push(spool, "1.2", "1.5")
    (tmp_path / "kept" / "00000001").mkdir(parents=True)
    (tmp_path / "kept" / "00000001" / "x").touch()
    spool.remove(studies.get(1), keep=True)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["00000001", "00000001-1"]


def test_files_are_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "spool").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="link"):
        opened(tmp_path / "node")


def test_only_objects_on_disk_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studies, spool = opened(tmp_path)
    push(spool, "1.2", "1.5")
    with monkeypatch.context() as patch:
        patch.setattr(spool_module, "write_whole", lambda path, data: (_ for _ in ()).throw(OSError(28, "full")))
        assert push(spool, "1.2", "1.6") == BUSY
    push(spool, "1.2", "1.6")
    spool.settle_all()
    assert (studies.get(1).instances, spool.count(studies.get(1))) == (2, 2)
