"""What the site adds to Flower's HTTP client: its signature over each request, and limits on each response.

Part of the link (`client/link.py`). A coordinator could send a compressed response that expands to fill the hospital's memory, an
endless one, or a redirect to another machine; all of these are refused.
"""

from collections.abc import Iterator

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from salus.common.clock import Clock
from salus.common.errors import LinkError
from salus.common.link_signature import sign_request
from salus.common.versions import PROTOCOL_HEADER, check_protocol

MAX_RESPONSE_BYTES = 8 * 2**20  # Flower cuts arrays into chunks of 5 MiB


class BodySignatureInterceptor:
    """Signs method, path, time and body of each request with the site's node key."""

    def __init__(self, node_key: ec.EllipticCurvePrivateKey, clock: Clock) -> None:
        self._key = node_key
        self._clock = clock

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the headers and send the request."""
        request = context.request
        request.headers.update(
            sign_request(self._key, request.method, request.url.path, request.content, self._clock.now())
        )
        return call_next(context)


class _Bounded(httpx.SyncByteStream):
    """A response body that raises an error as soon as it exceeds the limit."""

    def __init__(self, inner: httpx.SyncByteStream) -> None:
        self._inner = inner

    def __iter__(self) -> Iterator[bytes]:
        seen = 0
        for part in self._inner:
            seen += len(part)
            if seen > MAX_RESPONSE_BYTES:
                raise _too_large()
            yield part

    def close(self) -> None:
        self._inner.close()


def check_response(response: httpx.Response) -> None:
    """Refuse a response before its body is read; to be called as one of httpx's response hooks.

    Raises:
        LinkError: a coordinator with another version of the protocol, a compressed body, a redirect, or more bytes than a
            response may have.
    """
    if response.is_success or response.status_code == httpx.codes.UPGRADE_REQUIRED:  # not an error page of a proxy
        check_protocol(response.headers.get(PROTOCOL_HEADER, ""), other="the coordinator", me="this site")
    encoding = response.headers.get("content-encoding", "identity")
    length = response.headers.get("content-length", "0")
    if encoding != "identity" or response.has_redirect_location:
        raise LinkError(
            "The coordinator's response is compressed or a redirect, which Salus never sends.",
            remedy="A proxy may be changing the connection: let TLS pass through it untouched.",
        )
    if not length.isdecimal() or len(length) > 9 or int(length) > MAX_RESPONSE_BYTES:
        raise _too_large()
    assert isinstance(response.stream, httpx.SyncByteStream)  # Safe because the client is not asynchronous.
    response.stream = _Bounded(response.stream)


def _too_large() -> LinkError:
    return LinkError(
        f"The coordinator's response is larger than {MAX_RESPONSE_BYTES} bytes.",
        remedy="Both sides must run the same version of Salus.",
    )
