"""Lists of a server that cuts every list at its own limit and says nothing: found out, and read in narrower parts.

Orthanc's DICOMweb plug-in with ``LimitFindResults`` applies `offset` to the list that is cut already, so that the rest cannot be
reached on any page. Whether a list is cut shows when narrower queries find studies that the wide one did not: two halves by date,
or by the start of the patient's identifier where all dates are equal. Then the list is read by identifiers, longer and longer,
until each part is shorter than the limit. A study without an identifier cannot be found in this way, and cannot be used either.
Not found out: a cut within studies that all have one patient and one date.
"""

import datetime
import string
from collections.abc import Callable, Mapping

from salus.client.data.incoming.paging import Listing, Row
from salus.client.data.incoming.rows import STUDY_UID, text_of, uid_of

PATIENT, DATE = "00100020", "00080020"
LETTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
FIRST = LETTERS + "".join(c for c in string.punctuation if c not in "*?\\,=&#%+")  # without wildcards and separators
MAX_PARTS = 20_000
DEEPEST = 12  # characters that all known identifiers have in common
Query = Mapping[str, str]
Ask = Callable[[Query], Listing]


class Narrowing:
    """Reads whole lists of studies; remembers whether this server cuts them."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._cuts: bool | None = None

    def studies(self, query: Query) -> Listing:
        """Return all studies that a query finds, as far as the server lets them be found.

        Raises:
            LinkError: the server cannot be reached, or sends an unexpected answer.
        """
        first = self._ask(query)
        found = {_key(row): row for row in first.rows}
        if self._cuts is None:
            self._cuts = bool(first.rows) and self._is_cut(query, first.rows, found)
        if not self._cuts:
            return first
        whole = self._in_parts(query, len(first.rows), found)
        return Listing(list(found.values()), complete=whole)

    def _is_cut(self, query: Query, rows: list[Row], found: dict[str, Row]) -> bool:
        everything, whole = set(found), [""]
        # Those that all known identifiers begin with, and each character that may follow: otherwise one part is the whole again.
        begins = _begin([text_of(row, PATIENT) for row in rows])
        by_patient = [part for end in range(len(begins) + 1) for part in _prefixes(query, begins[:end], FIRST)]
        for part in _halves(query, rows) or by_patient:
            listed = {_key(row): row for row in self._ask(part).rows}
            if not set(listed) <= everything:
                found.update(listed)
                return True
            if set(listed) == everything:
                asked = (part.get("PatientID", "") + part.get("StudyDate", "")).rstrip("*").casefold()
                if not asked.startswith(whole[-1]):
                    return (
                        False  # all are in two parts that exclude each other: this server does not know the attribute
                    )
                whole.append(asked)
        return False

    def _in_parts(self, query: Query, limit: int, found: dict[str, Row]) -> bool:
        """Add what narrower queries find; return whether every part was shorter than the limit."""
        whole, asked = True, 0
        split: dict[str, set[str]] = {}
        parts = _prefixes(query, "", FIRST) or _halves(query, list(found.values()))
        while parts and asked < MAX_PARTS:
            part = parts.pop()
            listing = self._ask(part)
            asked += 1
            names = {_key(row): row for row in listing.rows}
            found.update(names)
            folded = f"{part.get('PatientID', '')} {part.get('StudyDate', '')}".casefold()
            if split.get(folded) == set(names):
                continue  # many servers ignore case, and this part was split already
            if len(listing.rows) >= limit or not listing.complete:
                split[folded] = set(names)
                deeper = _longer(part) or _halves(part, listing.rows)
                whole = whole and bool(deeper)
                parts += deeper
        return whole and not parts


def _key(row: Row) -> str:
    return uid_of(row, STUDY_UID) or repr(sorted(row.items(), key=str))


def _begin(texts: list[str]) -> str:
    """Return what several identifiers begin with, at most `DEEPEST` characters."""
    shortest = min(texts, default="")[:DEEPEST] if len(texts) > 1 else ""
    same = (end for end in range(len(shortest), 0, -1) if all(text.startswith(shortest[:end]) for text in texts))
    return shortest[: next(same, 0)]


def _prefixes(query: Query, begins: str, characters: str) -> list[Query]:
    """Return the parts of a query by one character of the patient's identifier; none if the query names the patient."""
    if "PatientID" in query or PATIENT in query or set(begins) & set("*?\\"):
        return []
    return [{**query, "PatientID": f"{begins}{c}*"} for c in characters]


def _longer(part: Query) -> list[Query]:
    """Return the parts of a part by one character more, and the identifier that ends here."""
    prefix = part.get("PatientID", "")
    if not prefix.endswith("*") or len(prefix) > 64:
        return []
    return [{**part, "PatientID": prefix[:-1]}, *({**part, "PatientID": f"{prefix[:-1]}{c}*"} for c in FIRST + " ")]


def _halves(query: Query, rows: list[Row]) -> list[Query]:
    """Return two parts of a query by date, each with rows that are known; none where all rows have one date."""
    dates = sorted({date for row in rows if (date := _date(text_of(row, DATE))) is not None})
    first, _, last = query.get("StudyDate", "-").partition("-")
    if len(dates) < 2 or DATE in query or ("StudyDate" in query and "-" not in query["StudyDate"]):
        return []
    middle = dates[(len(dates) - 1) // 2]
    after = middle + datetime.timedelta(days=1)
    return [{**query, "StudyDate": f"{first}-{middle:%Y%m%d}"}, {**query, "StudyDate": f"{after:%Y%m%d}-{last}"}]


def _date(text: str) -> datetime.date | None:
    try:
        return datetime.datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None
