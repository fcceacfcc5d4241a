"""The node's connections to peers that are gone without a word, as behind a firewall that forgot them: no FIN, no RST."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pynetdicom import AE, Association, evt
from pynetdicom.sop_class import CTImageStorage  # type: ignore[attr-defined]
from tests.client.data.incoming.test_dimse import send, study, write_tls
from tests.processes import wait_until

from salus.client.data.incoming import receiver as receiver_module
from salus.client.data.incoming.receiver import SUCCESS, DimseOptions
from salus.client.serving.node import Node

LIMIT_S = 1.0
HALF = b"\x00\x00\x01\x00half of a message"  # the rest of a head that announces 256 bytes, and too few of them
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def request_of_association() -> bytes:
    """Return the bytes with which a modality asks for an association."""
    sent: list[bytes] = []
    entity = AE(ae_title="MODALITY")
    entity.add_requested_context(CTImageStorage)
    with Node(DimseOptions(called="MODALITY", listen_port=0), lambda *_: SUCCESS) as node:
        handlers = [(evt.EVT_DATA_SENT, lambda event: sent.append(event.data))]
        entity.associate("127.0.0.1", node.port, ae_title="SALUS", evt_handlers=handlers).release()  # type: ignore[arg-type]
    return sent[0]


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node with room for one connection."""
    monkeypatch.setattr(receiver_module, "SILENCE_S", LIMIT_S)
    options = DimseOptions(called="MODALITY", listen_port=0, timeout_s=LIMIT_S, connections=1)
    with Node(options, lambda *_: SUCCESS) as node:
        yield node


@pytest.mark.parametrize("until", ["connected", "half a request", "associated", "half an object"])
def test_a_half_open_connection_frees_its_place_after_the_limit(
    node: Node, request_of_association: bytes, until: str
) -> None:
    with closing(socket.create_connection(("127.0.0.1", node.port))) as silent:
        if until == "half a request":
            silent.sendall(b"\x01\x00" + HALF)
        if until in ("associated", "half an object"):
            silent.sendall(request_of_association)
            assert silent.recv(1) == b"\x02", "accepted"
        if until == "half an object":
            silent.sendall(b"\x04\x00" + HALF)
        held: list[Association] = []
        wait_until(lambda: bool(held.extend(node._server.active_associations) or held), "the connection")
        limits = {held[0].acse_timeout, held[0].network_timeout, held[0].dimse_timeout}
        assert limits == {LIMIT_S}, "our limits, not the library's"
        wait_until(lambda: not node.connected, "its end")
        assert send(node.port, study(1, 1)) == [SUCCESS]


def test_a_handshake_that_never_ends_does_not_hold_up_the_end_of_the_node_or_its_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver_module, "SILENCE_S", 3600.0)
    tls = write_tls(tmp_path / "tls")
    names = {"authority": str(tls / "root.crt"), "certificate": str(tls / "site.crt"), "key": str(tls / "site.key")}
    node = Node(DimseOptions(called="MODALITY", listen_port=0, **names), lambda *_: SUCCESS)  # type: ignore[arg-type]
    node.__enter__()
    with closing(socket.create_connection(("127.0.0.1", node.port))):
        wait_until(lambda: bool(node._server.unfinished), "the handshake")
        ending = threading.Thread(target=node.__exit__, args=(None, None, None), daemon=True)
        ending.start()
        ending.join(60)
        assert not ending.is_alive()
        again = DimseOptions(called="MODALITY", listen_port=node.port)
        with Node(again, lambda *_: SUCCESS):
            assert send(again.listen_port, study(1, 1)) == [SUCCESS], "while the silent peer still has its end"
