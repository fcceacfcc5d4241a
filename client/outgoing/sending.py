"""Sends DICOM objects that Salus wrote to a PACS: C-STORE (PS3.4, B) or STOW-RS (PS3.18, 10.5).

Objects are sent as they are on disk. Their identifiers follow from their content, so sending one twice stores it once.
"""

import io
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pydicom

from salus.client.data.incoming.pacs import LOOPBACK, PacsOptions
from salus.client.data.incoming.receiver import SUCCESS, DimseOptions
from salus.client.data.incoming.requests import associated
from salus.common.errors import ConfigError, DataError, LinkError, storage_error

WARNINGS = range(0xB000, 0xC000)  # stored, with something to remark
FOLDERS = ("seg", "sr", "sc")
MAX_ANSWER_BYTES = 10_000_000
FAILED = "00081198"  # FailedSOPSequence of the answer
Tell = Callable[[int, int], None]


def objects_of(folder: Path) -> list[Path]:
    """Return the DICOM objects of a folder of predictions.

    Raises:
        DataError: there are none.
    """
    found = [path for name in FOLDERS for path in sorted((folder / name).glob("*.dcm")) if path.is_file()]
    if not found:
        raise DataError(
            f"{folder.name!r} holds no DICOM segmentations, reports or pictures.",
            remedy="Write them: salus predict --seg --sr --sc.",
        )
    return found


def store(paths: Sequence[Path], options: DimseOptions, tell: Tell = lambda done, of: None) -> int:
    """Send objects by C-STORE and return how many were stored.

    Raises:
        LinkError: the PACS cannot be reached, or does not store an object; those before it are stored.
        ConfigError: TLS is missing, or its files cannot be used.
    """
    classes = sorted({str(_read(path).SOPClassUID) for path in paths})
    with associated(options, *classes) as association:
        for done, path in enumerate(paths):
            tell(done, len(paths))
            try:
                status = association.send_c_store(_read(path))
            except (ValueError, RuntimeError):  # the PACS takes no objects of this class, or the connection is gone
                raise _not_stored(path, done, "it does not take objects of this kind") from None
            code = int(status.get("Status", -1)) if status else -1
            if code != SUCCESS and code not in WARNINGS:
                raise _not_stored(path, done, f"its status is {code:#06x}" if code >= 0 else "it did not answer")
    tell(len(paths), len(paths))
    return len(paths)


def post(
    paths: Sequence[Path],
    options: PacsOptions,
    *,
    user: str = "",
    password: str = "",
    tell: Tell = lambda done, of: None,
) -> int:
    """Send objects by STOW-RS, one request each, and return how many were stored; errors as in `store`."""
    address = httpx.URL(options.url)
    if address.scheme == "http" and address.host not in LOOPBACK:
        raise ConfigError(
            "Expected an https URL: results of patients would cross the network unencrypted.",
            remedy="Use the PACS's TLS port.",
        )
    client = httpx.Client(
        auth=(user, password) if user else None,
        verify=options.authority or True,
        timeout=options.timeout_s,
        follow_redirects=False,
    )
    with client:
        for done, path in enumerate(paths):
            tell(done, len(paths))
            boundary = secrets.token_hex(16)
            kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
            try:
                content = b"".join(_part(path.read_bytes(), boundary))
                headers = {"Content-Type": kind, "Accept": "application/dicom+json", "Accept-Encoding": "identity"}
                with client.stream(
                    "POST", f"{options.url.rstrip('/')}/studies", content=content, headers=headers
                ) as answer:
                    status, body = answer.status_code, _bounded(answer)
            except httpx.HTTPError as problem:
                raise _not_stored(path, done, f"it cannot be reached ({type(problem).__name__})") from None
            except OSError as problem:
                raise storage_error(problem) or problem from None
            if status not in (200, 202) or _failed(body):
                raise _not_stored(path, done, f"its status is {status}")
    tell(len(paths), len(paths))
    return len(paths)


def _part(data: bytes, boundary: str) -> Iterator[bytes]:
    yield f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    yield data
    yield f"\r\n--{boundary}--\r\n".encode()


def _bounded(answer: httpx.Response) -> bytes:
    body = b""
    for part in answer.iter_raw():  # as it was sent: nothing is inflated
        body += part
        if len(body) > MAX_ANSWER_BYTES:
            raise httpx.ReadError("the answer is too long")
    return body


def _failed(body: bytes) -> bool:
    """Return whether an answer names an object that was not stored; one that is not the expected JSON counts as such."""
    if not body.strip():
        return False
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return True
    element = found.get(FAILED) if isinstance(found, dict) else found
    return bool(element.get("Value") if isinstance(element, dict) else element)


def _read(path: Path) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(io.BytesIO(path.read_bytes()))
    except OSError as problem:
        raise storage_error(problem) or problem from None
    except Exception:  # pydicom raises its own errors, and others, on damaged files
        raise DataError(f"{path.name!r} is damaged.", remedy="Remove it, and run salus predict again.") from None


def _not_stored(path: Path, done: int, why: str) -> LinkError:
    return LinkError(
        f"The PACS did not store {path.name!r}: {why}; {done} objects before it were stored.",
        remedy="Check the address and the permissions at the PACS, then run it again: nothing is stored twice.",
    )
