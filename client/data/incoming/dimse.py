"""Import from a PACS over classic DICOM: C-FIND finds studies, C-MOVE has them sent to our listener."""

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
)

from salus.client.data.incoming.archive import Problems, Studies, Tell, everything, known
from salus.client.data.incoming.files import Incoming
from salus.client.data.incoming.pacs import PAUSE_S, TRIES, tried
from salus.client.data.incoming.progress import Progress
from salus.client.data.incoming.receiver import DimseOptions, Receiver
from salus.client.data.incoming.requests import CutListError, Moved, associated, number_of, rows_of, uids_of
from salus.client.data.incoming.rows import UID
from salus.common.clock import Clock, SystemClock
from salus.common.errors import ConfigError, LinkError, UnreadableImage

SERIES_UID, OBJECT_UID, OBJECTS = "SeriesInstanceUID", "SOPInstanceUID", "NumberOfStudyRelatedInstances"
LONGEST_MOVE_S = 7200.0  # an archive may load a study from tape, and need not report progress meanwhile


class DicomNetwork:
    """A PACS that answers C-FIND and C-MOVE."""

    def __init__(self, options: DimseOptions, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._options, self._sleep = options, sleep
        self._identifier = _identifier(options.query)
        options.context(server=False)  # refused before anything is opened

    def incoming(self, progress: Progress, tell: Tell = lambda done, of: None) -> Iterator[Incoming]:
        """Yield every object that is not stored yet, see `archive.everything`.

        Raises:
            LinkError: the PACS cannot be reached or refuses the query.
            ConfigError: the port cannot be opened, or TLS is missing.
        """
        studies = [tried(self.studies, self._sleep)]  # before the port is opened
        with Receiver(self._options) as receiver:

            def listed() -> tuple[Studies, Problems]:
                return studies.pop() if studies else tried(self.studies, self._sleep)

            def fetch(study: str, total: int | None, handled: set[str]) -> Generator[Incoming, None, Problems]:
                return (yield from self._study(receiver, study, progress, handled))

            yield from everything(listed, fetch, progress, tell)

    def studies(self) -> tuple[Studies, Problems]:
        """Return all studies that the query finds, with their numbers of objects, and what is wrong with the list."""
        found: Studies = {}
        problems: Problems = []
        with associated(self._options, StudyRootQueryRetrieveInformationModelFind) as association:
            try:
                for row in rows_of(association, self._identifier):
                    uid = str(row.get("StudyInstanceUID", "") or "")
                    if UID.match(uid):
                        found[uid] = number_of(row.get(OBJECTS))
                    else:
                        text = "a row of the PACS's list has no valid StudyInstanceUID"
                        problems.append(UnreadableImage("no-study-uid", text))
            except CutListError:
                problems.append(UnreadableImage("pacs-list", "the PACS does not return its whole list of studies"))
        return found, problems

    def objects(self, study: str) -> set[str] | None:
        """Return the UIDs of a study's objects; None if the PACS answers no queries about series and images."""
        try:
            with associated(self._options, StudyRootQueryRetrieveInformationModelFind) as association:
                series = uids_of(association, SERIES_UID, QueryRetrieveLevel="SERIES", StudyInstanceUID=study)
                found: set[str] = set()
                for one in series:
                    names = {"StudyInstanceUID": study, "SeriesInstanceUID": one}
                    found |= uids_of(association, OBJECT_UID, QueryRetrieveLevel="IMAGE", **names)
        except (LinkError, RuntimeError, ValueError):
            return None
        return found or None

    def _study(
        self, receiver: Receiver, study: str, progress: Progress, handled: set[str]
    ) -> Generator[Incoming, None, Problems]:
        """Yield what is new in a study; what the PACS lists and does not send is named object by object."""
        listed = self.objects(study)
        for name in sorted((listed or set()) - handled):
            if (before := known(progress, study, name)) is not None:
                handled.add(name)
                yield from before
        if listed is not None and listed <= handled:
            return []
        for attempt in range(1, TRIES + 1):
            moving = _Move(self, study)
            moving.start()
            arrived: set[str] = set()
            for name, data in receiver.objects(lambda moving=moving: not moving.is_alive()):  # type: ignore[misc]
                arrived.add(name)
                if name not in handled:
                    handled.add(name)
                    before = known(progress, study, name)
                    yield from [Incoming(name, data, study, prompt=True)] if before is None else before
            moving.join()
            missing = listed - handled if listed is not None else moving.moved.missing(arrived)
            if not missing:
                return []
            if attempt < TRIES:
                self._sleep(PAUSE_S * attempt)
        handled |= missing
        for name in sorted(missing):
            text = "the PACS did not send an object" if UID.match(name) else "the PACS did not send a complete study"
            yield Incoming(name if UID.match(name) else "", UnreadableImage("pacs", text), study)
        return []

    def move(self, study: str) -> Moved:
        """Have a study sent to us; return what the PACS reports."""
        wanted = Dataset()
        wanted.QueryRetrieveLevel, wanted.StudyInstanceUID = "STUDY", study
        model = StudyRootQueryRetrieveInformationModelMove
        moved = Moved()
        with associated(self._options, model, silence_s=LONGEST_MOVE_S) as association:
            for status, identifier in association.send_c_move(wanted, self._options.title, model):
                moved = moved.after(status, identifier)
        return moved


class _Move(threading.Thread):
    """A C-MOVE that runs while the objects it requested arrive."""

    def __init__(self, network: DicomNetwork, study: str) -> None:
        super().__init__(daemon=True)
        self._network, self._study = network, study
        self.moved = Moved()

    def run(self) -> None:
        """Wait for the end of the move."""
        with contextlib.suppress(LinkError):
            self.moved = self._network.move(self._study)


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
            yield Incoming(name, data, prompt=True)
            last[0] = time_.monotonic_s()
            tell(count)


def _identifier(query: Mapping[str, str]) -> Dataset:
    wanted = Dataset()
    wanted.QueryRetrieveLevel, wanted.StudyInstanceUID = "STUDY", ""
    setattr(wanted, OBJECTS, None)  # asked for; a PACS need not know it
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
