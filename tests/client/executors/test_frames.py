"""What crosses between a site's two processes is bounded, in whatever pieces it arrives."""

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salus.client.executors.channels import Ended, FolderChannel, SocketChannel
from salus.client.executors.frames import EVENT_BYTES, HEAD, REPLY, SMALL, TO_DAEMON, TO_WORKER, Frame
from salus.common.errors import WireError


@given(
    frames=st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=300)), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 50), min_size=1, max_size=20),
)
def test_frames_arrive_whole_and_in_order_however_they_are_cut(
    frames: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    ours, theirs = socket.socketpair()
    channel = SocketChannel(theirs, TO_DAEMON)
    sent = [Frame(REPLY, header, body) for header, body in frames]
    stream = b"".join(frame.head + frame.header + frame.body for frame in sent)
    came: list[Frame] = []
    at = turn = 0
    while at < len(stream):
        ours.sendall(stream[at : at + cuts[turn % len(cuts)]])
        at, turn = at + cuts[turn % len(cuts)], turn + 1
        while (frame := channel.receive(0.0)) is not None:
            came.append(frame)
    assert came == sent
    ours.close()
    with pytest.raises(Ended):
        channel.receive(0.0)
    channel.close()


BAD = [
    HEAD.pack(b"?", 0, 0),
    HEAD.pack(b"q", 0, 0),  # a request, which only the daemon sends
    HEAD.pack(b"e", EVENT_BYTES + 1, 0),
    HEAD.pack(b"e", 1, 1),
    HEAD.pack(b"p", SMALL + 1, 0),
    HEAD.pack(b"r", 2**32 - 1, 0),
    HEAD.pack(b"r", 0, 2**63),
]


@pytest.mark.parametrize("head", BAD)
def test_what_is_unknown_or_too_long_is_refused_before_it_is_read(head: bytes, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    channel = SocketChannel(theirs, TO_DAEMON)
    ours.sendall(head)
    with pytest.raises(WireError):
        channel.receive(0.0)
    ours.close()
    channel.close()
    (tmp_path / "000000001.frame").write_bytes(head)
    with pytest.raises(WireError):
        FolderChannel(tmp_path, tmp_path, TO_DAEMON).receive(0.0)


def test_a_file_that_is_longer_than_it_says_is_refused(tmp_path: Path) -> None:
    (tmp_path / "000000001.frame").write_bytes(HEAD.pack(b"r", 1, 1) + b"abc")
    with pytest.raises(WireError):
        FolderChannel(tmp_path, tmp_path, TO_DAEMON).receive(0.0)


def test_files_are_frames_in_order_and_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    here = FolderChannel(tmp_path / "out", tmp_path / "in", TO_DAEMON)
    there = FolderChannel(tmp_path / "in", tmp_path / "out", TO_WORKER)
    assert here.receive(0.0) is None
    for number in range(3):
        there.send(Frame(REPLY, b"{}", bytes([number])))
    assert [here.receive(0.0) for _ in range(3)] == [Frame(REPLY, b"{}", bytes([number])) for number in range(3)]
    assert here.receive(0.0) is None
    assert list((tmp_path / "in").iterdir()) == []
