"""A listener for classic DICOM: accepts what one PACS or modality sends, object by object.

    PACS or modality ── C-STORE ──> Receiver ── bytes ──> importer ── isolated child ──> store
                     <── success ── after the object was stored or counted, so a crash in between makes the sender try again

Objects are not parsed in this process. AE titles are names and not passwords, so a connection that leaves this machine uses
TLS with certificates on both sides, unless the operator declares the network as trusted.
"""

import contextlib
import logging
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pydicom
import pynetdicom
from pydantic import Field
from pydicom.uid import AllTransferSyntaxes, DeflatedExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer

from salus.client.data.dicom.messages import MAX_FILE_BYTES
from salus.client.data.incoming.pacs import LOOPBACK
from salus.client.data.incoming.rows import UID
from salus.common.errors import ConfigError
from salus.common.strict import Strict

SUCCESS, REFUSED, BUSY = 0x0000, 0x0124, 0xA700
NOT_UNDERSTOOD = 0xC000
CONNECTIONS = 16
SILENCE_S = 30.0  # a sender silent for this long in the middle of a message is gone
MAX_PDU_BYTES = 2**20  # we ask for messages of 16 kB; the first one may list many kinds of objects
WAITING_OBJECTS = 4  # received but not yet stored; the sender waits for its response meanwhile
SYNTAXES = [syntax for syntax in AllTransferSyntaxes if syntax != DeflatedExplicitVRLittleEndian]
Title = Annotated[str, Field(pattern=r"^[A-Z0-9_-]{1,16}$")]
# Their logs contain identifiers from queries, responses and unreadable objects.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
# Validation would quote invalid values, in warnings too.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
pynetdicom._config.LOG_HANDLER_LEVEL = "none"
pynetdicom._config.LOG_REQUEST_IDENTIFIERS = pynetdicom._config.LOG_RESPONSE_IDENTIFIERS = False


class DimseOptions(Strict):
    """How to reach a PACS, and how it reaches this site.

    Args:
        host, port, called: address and AE title of the PACS; for a listener alone, the only AE title that may send.
        title, listen_host, listen_port: our AE title and address; the PACS must have them as a destination.
        query: attributes of the study level and their values, such as ``ModalitiesInStudy`` and ``StudyDate``.
        authority, certificate, key: PEM files for mutual TLS; all or none.
        trusted_network: allow a connection without TLS that leaves this machine.
        senders: AE titles that may send; only `called` may if there are none.
        connections: how many a listener serves at a time.
        most_bytes: of one object.
    """

    called: Title
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 104
    title: Title = "SALUS"
    listen_host: str = "127.0.0.1"
    listen_port: Annotated[int, Field(ge=0, le=65535)] = 11112
    query: Mapping[str, str] = {}
    authority: str = ""
    certificate: str = ""
    key: str = ""
    trusted_network: bool = False
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    senders: Annotated[tuple[Title, ...], Field(max_length=64)] = ()
    connections: Annotated[int, Field(ge=1, le=64)] = CONNECTIONS
    most_bytes: Annotated[int, Field(ge=1, le=MAX_FILE_BYTES)] = MAX_FILE_BYTES

    def context(self, *, server: bool) -> ssl.SSLContext | None:
        """Return the TLS context of one side, or None without TLS.

        Raises:
            ConfigError: files that are missing or are not certificates, or no TLS where it is needed.
        """
        named = [self.authority, self.certificate, self.key]
        if not any(named):
            if not self.trusted_network and (self.host not in LOOPBACK or self.listen_host not in LOOPBACK):
                raise ConfigError(
                    "Expected TLS files for a PACS on another machine: images would cross the network unencrypted.",
                    remedy="Give --authority, --certificate and --key, or --trusted-network if the network itself is secured.",
                )
            return None
        if not all(named):
            raise ConfigError("Expected --authority, --certificate and --key together.", remedy="Give all three.")
        try:
            purpose = ssl.Purpose.CLIENT_AUTH if server else ssl.Purpose.SERVER_AUTH
            context = ssl.create_default_context(purpose, cafile=self.authority)
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError):
            raise ConfigError(
                f"Cannot use {Path(self.certificate).name!r} and its key or authority.", remedy="Check the PEM files."
            ) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        return context


@dataclass
class _Arrived:
    """An object that waits to be stored, and the response to its sender."""

    name: str
    data: bytes
    stored: threading.Event = field(default_factory=threading.Event)


