"""Import from a PACS over classic DICOM: C-FIND finds studies, C-MOVE has them sent to our listener."""

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
)

from salus.client.data.incoming.importing import Incoming, Progress
from salus.client.data.incoming.pacs import PAUSE_S, TRIES, tried
from salus.client.data.incoming.receiver import SUCCESS, DimseOptions, Receiver
from salus.client.data.incoming.rows import UID
from salus.common.clock import Clock, SystemClock
from salus.common.errors import ConfigError, LinkError, UnreadableImage

PENDING = (0xFF00, 0xFF01)
MAX_ROWS = 1_000_000
# An archive may load a study from tape, and need not report progress meanwhile.
LONGEST_FIND_S, LONGEST_MOVE_S = 600.0, 7200.0


class DicomNetwork:
    """A PACS that answers C-FIND and C-MOVE."""

    def __init__(self, options: DimseOptions, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._options, self._sleep = options, sleep
        self._identifier = _identifier(options.query)
        options.context(server=False)  # refused before anything is opened

    def incoming(
        self, progress: Progress, tell: Callable[[int, int], None] = lambda done, of: None
    ) -> Iterator[Incoming]:
        """Yield every object of every unfinished study; a study that fails counts as one refused file.

        Args:
            tell: called with the number of finished studies and the total.

        Raises:
            LinkError: the PACS cannot be reached or refuses the query.
            ConfigError: the port cannot be opened, or TLS is missing.
        """
        studies = tried(self.studies, self._sleep)
        with Receiver(self._options) as receiver:
            for done, study in enumerate(studies):
                tell(done, len(studies))
                if progress.finished(study):
                    continue
                whole = yield from self._study(receiver, study)
                if whole:
                    progress.finish(study)
                else:
                    yield Incoming("", UnreadableImage("pacs", "the PACS did not send a complete study"), study)
        tell(len(studies), len(studies))

    def studies(self) -> list[str]:
        """Return the UIDs of all studies that the query finds; errors as in `incoming`."""
        found: dict[str, None] = {}
        with associated(self._options, StudyRootQueryRetrieveInformationModelFind) as association:
            answers = association.send_c_find(self._identifier, StudyRootQueryRetrieveInformationModelFind)
            deadline = time.monotonic() + LONGEST_FIND_S
            for number, (status, row) in enumerate(answers, start=1):
                code = int(status.get("Status", -1)) if status else -1
                if code not in (*PENDING, SUCCESS):
                    raise LinkError(f"The PACS answered the query with status {code:#06x}.", remedy="Check --query.")
                if number > MAX_ROWS or time.monotonic() > deadline:
                    raise LinkError("The PACS answered the query with too many entries.", remedy="Narrow --query.")
                uid = str(row.get("StudyInstanceUID", "")) if row is not None else ""
                if UID.match(uid):
                    found[uid] = None
        return list(found)

    def _study(self, receiver: Receiver, study: str) -> Generator[Incoming, None, bool]:
        """Yield what arrives of one study; returns whether the PACS reports that it sent all of it."""
        for attempt in range(1, TRIES + 1):
            moving = _Move(self, study)
            moving.start()
            arrived = set()
            for name, data in receiver.objects(lambda moving=moving: not moving.is_alive()):  # type: ignore[misc]
                arrived.add(name)
                yield Incoming(name, data, study)
            moving.join()
            # A PACS may report success although it sent nothing, or sent it to another node with our AE title.
            if moving.sent is not None and arrived and len(arrived) >= moving.sent:
                return True
            if attempt < TRIES:
                self._sleep(PAUSE_S * attempt)
        return False

    def move(self, study: str) -> int | None:
        """Have a study sent to us; return how many objects the PACS reports as sent, None if not all of them."""
        wanted = Dataset()
        wanted.QueryRetrieveLevel, wanted.StudyInstanceUID = "STUDY", study
        model = StudyRootQueryRetrieveInformationModelMove
        last, sent = -1, 0
        with associated(self._options, model, silence_s=LONGEST_MOVE_S) as association:
            for status, _ in association.send_c_move(wanted, self._options.title, model):
                last = int(status.get("Status", -1)) if status else -1
                sent = max(sent, int(status.get("NumberOfCompletedSuboperations", 0) or 0) if status else 0)
        return sent if last == SUCCESS else None


@contextlib.contextmanager
def associated(options: DimseOptions, *services: str, silence_s: float = 0.0) -> Iterator[Any]:
    """Give an association with a PACS for these services.

    Args:
        silence_s: how long the PACS may be silent, if that is longer than the options say.

    Raises:
        LinkError: the PACS cannot be reached or rejects this site.
        ConfigError: TLS is missing, or its files cannot be used.
    """
    silence_s = max(silence_s, options.timeout_s)
    entity = AE(ae_title=options.title)
    for service in services:
        entity.add_requested_context(service)
    entity.acse_timeout = entity.connection_timeout = options.timeout_s
    entity.dimse_timeout = entity.network_timeout = silence_s
    context = options.context(server=False)
    association = entity.associate(
        options.host,
        options.port,
        ae_title=options.called,
        tls_args=(context, options.host) if context else None,
    )
    if not association.is_established:
        raise LinkError(
            "The PACS cannot be reached or rejects this site.",
            remedy="Check host, port, both AE titles and the certificates.",
        )
    try:
        yield association
    finally:
        association.release()


class _Move(threading.Thread):
    """A C-MOVE that runs while the objects it requested arrive."""

    def __init__(self, network: DicomNetwork, study: str) -> None:
        super().__init__(daemon=True)
        self._network, self._study = network, study
        self.sent: int | None = None

    def run(self) -> None:
        """Wait for the end of the move."""
        with contextlib.suppress(LinkError):
            self.sent = self._network.move(self._study)


def pushed(
    options: DimseOptions, idle_s: float, tell: Callable[[int], None] = lambda count: None, clock: Clock | None = None
) -> Iterator[Incoming]:
    """Yield what others push, until nothing has arrived for `idle_s` seconds.

    Raises:
        ConfigError: the port cannot be opened, or TLS is missing.
    """
    time_ = clock or SystemClock()
    last = [time_.monotonic_s()]
    with Receiver(options) as receiver:
        for count, (name, data) in enumerate(receiver.objects(lambda: time_.monotonic_s() - last[0] > idle_s), start=1):
            yield Incoming(name, data)
            last[0] = time_.monotonic_s()
            tell(count)


def _identifier(query: Mapping[str, str]) -> Dataset:
    wanted = Dataset()
    wanted.QueryRetrieveLevel, wanted.StudyInstanceUID = "STUDY", ""
    for name, value in query.items():
        try:
            if tag_for_keyword(name) is None:
                raise ValueError
            setattr(wanted, name, value)
        except (ValueError, TypeError):
            raise ConfigError(
                f"Expected DICOM attributes in the query, got {name!r}.",
                remedy="Write for example ModalitiesInStudy=CT,StudyDate=20200101-.",
            ) from None
    return wanted
