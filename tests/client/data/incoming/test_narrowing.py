"""Servers that cut every list in silence: the rest is found by narrower queries, or the list is called incomplete."""

import dataclasses
import fnmatch
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salus.client.data.incoming.narrowing import Narrowing
from salus.client.data.incoming.paging import Listing, Row


@dataclasses.dataclass
class Server:
    """Gives out at most `cap` studies of each query, and nothing more on any page.

    Args:
        studies: identifier of the patient and date of each.
        knows: the attributes that a query may restrict.
    """

    studies: list[tuple[str, str]]
    cap: int
    knows: frozenset[str] = frozenset({"PatientID", "StudyDate"})
    exact: bool = True
    queries: int = 0

    def __call__(self, query: Mapping[str, str]) -> Listing:
        self.queries += 1
        return Listing(
            [self.row(n) for n in range(len(self.studies)) if self._fits(n, query)][: self.cap], complete=True
        )

    def row(self, number: int) -> Row:
        patient, date = self.studies[number]
        return {
            "0020000D": {"Value": [f"1.2.{number}"]},
            "00100020": {"Value": [patient]},
            "00080020": {"Value": [date]},
        }

    def _fits(self, number: int, query: Mapping[str, str]) -> bool:
        patient, date = self.studies[number]
        wanted = query.get("PatientID", "*") if "PatientID" in self.knows else "*"
        fold = str if self.exact else str.casefold
        first, _, last = (query.get("StudyDate", "-") if "StudyDate" in self.knows else "-").partition("-")
        return fnmatch.fnmatchcase(fold(patient), fold(wanted)) and first <= date <= (last or "9")


patients = st.text("P01a-", min_size=1, max_size=5)
dates = st.sampled_from(["20200101", "20200102", "20210505", "20231231"])


@settings(max_examples=60)
@given(
    studies=st.lists(st.tuples(patients, dates), max_size=40, unique_by=lambda study: study[0].casefold()),
    cap=st.integers(2, 12),
    exact=st.booleans(),
)
def test_a_list_that_is_called_whole_is_whole(studies: list[tuple[str, str]], cap: int, exact: bool) -> None:
    """With one study of each patient; several of one patient and day look alike to every query."""
    server = Server(studies, cap, exact=exact)
    found = Narrowing(server).studies({})
    if found.complete:
        assert len(found.rows) == len(studies)
    assert server.queries < 30_000


@pytest.mark.parametrize("cap", [2, 8, 21])
@pytest.mark.parametrize("date", [0, 1])
def test_everything_is_found_behind_a_silent_cap(cap: int, date: int) -> None:
    studies = [(f"P{number}", f"2020010{1 + date * (number % 5)}") for number in range(60)]
    found = Narrowing(Server(studies, cap)).studies({})
    assert found.complete
    assert len(found.rows) == 60


def test_a_patient_with_more_studies_than_the_cap_is_read_by_date_or_called_incomplete() -> None:
    several = [("P1", f"202001{day:02}") for day in range(1, 21)]
    assert Narrowing(Server([*several, ("Q", "20200101")], 3)).studies({}).complete
    same = [*several, *[("P2", "20200101")] * 9]
    assert not Narrowing(Server(same, 3)).studies({}).complete


def test_a_server_that_does_not_cut_is_asked_little_and_once() -> None:
    server = Server([(f"P{number}", f"202001{1 + number % 28:02}") for number in range(50)], 10**6)
    narrowing = Narrowing(server)
    assert len(narrowing.studies({}).rows) == 50
    assert server.queries == 3  # the whole and two halves
    narrowing.studies({})
    assert server.queries == 4


def test_a_server_that_knows_no_such_attribute_is_left_in_peace() -> None:
    server = Server([(f"P{number}", "20200101") for number in range(50)], 10**6, knows=frozenset())
    assert Narrowing(server).studies({}).complete
    assert server.queries == 3
    named = Server([("P1", "20200101")] * 3, 10**6)
    assert len(Narrowing(named).studies({"PatientID": "P1", "StudyDate": "20200101"}).rows) == 3
    assert named.queries == 1  # nothing is left to narrow