class _Server(ThreadedAssociationServer):
    """Does the TLS handshake in each caller's own thread and with a time limit, so that a silent caller blocks nobody.

    Attributes:
        unfinished: connections in their handshake.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.unfinished: set[ssl.SSLSocket] = set()
        super().__init__(*arguments, **named)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept a connection; nothing is read from it here."""
        assert self.socket is not None  # Safe because it is bound when it serves.
        client, address = self.socket.accept()
        client.settimeout(SILENCE_S)
        if self.ssl_context is not None:
            client = self.ssl_context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        return client, address

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Do the handshake, then serve; a caller without a trusted certificate is rejected."""
        try:
            if isinstance(request, ssl.SSLSocket):
                self.unfinished.add(request)
                request.do_handshake()
        except OSError:
            self.shutdown_request(request)
            return
        finally:
            self.unfinished.discard(request)
        super().process_request_thread(request, client_address)


def _bounded(event: Any) -> None:
    """Refuse messages that declare more bytes than allowed, before they are read."""
    channel = event.assoc.dul.socket
    receive = channel.recv

    def bounded(count: int) -> bytearray:
        if count > MAX_PDU_BYTES:
            channel.close()
            return bytearray()
        data: bytearray = receive(count)
        return data

    channel.recv = bounded


class Receiver:
    """Listens for objects from one sender and passes them on one by one."""

    def __init__(self, options: DimseOptions) -> None:
        self._options = options
        self._arrived: queue.Queue[_Arrived] = queue.Queue(WAITING_OBJECTS)
        self._received: dict[int, int] = {}
        self._closed = threading.Event()
        self._server: Any = None

    def __enter__(self) -> "Receiver":
        entity = AE(ae_title=self._options.title)
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(str(context.abstract_syntax), SYNTAXES)
        entity.add_supported_context(Verification)
        entity.require_called_aet = True
        entity.require_calling_aet = list(self._options.senders or (self._options.called,))
        entity.maximum_associations = self._options.connections
        # A connection whose other end is gone without a word is closed after these, and frees its place.
        entity.acse_timeout = min(SILENCE_S, self._options.timeout_s)  # before there is an association
        entity.network_timeout = entity.dimse_timeout = self._options.timeout_s
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_CONN_OPEN, _bounded),
            (evt.EVT_DATA_RECV, self._count),
            (evt.EVT_CONN_CLOSE, self._forget),
        ]
        try:
            self._server = entity.make_server(
                (self._options.listen_host, self._options.listen_port),
                evt_handlers=handlers,
                ssl_context=self._options.context(server=True),
                server_class=_Server,
            )
        except OSError:
            raise ConfigError(
                f"Cannot listen on port {self._options.listen_port}.", remedy="Choose another port: --listen."
            ) from None
        entity._servers.append(self._server)  # as its own `start_server` does
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        for association in self._server.active_associations:
            association.dul.socket.close()  # an open connection must not delay the shutdown
        for unfinished in list(self._server.unfinished):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(unfinished, socket.SHUT_RDWR)  # nor must one that never ends its handshake
        self._server.shutdown()

    @property
    def port(self) -> int:
        """The port that this listener uses."""
        return int(self._server.server_address[1])

    @property
    def connected(self) -> set[int]:
        """A number for each connection that is open."""
        return {id(association) for association in self._server.active_associations}

    @property
    def _most_bytes(self) -> int:
        return min(self._options.most_bytes, MAX_FILE_BYTES)

    def objects(self, until: Callable[[], bool]) -> Iterator[tuple[str, bytes]]:
        """Yield SOP instance UID and bytes of what arrives, until `until` returns true and nothing is waiting.

        The sender gets its response when the caller asks for the next object.
        """
        while True:
            try:
                item = self._arrived.get(timeout=0.05)
            except queue.Empty:
                if until():
                    return
                continue
            yield item.name, item.data
            item.stored.set()

    def _store(self, event: Any) -> int:
        """Answer C-STORE: wait until the object is stored or counted; any other response makes the sender try again."""
        self._received[id(event.assoc)] = 0
        name = str(event.request.AffectedSOPInstanceUID or "")
        if not UID.match(name):
            return REFUSED
        try:
            data = event.encoded_dataset()
            if len(data) > self._most_bytes:
                return REFUSED
        except Exception:  # a malformed header may raise anything; the sender keeps the object
            return REFUSED
        return self.take(name, data, id(event.assoc))

    def take(self, name: str, data: bytes, connection: int) -> int:
        """Return the status of an object that has arrived, in the thread of its connection.

        Args:
            name: its SOPInstanceUID, as its sender says.
            connection: a number for its connection, as in `connected`.
        """
        item = _Arrived(name, data)
        while not self._closed.is_set():
            try:
                self._arrived.put(item, timeout=0.1)
                break
            except queue.Full:
                continue
        while not item.stored.wait(0.1):
            if self._closed.is_set():
                return BUSY
        return SUCCESS

    def _count(self, event: Any) -> None:
        """Close a connection that sends an endless object, before it fills the memory."""
        total = self._received.get(id(event.assoc), 0) + len(event.data)
        self._received[id(event.assoc)] = total
        if total > self._most_bytes:
            event.assoc.dul.socket.close()  # an abort would wait for the end of what is being sent

    def _forget(self, event: Any) -> None:
        self._received.pop(id(event.assoc), None)
