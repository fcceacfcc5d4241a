"""Lists in pages: nothing is missed and nothing loops, whatever rules a server has for its pages."""

import dataclasses
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salus.client.data.incoming.paging import MORE, PAGE, Listing, Page, Row, whole_list
from salus.common.errors import LinkError


@dataclasses.dataclass
class Server:
    """A server with a list of rows and its own idea of pages."""

    rows: list[Row]
    cap: int = 10**6
    keeps_offset: bool = True
    keeps_limit: bool = True
    warns: bool = False
    strict: bool = False
    requests: int = 0

    def __call__(self, paging: Mapping[str, str]) -> Page:
        self.requests += 1
        limit = int(paging.get("limit", 10**6))
        if self.strict and limit > 1000:
            raise LinkError("The limit is too large.", remedy="Ask for fewer.")
        offset = int(paging.get("offset", 0)) if self.keeps_offset else 0
        most = min(self.cap, limit if self.keeps_limit else 10**6)
        page = self.rows[offset : offset + most]
        return Page(page, more=self.warns and offset + len(page) < len(self.rows))


def named(count: int) -> list[Row]:
    return [{"uid": f"1.2.{number}"} for number in range(count)]


def listed(server: Server, total: int | None = None) -> Listing:
    return whole_list(server, lambda row: row.get("uid"), total)  # type: ignore[arg-type,return-value]


@given(
    count=st.integers(0, 450),
    cap=st.sampled_from([1, 2, 7, 20, 99, 100, 101, 10**6]),
    repeated=st.integers(1, 3),
    keeps_offset=st.booleans(),
    keeps_limit=st.booleans(),
    warns=st.booleans(),
    strict=st.booleans(),
    stated=st.booleans(),
)
def test_a_list_is_whole_or_is_not_called_whole(
    count: int,
    cap: int,
    repeated: int,
    keeps_offset: bool,
    keeps_limit: bool,
    warns: bool,
    strict: bool,
    stated: bool,
) -> None:
    """The one server that nobody can see through: it ignores every parameter, cuts its list and does not say so."""
    rows = [row for row in named(count) for _ in range(repeated)]
    server = Server(rows, cap, keeps_offset, keeps_limit, warns, strict)
    found = listed(server, count if stated else None)
    silent = not keeps_offset and not warns and not stated and cap < len(rows)
    undetectable = silent and (not keeps_limit or len(found.rows) < 2 or cap < len(found.rows))
    if found.complete and not undetectable:
        assert found.rows == named(count)
    if keeps_offset:
        assert found == Listing(named(count), complete=True)
    assert [row["uid"] for row in found.rows] == [row["uid"] for row in named(len(found.rows))]
    assert server.requests <= len(rows) + 8


@pytest.mark.parametrize("cap", [1, 7, 20, 100])
def test_a_page_shorter_than_our_limit_is_not_the_end(cap: int) -> None:
    assert len(listed(Server(named(250), cap)).rows) == 250


def test_a_server_without_pages_sends_everything_once() -> None:
    server = Server(named(250), keeps_offset=False, keeps_limit=False)
    assert listed(server) == Listing(named(250), complete=True)
    assert server.requests < 10


def test_a_server_that_only_ignores_offset_is_asked_for_everything_at_once() -> None:
    server = Server(named(250), keeps_offset=False)
    assert len(listed(server).rows) == 250
    assert not listed(server).complete  # it does not say whether there are more, so nobody knows
    assert listed(Server(named(250), keeps_offset=False, warns=True)) == Listing(named(250), complete=True)


@pytest.mark.parametrize("changes", [{"warns": True}, {}])
def test_a_server_that_ignores_offset_and_cuts_its_list_is_told_from_a_whole_one(changes: dict[str, bool]) -> None:
    found = listed(Server(named(30), cap=20, keeps_offset=False, **changes))
    assert (len(found.rows), found.complete) == (20, False)
    assert not listed(Server(named(30), cap=20, keeps_offset=False, keeps_limit=False), total=30).complete


def test_more_rows_that_never_come_are_noticed() -> None:
    assert not whole_list(lambda paging: Page([], more=True), lambda row: None).complete


def test_an_endless_list_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salus.client.data.incoming.paging.MAX_ROWS", 5 * PAGE)
    with pytest.raises(LinkError, match="too many"):
        whole_list(lambda paging: Page([{"uid": f"1.{paging['offset']}"}] * PAGE), lambda row: row.get("uid"))  # type: ignore[arg-type,return-value]


def test_rows_without_an_identifier_are_each_counted() -> None:
    server = Server([{"other": 1}, {"uid": "1.2"}, {"other": 1}, {}])
    assert len(listed(server).rows) == 4


def test_where_the_server_states_the_same_number_no_empty_page_is_asked_for() -> None:
    server = Server(named(3))
    assert listed(server, 3).complete
    assert server.requests == 1
    assert len(listed(Server(named(5), cap=3), 4).rows) == 5  # the number was too small


def test_only_warnings_about_more_rows_count() -> None:
    assert MORE.search('299 - "there are more results"')
    assert MORE.search("299 pacs: There are 40 additional results that can be requested")
    assert not MORE.search(
        "299 pacs: The fuzzymatching parameter is not supported. Only literal matching has been performed."
    )
