"""Import from a PACS over DICOMweb: QIDO-RS finds studies, WADO-RS fetches them; objects go to the importer unparsed.

The server is not trusted: UIDs are checked before they become part of a URL, sizes are limited while reading, and
redirects are not followed. A study that fails is retried, then counted.
"""

import logging
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, TypeVar

import httpx
from pydantic import Field

from salus.client.data.dicom.messages import MAX_FILE_BYTES
from salus.client.data.incoming.archive import Problems, Studies, Tell, everything, known
from salus.client.data.incoming.files import Incoming
from salus.client.data.incoming.multipart import objects_in
from salus.client.data.incoming.narrowing import Narrowing
from salus.client.data.incoming.paging import MORE, Listing, Page, whole_list
from salus.client.data.incoming.progress import Progress
from salus.client.data.incoming.query import arguments, fits, loosened
from salus.client.data.incoming.rows import (
    INSTANCE_UID,
    SERIES_UID,
    STUDY_UID,
    count_of,
    key_of,
    series_of_address,
    uid_of,
)
from salus.common.errors import ConfigError, LinkError, UnreadableImage
from salus.common.strict import Strict

T = TypeVar("T")
MAX_LIST_BYTES = 50_000_000
TRIES = 3
PAUSE_S = 1.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# httpx logs every URL, and ours contain study UIDs and the operator's query.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class PacsOptions(Strict):
    """How to reach a PACS.

    Args:
        url: DICOMweb root, such as ``https://pacs.hospital.example/dicom-web``.
        query: QIDO-RS attributes and their values, such as ``Modality`` and ``StudyDate``.
        authority: file of the certificate authority that signed the server's certificate; empty for the system's authorities.
        requests_per_s: at most this many requests per second; clinical work at the PACS comes first.
    """

    url: Annotated[str, Field(pattern=r"^https?://[^\s?#]+$")]
    query: Mapping[str, str] = {}
    authority: str = ""
    requests_per_s: Annotated[float, Field(gt=0)] = 20.0
    timeout_s: Annotated[float, Field(gt=0)] = 60.0


