"""What both versions of the protocol share at the site: signatures of requests, limits on responses, and errors in our words.

Part of the link (`client/link.py`). A coordinator could send a compressed response that expands to fill the hospital's memory, an
endless one, or a redirect to another machine; all of these are refused.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
from cryptography.hazmat.primitives.asymmetric import ec

from salus.common.clock import Clock
from salus.common.errors import LinkError
from salus.common.link_signature import sign_request
from salus.common.versions import OLDEST_HEADER, PROTOCOL_HEADER, check_protocol

if TYPE_CHECKING:
    from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

CALL_TIMEOUT_S = 30.0
MAX_RESPONSE_BYTES = 8 * 2**20  # Flower cuts arrays into chunks of 5 MiB


class BodySignatureInterceptor:
    """Signs method, path, time and body of each request of Flower's client with the site's node key."""

    def __init__(self, node_key: ec.EllipticCurvePrivateKey, clock: Clock) -> None:
        self._key = node_key
        self._clock = clock

    def intercept(self, context: "ProtobufRequestContext", call_next: "ProtobufCall") -> httpx.Response:
        """Add the headers and send the request."""
        request = context.request
        request.headers.update(
            sign_request(self._key, request.method, request.url.path, request.content, self._clock.now())
        )
        return call_next(context)


class _Bounded(httpx.SyncByteStream):
    """A response body that raises an error as soon as it exceeds the limit."""

    def __init__(self, inner: httpx.SyncByteStream, limit: int) -> None:
        self._inner, self._limit = inner, limit

    def __iter__(self) -> Iterator[bytes]:
        seen = 0
        for part in self._inner:
            seen += len(part)
            if seen > self._limit:
                raise _too_large(self._limit)
            yield part

    def close(self) -> None:
        self._inner.close()


class ResponseGuard:
    """Refuses a response before its body is read; one of httpx's response hooks.

    Args:
        limit: largest body in bytes.

    Raises:
        LinkError: a coordinator with another version of the protocol, a compressed body, a redirect, or more bytes than a
            response may have.
    """

    def __init__(self, limit: int = MAX_RESPONSE_BYTES) -> None:
        self.limit = limit

    def __call__(self, response: httpx.Response) -> None:
        stated = response.headers.get(PROTOCOL_HEADER, "")
        if response.is_success or response.status_code == httpx.codes.UPGRADE_REQUIRED:  # not a proxy's error page
            check_protocol(stated, response.headers.get(OLDEST_HEADER, ""), other="the coordinator", me="this site")
        encoding = response.headers.get("content-encoding", "identity")
        length = response.headers.get("content-length", "0")
        if encoding != "identity" or response.has_redirect_location:
            raise LinkError(
                "The coordinator's response is compressed or a redirect, which Salus never sends.",
                remedy="A proxy may be changing the connection: let TLS pass through it untouched.",
            )
        limit = self.limit if response.is_success else MAX_RESPONSE_BYTES
        if not length.isdecimal() or len(length) > 15 or int(length) > limit:
            raise _too_large(limit)
        assert isinstance(response.stream, httpx.SyncByteStream)  # Safe because the client is not asynchronous.
        response.stream = _Bounded(response.stream, limit)


def _too_large(limit: int) -> LinkError:
    return LinkError(
        f"The coordinator's response is larger than {limit} bytes.",
        remedy="Both sides must run versions of Salus that work together; a site's policy may allow larger models.",
    )


class translated:
    """Turns what httpx and Flower raise into a LinkError with a remedy, without their text."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, httpx.HTTPError | RuntimeError | OSError):
            raise translate(error) from None


def translate(error: BaseException) -> LinkError:
    """Return a link failure as an error with our own text."""
    text = str(error)
    if isinstance(error, httpx.HTTPStatusError):
        if error.response.status_code in (401, 403):
            return LinkError(
                "The coordinator refuses this site's node key, or has restarted.",
                remedy="Check that this site is on the coordinator's roster, and that both clocks are right.",
            )
        if error.response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return LinkError("The coordinator is stopping.", remedy="The site connects again when it is started.")
        return LinkError(f"The coordinator answered with status {error.response.status_code}.", remedy="See its log.")
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return LinkError(
            "The coordinator's certificate has expired, is for another host, or is not from the consortium's authority.",
            remedy="Run `salus doctor FOLDER`: it shows who issued the certificate that arrives. If that is your network's "
            "inspection, exempt the coordinator from it; if clock and URL are right otherwise, call the coordinator.",
        )
    if isinstance(error, httpx.ProxyError):
        said = " with status 407: it asks for a user name and password" if text.startswith("407") else ""
        return LinkError(
            f"The proxy does not connect this site to the coordinator{said}.",
            remedy="Correct HTTPS_PROXY (http://user:password@host:port), or ask the network team; see `salus doctor FOLDER`.",
        )
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return LinkError(
            "The coordinator cannot be reached.", remedy="Check the URL, the network and the proxy settings."
        )
    if "alert" in text or isinstance(error, httpx.ReadError | httpx.RemoteProtocolError):
        return LinkError(
            "The coordinator closed the connection.",
            remedy="If this keeps happening, the site's certificate may have expired: ask the consortium for a new kit.",
        )
    return LinkError(f"The connection failed ({type(error).__name__}).", remedy="The site reconnects by itself.")
