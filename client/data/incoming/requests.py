"""The requests that a PACS answers over classic DICOM: associations, queries (C-FIND), and the report of a transfer (C-MOVE)."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from salus.client.data.incoming.receiver import SUCCESS, DimseOptions
from salus.client.data.incoming.rows import UID
from salus.common.errors import LinkError

PENDING = (0xFF00, 0xFF01)
CUT = (0xFE00, 0xA700)  # cancelled, which we never ask for, or out of resources: how a PACS ends a list that it limits
MAX_ROWS = 1_000_000
LONGEST_FIND_S = 600.0  # an archive may load a study from tape


class CutListError(LinkError):
    """A query whose list ended before all rows were returned."""


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


def rows_of(association: Any, wanted: Dataset) -> Iterator[Dataset]:
    """Yield the rows that a query finds; raises LinkError if the PACS refuses it, cuts or never ends it."""
    deadline = time.monotonic() + LONGEST_FIND_S
    answers = association.send_c_find(wanted, StudyRootQueryRetrieveInformationModelFind)
    for number, (status, row) in enumerate(answers, start=1):
        code = int(status.get("Status", -1)) if status else -1
        if code in CUT:
            raise CutListError(
                "The PACS returned only part of its list.", remedy="Narrow --query, or raise the PACS's limit."
            )
        if code not in (*PENDING, SUCCESS):
            raise LinkError(f"The PACS answered the query with status {code:#06x}.", remedy="Check --query.")
        if number > MAX_ROWS or time.monotonic() > deadline:
            raise LinkError("The PACS answered the query with too many entries.", remedy="Narrow --query.")
        if row is not None:
            yield row


def uids_of(association: Any, keyword: str, **names: str) -> set[str]:
    """Return the UIDs that a query for this keyword finds; errors as in `rows_of`."""
    wanted = Dataset()
    for name, value in {**names, keyword: ""}.items():
        setattr(wanted, name, value)
    found = (str(row.get(keyword, "") or "") for row in rows_of(association, wanted))
    return {uid for uid in found if UID.match(uid)}


def number_of(value: object) -> int | None:
    """Return a count of a response, or None if it is missing or not a count."""
    text = str(value if value is not None else "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


@dataclass(frozen=True)
class Moved:
    """What a PACS reports of a C-MOVE (PS3.4, C.4.2).

    Args:
        status: the last one; negative without any.
        sent, failed: sub-operations.
        named: the objects that could not be sent, as far as the PACS names them.
    """

    status: int = -1
    sent: int = 0
    failed: int = 0
    named: frozenset[str] = frozenset()

    def after(self, status: Dataset | None, identifier: Dataset | None) -> "Moved":
        """Return this with another response."""
        if not status:
            return replace(self, status=-1)
        sent, failed = (number_of(status.get(f"NumberOf{name}Suboperations")) or 0 for name in ("Completed", "Failed"))
        uids = identifier.get("FailedSOPInstanceUIDList") if identifier is not None else None
        named = {str(uid) for uid in ([uids] if isinstance(uids, str) else uids or ())}
        return Moved(
            int(status.get("Status", -1)),
            max(self.sent, sent),
            max(self.failed, failed),
            self.named | {uid for uid in named if UID.match(uid)},
        )

    def missing(self, arrived: set[str]) -> set[str]:
        """Return what did not come, by UID where the PACS names it and by number where it only counts.

        A PACS may report success although it sent nothing, or sent it to another node with our AE title.
        """
        named = self.named - arrived
        failed = max(self.failed - len(self.named & arrived), len(named))
        lost = max(self.sent - len(arrived), 0)
        if failed + lost == 0 and (self.status != SUCCESS or not arrived):
            lost = 1
        return set(named) | {f"unnamed {number}" for number in range(failed - len(named) + lost)}