class DicomWeb:
    """A DICOMweb server.

    Args:
        password: for HTTP basic authentication as `user`; empty for none.
        sleep: waits, for the rate limit and between tries.
    """

    def __init__(
        self, options: PacsOptions, *, user: str = "", password: str = "", sleep: Callable[[float], None] = time.sleep
    ) -> None:
        address = httpx.URL(options.url)
        if user and address.scheme == "http" and address.host not in LOOPBACK:
            raise ConfigError(
                "Expected an https URL for a PACS with a password; over http the password could be read in transit.",
                remedy="Use the PACS's TLS port.",
            )
        self._options, self._sleep = options, sleep
        self._client = httpx.Client(
            auth=(user, password) if user else None,
            verify=options.authority or True,
            timeout=options.timeout_s,
            follow_redirects=False,
        )

        self._narrowing = Narrowing(self._listed)

    def __enter__(self) -> "DicomWeb":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def studies(self) -> list[str]:
        """Return the UIDs of all studies that the query finds.

        Raises:
            LinkError: the server cannot be reached, refuses access, or sends an unexpected answer.
        """
        return list(self._studies()[0])

    def _studies(self) -> tuple[Studies, Problems]:
        """Return the studies that the query finds, each with its number of objects if stated, and what is wrong with the list."""
        listing = self._narrowing.studies(self._options.query)
        found = {uid: count_of(row) for row in listing.rows if (uid := uid_of(row, STUDY_UID))}
        problems = [
            UnreadableImage("no-study-uid", "a row of the PACS's list has no valid StudyInstanceUID")
            for row in listing.rows
            if not uid_of(row, STUDY_UID)
        ]
        if not listing.complete:
            problems.append(UnreadableImage("pacs-list", "the PACS does not return its whole list of studies"))
        return found, problems

    def _listed(self, query: Mapping[str, str]) -> Listing:
        """Return the studies that one query finds; some servers find nothing where a character of it is escaped in the URL."""
        listing = whole_list(lambda paging: self._page("/studies", {**query, **paging}), key_of(STUDY_UID))
        loose = {name: loosened(value) for name, value in query.items()}
        if listing.rows or loose == dict(query):
            return listing
        wider = whole_list(lambda paging: self._page("/studies", {**loose, **paging}), key_of(STUDY_UID))
        return replace(wider, rows=[row for row in wider.rows if fits(row, query)])

    def incoming(self, progress: Progress, tell: Tell = lambda done, of: None) -> Iterator[Incoming]:
        """Yield every object that is not stored yet, see `archive.everything`."""

        def fetch(study: str, total: int | None, handled: set[str]) -> Generator[Incoming, None, Problems]:
            return (yield from self._study(study, total, progress, handled))

        yield from everything(self._studies, fetch, progress, tell)

    def _study(
        self, study: str, total: int | None, progress: Progress, handled: set[str]
    ) -> Generator[Incoming, None, Problems]:
        try:
            instances, problems = self._instances(study, total)
        except LinkError:
            return [UnreadableImage("pacs", "the PACS did not list its objects")]
        for series, instance in instances:
            if f"{series}/{instance}" not in handled:
                handled.add(f"{series}/{instance}")
                before = known(progress, study, instance)
                yield from self._fetched(study, series, instance) if before is None else before
        return problems

    def _fetched(self, study: str, series: str, instance: str) -> Iterator[Incoming]:
        path = f"/studies/{study}/series/{series}/instances/{instance}"
        try:
            for data in tried(lambda: self._object(path), self._sleep):
                yield Incoming(instance, data, study)
        except UnreadableImage as problem:
            yield Incoming(instance, problem, study)
        except LinkError:
            yield Incoming(instance, UnreadableImage("pacs", "the PACS did not send an object"), study)

    def _instances(self, study: str, total: int | None) -> tuple[list[tuple[str, str]], Problems]:
        """Return series and instance of a study's objects, and what is wrong with the list."""
        key = key_of(SERIES_UID, INSTANCE_UID)
        listing = whole_list(lambda paging: self._page(f"/studies/{study}/instances", paging), key, total)
        if not listing.complete or (total is not None and len(listing.rows) < total):
            listing = self._metadata(study, listing)
        found, problems = [], []
        for row in listing.rows:
            series, instance = uid_of(row, SERIES_UID) or series_of_address(row), uid_of(row, INSTANCE_UID)
            if series and instance:
                found.append((series, instance))
            else:
                missing = "SOPInstanceUID" if series else "SeriesInstanceUID"
                reason = "no-instance-uid" if series else "no-series-uid"
                problems.append(UnreadableImage(reason, f"a row of the PACS's list has no valid {missing}"))
        if not listing.complete or (total is not None and len(listing.rows) < total):
            problems.append(UnreadableImage("pacs-list", "the PACS does not list all objects of a study"))
        return found, problems

    def _metadata(self, study: str, listing: Listing) -> Listing:
        """Return a study's list from the headers of all its objects: longer, and not cut by servers that limit their lists."""
        try:
            rows = self._page(f"/studies/{study}/metadata", {}).rows
        except LinkError:
            return listing
        by_name = {uid_of(row, INSTANCE_UID): row for row in [*listing.rows, *rows]}
        return Listing(list(by_name.values()), complete=True) if len(by_name) > len(listing.rows) else listing

    def _page(self, path: str, query: Mapping[str, str]) -> Page:
        def once() -> Page:
            try:
                data, headers = self._get(path, "application/dicom+json", MAX_LIST_BYTES, query)
            except UnreadableImage:
                raise LinkError(
                    "The PACS answered the query with too many entries.", remedy="Narrow --query."
                ) from None
            more = any(MORE.search(text) for text in headers.get_list("warning"))
            if not data.strip():
                return Page([], more)
            try:
                rows = httpx.Response(200, content=data).json()
            except (ValueError, RecursionError):
                rows = None
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise LinkError(
                    "The PACS answered the query with something other than a list.", remedy="Check its URL."
                )
            return Page(rows, more)

        return tried(once, self._sleep)

    def _object(self, path: str) -> list[bytes]:
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        data, headers = self._get(path, accept, MAX_FILE_BYTES, {})
        whole = "content-length" in headers or "chunked" in headers.get("transfer-encoding", "").lower()
        return objects_in(data, headers.get("content-type", ""), whole=whole)

    def _get(self, path: str, accept: str, most: int, query: Mapping[str, str]) -> tuple[bytes, httpx.Headers]:
        self._sleep(1.0 / self._options.requests_per_s)
        try:
            url, headers = self._options.url.rstrip("/") + path, {"Accept": accept, "Accept-Encoding": "identity"}
            with self._client.stream("GET", url + arguments(query), headers=headers) as response:
                past_the_end = response.status_code == 404 and query.get("offset", "0") != "0"
                if response.status_code == 204 or past_the_end:
                    return b"", response.headers
                if response.status_code not in (200, 206) or _fraction(response.headers):
                    raise LinkError(
                        f"The PACS answered with status {response.status_code}.",
                        remedy="Check its URL, the user and the user's permissions.",
                    )
                if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
                    # 77 kB of zstd can hold 3.4 GB; DICOM's own compression is what images need.
                    raise LinkError(
                        "The PACS compressed a response although it was asked not to.",
                        remedy="Turn off HTTP compression at the PACS or at the proxy in front of it.",
                    )
                return _limited(response, most), response.headers
        except httpx.HTTPError as problem:
            raise LinkError(
                f"The PACS cannot be reached ({type(problem).__name__}).",
                remedy="Check its URL, certificate and network.",
            ) from None


def tried(action: Callable[[], T], sleep: Callable[[float], None]) -> T:
    """Return what `action` gives, tried a few times with growing pauses; raises its last LinkError."""
    for attempt in range(1, TRIES):
        try:
            return action()
        except LinkError:
            sleep(PAUSE_S * attempt)
    return action()


def _limited(response: httpx.Response, most: int) -> bytes:
    parts, size = [], 0
    for part in response.iter_bytes():  # of an answer without content encoding: nothing is inflated
        size += len(part)
        if size > most:
            raise UnreadableImage("too-large", f"more than {most} bytes")
        parts.append(part)
    return b"".join(parts)


def _fraction(headers: httpx.Headers) -> bool:
    """Return whether an answer is a range of bytes, which was not asked for, and not the whole."""
    found = re.match(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})$", headers.get("content-range", "").strip())
    return "content-range" in headers and not (found and found[1] == "0" and int(found[2]) + 1 == int(found[3]))
