"""Several children and several files per exchange: the same results in the same order, and one bad file costs itself."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.client.data.dicom.test_deidentify import SECRET, image
from tests.client.data.incoming.test_importing import file_bytes, hostile

from salus.client.data.dicom import channel
from salus.client.data.dicom.cleaning import Isolated
from salus.client.data.dicom.deidentify import Clean
from salus.client.data.dicom.isolation import Child
from salus.client.data.incoming import pipeline
from salus.client.data.incoming.files import Incoming
from salus.client.data.incoming.pipeline import Pipeline, started
from salus.common.errors import UnreadableImage


class Echo:
    """Stands for a child: names each object after its file's content, and refuses what begins with an exclamation mark."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self._busy = threading.Lock()

    def clean_many(self, files: Sequence[bytes]) -> list[Clean | UnreadableImage]:
        assert self._busy.acquire(blocking=False)  # one group at a time
        try:
            self.groups.append(len(files))
            return [
                UnreadableImage("damaged", "x") if data[:1] == b"!" else Clean(data, data.hex(), "p", "s", "GE")
                for data in files
            ]
        finally:
            self._busy.release()


def outcomes(children: Sequence[object], files: list[Incoming]) -> Iterator[list[tuple[str, str]]]:
    for batch in Pipeline(children).batches(iter(files)):  # type: ignore[arg-type]
        yield [(item.name, found.name if isinstance(found, Clean) else found.reason) for item, found in batch]


@given(
    kinds=st.lists(st.sampled_from(["good", "large", "bad", "unread"]), max_size=80),
    children=st.integers(1, 4),
    prompt=st.booleans(),
)
def test_every_file_comes_out_once_and_in_order(kinds: list[str], children: int, prompt: bool) -> None:
    made = {
        "good": lambda n: b"%d" % n,
        "large": lambda n: b"%d" % n + bytes(400),
        "bad": lambda n: b"!%d" % n,
        "unread": lambda n: UnreadableImage("pacs", "x"),
    }
    files = [Incoming(f"{n}", made[kind](n), prompt=prompt) for n, kind in enumerate(kinds)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline, "GROUP_BYTES", 1000)
        patched.setattr(pipeline, "BATCH_FILES", 10)
        found = list(outcomes([Echo() for _ in range(children)], files))
    expected = {"bad": "damaged", "unread": "pacs"}
    flat = [pair for batch in found for pair in batch]
    assert [name for name, _ in flat] == [item.name for item in files]
    for (_, outcome), item, kind in zip(flat, files, kinds, strict=True):
        assert outcome == (expected.get(kind) or (item.data.hex() if isinstance(item.data, bytes) else ""))
    if prompt:
        assert all(len(batch) == 1 for batch in found)


def test_a_sender_that_waits_is_answered_before_the_next_file_is_asked_for() -> None:
    stored: list[str] = []

    def files() -> Iterator[Incoming]:
        for number in range(3):
            assert len(stored) == number
            yield Incoming(f"{number}", b"x", prompt=True)

    for batch in Pipeline([Echo()]).batches(files()):  # type: ignore[list-item]
        stored += [item.name for item, _ in batch]
    assert stored == ["0", "1", "2"]


def test_files_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "WAITING_BYTES", 5000)
    monkeypatch.setattr(pipeline, "BATCH_BYTES", 5000)
    taken = 0
    most = 0

    def files() -> Iterator[Incoming]:
        nonlocal taken, most
        for number in range(200):
            taken += 1000
            most = max(most, taken)
            yield Incoming(f"{number}", bytes(1000))

    monkeypatch.setattr(pipeline, "GROUP_BYTES", 1000)
    for batch in Pipeline([Echo(), Echo()]).batches(files()):  # type: ignore[list-item]
        taken -= 1000 * len(batch)
    assert taken == 0
    assert most <= 13_000


def test_together_is_as_alone(tmp_path: object) -> None:
    """Hostile files between good ones: each has the result that it has by itself."""
    files = [
        file_bytes(image(PatientID="P1", InstanceNumber=1)),
        *hostile().values(),
        file_bytes(image(PatientID="P2")),
    ]
    with Isolated(SECRET) as child:
        alone = [child.clean_many([data])[0] for data in files]
        together = child.clean_many(files)
    for one, other in zip(alone, together, strict=True):
        if isinstance(one, Clean):
            assert isinstance(other, Clean)
            assert (one.name, one.data, one.patient, one.counts) == (
                other.name,
                other.data,
                other.patient,
                other.counts,
            )
        else:
            assert isinstance(other, UnreadableImage)
            assert (one.reason, one.detail) == (other.reason, other.detail)


@pytest.mark.parametrize("signal_", [signal.SIGSTOP, signal.SIGKILL])
def test_a_child_that_hangs_or_dies_with_a_group_costs_no_file(signal_: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "PATIENCE", 1.0)
    files = [file_bytes(image(PatientID=f"P{number}")) for number in range(3)]
    with Isolated(SECRET, seconds=0.5) as child:
        assert all(isinstance(found, Clean) for found in child.clean_many(files))
        os.kill(child.process_id, signal_)
        assert all(isinstance(found, Clean) for found in child.clean_many(files))


def test_a_file_that_kills_the_child_costs_itself_only(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [file_bytes(image(PatientID=f"P{number}")) for number in range(3)]
    ask = Child.ask

    def killing(self: Child, name: str, kind: object, argument: str = "", data: bytes = b"", **more: object) -> object:
        if files[1] in data:
            os.kill(self.process_id, signal.SIGKILL)
        return ask(self, name, kind, argument, data, **more)  # type: ignore[arg-type]

    with Isolated(SECRET) as child:
        monkeypatch.setattr(Child, "ask", killing)
        found = child.clean_many(files)
    assert [item.reason if isinstance(item, UnreadableImage) else "" for item in found] == ["", "crashed", ""]


def test_the_first_child_is_there_before_any_file_and_all_are_gone_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "children_at_once", lambda: 3)
    with started(lambda: Isolated(SECRET)) as children:
        assert [bool(child.process_id) for child in children] == [True, False, False]
        children[2].clean_many([file_bytes(image(PatientID="P1"))])
        assert children[2].process_id
    assert not any(child.process_id for child in children)
