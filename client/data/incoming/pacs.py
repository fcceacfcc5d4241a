"""Import from a PACS over DICOMweb: QIDO-RS finds studies, WADO-RS fetches them; objects go to the importer unparsed.

The server is not trusted: UIDs are checked before they become part of a URL, sizes are limited while reading, and
redirects are not followed. A study that fails is retried, then counted.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, TypeVar

import httpx
from pydantic import Field

from salus.client.data.dicom.messages import MAX_FILE_BYTES
from salus.client.data.incoming.importing import Incoming, Progress
from salus.common.errors import ConfigError, DataError, LinkError, UnreadableImage
from salus.common.strict import Strict

UID = re.compile(r"^[0-9][0-9.]{0,63}$")
STUDY_UID, SERIES_UID, INSTANCE_UID = "0020000D", "0020000E", "00080018"
T = TypeVar("T")
PAGE = 100
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

    def __enter__(self) -> "DicomWeb":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def studies(self) -> list[str]:
        """Return the UIDs of all studies that the query finds.

        Raises:
            LinkError: the server cannot be reached, refuses access, or sends an unexpected answer.
        """
        found: list[str] = []
        while True:
            page = self._list("/studies", {**self._options.query, "limit": str(PAGE), "offset": str(len(found))})
            new = {uid: None for uid in (_value(row, STUDY_UID) for row in page) if uid and uid not in found}
            found.extend(new)
            if len(page) < PAGE or not new:
                return found

    def incoming(
        self, progress: Progress, tell: Callable[[int, int], None] = lambda done, of: None
    ) -> Iterator[Incoming]:
        """Yield every object of every unfinished study; a study that fails counts as one refused file.

        Args:
            tell: called with the number of finished studies and the total.
        """
        studies = self.studies()
        for done, study in enumerate(studies):
            tell(done, len(studies))
            if progress.finished(study):
                continue
            try:
                instances = self._instances(study)
            except LinkError:
                yield Incoming("", UnreadableImage("pacs", "the PACS did not list its objects"), study)
                continue
            whole = True
            for series, instance in instances:
                path = f"/studies/{study}/series/{series}/instances/{instance}"
                try:
                    yield Incoming(instance, tried(lambda path=path: self._object(path), self._sleep), study)  # type: ignore[misc]
                except UnreadableImage as problem:
                    yield Incoming(instance, problem, study)
                except LinkError:
                    whole = False
                    yield Incoming(instance, UnreadableImage("pacs", "the PACS did not send an object"), study)
            if whole:
                progress.finish(study)
        tell(len(studies), len(studies))

    def _instances(self, study: str) -> list[tuple[str, str]]:
        rows: list[Mapping[str, object]] = []
        while True:
            page = self._list(f"/studies/{study}/instances", {"limit": str(PAGE), "offset": str(len(rows))})
            fresh = [row for row in page if row not in rows]
            rows.extend(fresh)
            if len(page) < PAGE or not fresh:
                found = [(_value(row, SERIES_UID), _value(row, INSTANCE_UID)) for row in rows]
                return [pair for pair in found if all(pair)]

    def _list(self, path: str, query: Mapping[str, str]) -> list[Mapping[str, object]]:
        def once() -> list[Mapping[str, object]]:
            try:
                data = self._get(path, "application/dicom+json", MAX_LIST_BYTES, query)
            except UnreadableImage:
                raise LinkError(
                    "The PACS answered the query with too many entries.", remedy="Narrow --query."
                ) from None
            if not data:
                return []
            try:
                rows = httpx.Response(200, content=data).json()
            except (ValueError, RecursionError):
                rows = None
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise LinkError(
                    "The PACS answered the query with something other than a list.", remedy="Check its URL."
                )
            return rows

        return tried(once, self._sleep)

    def _object(self, path: str) -> bytes:
        data = self._get(path, 'multipart/related; type="application/dicom"; transfer-syntax=*', MAX_FILE_BYTES, {})
        return first_part(data)

    def _get(self, path: str, accept: str, most: int, query: Mapping[str, str]) -> bytes:
        self._sleep(1.0 / self._options.requests_per_s)
        try:
            url, headers = self._options.url.rstrip("/") + path, {"Accept": accept, "Accept-Encoding": "identity"}
            with self._client.stream("GET", url, params=dict(query), headers=headers) as response:
                if response.status_code == 204:
                    return b""
                if response.status_code != 200:
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
                return _limited(response, most)
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


def _value(row: Mapping[str, object], tag: str) -> str:
    """Return a UID of a DICOM JSON row, or an empty string if there is no valid one."""
    element = row.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    value = values[0] if isinstance(values, list) and values else ""
    return value if isinstance(value, str) and UID.match(value) else ""


def first_part(data: bytes) -> bytes:
    """Return the body of the first part of a multipart answer (RFC 2046); the boundary is its own first line.

    Raises:
        UnreadableImage: it is not a multipart answer.
    """
    start = data.find(b"--")
    line_end = data.find(b"\r\n", start)
    boundary = data[start:line_end]
    body = data.find(b"\r\n\r\n", line_end)
    end = data.find(b"\r\n" + boundary, body + 4)
    if start < 0 or line_end < 0 or body < 0 or end < 0 or not 2 < len(boundary) <= 200:
        raise UnreadableImage("pacs", "the PACS sent no multipart object")
    return data[body + 4 : end]


def parse_query(text: str) -> dict[str, str]:
    """Return ``{"Modality": "CT"}`` of ``Modality=CT,StudyDate=20200101-``; raises DataError for anything else."""
    pairs = [part.split("=", 1) for part in text.split(",") if part.strip()]
    if any(len(pair) != 2 or not re.fullmatch(r"[A-Za-z0-9]{1,64}", pair[0].strip()) for pair in pairs):
        raise DataError("Expected a query like Modality=CT,StudyDate=20200101-20201231.", remedy="Correct --query.")
    return {name.strip(): value.strip() for name, value in pairs}
