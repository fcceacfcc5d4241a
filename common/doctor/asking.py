"""Asks the coordinator the question of `common/probe.py`, with this site's own certificate and node key.

A connection of its own: the daemon's is not touched, and the node is not activated, so a running job is not disturbed.
"""

import ssl
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime

import httpx
from cryptography.hazmat.primitives.asymmetric import ec

from salus.common.clock import Clock
from salus.common.doctor.route import RouteError, within
from salus.common.errors import WireError
from salus.common.link_signature import NODE, fingerprint, sign_request
from salus.common.probe import (
    MAX_PADDING,
    MAX_PROBE_BYTES,
    PROBE,
    ProbeAnswer,
    ProbeRequest,
    pack_probe,
    read_probe_answer,
)
from salus.common.versions import OLDEST_HEADER, OLDEST_PROTOCOL, PROTOCOL, PROTOCOL_HEADER

CALL_TIMEOUT_S = 30.0  # of silence, and of a small question
LONGEST_CALL_S = 120.0  # 4 MiB at 35 KiB/s
TRIPS = 5
SIZES = (64 * 2**10, 512 * 2**10, MAX_PADDING)
LONG_ENOUGH_S = 0.5  # a transfer that took this long is measured well enough


@dataclass(frozen=True)
class Answered:
    """One answer.

    Args:
        status: of HTTP.
        headers: names in small letters.
        before, after: monotonic seconds before and after the call.
        at: this machine's time in the middle of the call.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    before: float
    after: float
    at: datetime

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.after - self.before

    def said(self) -> ProbeAnswer | None:
        """Return the answer to the probe, or None if it was not understood."""
        try:
            return read_probe_answer(self.body) if self.status == 200 else None
        except WireError:
            return None

    def offset_s(self) -> float | None:
        """Return by how many seconds the coordinator's clock is ahead of this one; to the second if the probe was refused."""
        said = self.said()
        try:
            theirs = datetime.fromisoformat(said.time) if said else parsedate_to_datetime(self.headers.get("date", ""))
            return (theirs - self.at).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None


class Asker:
    """One connection for the questions of `salus doctor`; closes itself as a context manager.

    Args:
        tls: context with the consortium's authority and this site's certificate.
        key: this site's node key.
    """

    def __init__(self, url: str, tls: ssl.SSLContext, key: ec.EllipticCurvePrivateKey, clock: Clock) -> None:
        headers = {
            NODE: fingerprint(key.public_key()),
            "accept-encoding": "identity",
            PROTOCOL_HEADER: str(PROTOCOL),
            OLDEST_HEADER: str(OLDEST_PROTOCOL),
        }
        self._url, self._key, self._clock = url.rstrip("/"), key, clock
        self._client = httpx.Client(verify=tls, timeout=CALL_TIMEOUT_S, follow_redirects=False, headers=headers)

    def __enter__(self) -> "Asker":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, send_bytes: int = 0, answer_bytes: int = 0) -> Answered:
        """Ask once; raises httpx.HTTPError or OSError if there is no answer, WireError if it is too large or too slow."""
        longest = LONGEST_CALL_S if send_bytes or answer_bytes else CALL_TIMEOUT_S
        try:
            return within(longest, lambda: self._ask(send_bytes, answer_bytes), "too-slow")
        except RouteError:
            raise _unlike() from None

    def _ask(self, send_bytes: int, answer_bytes: int) -> Answered:
        body = pack_probe(ProbeRequest(answer_bytes=answer_bytes), send_bytes)
        begun, before = self._clock.now(), self._clock.monotonic_s()
        headers = sign_request(self._key, "POST", PROBE, body, begun)
        got = bytearray()
        with self._client.stream("POST", self._url + PROBE, content=body, headers=headers) as response:
            for part in response.iter_raw():
                got += part
                if len(got) > MAX_PROBE_BYTES:
                    raise _unlike()
            known = {name.lower(): value for name, value in response.headers.items()}
            status = response.status_code
        after, ended = self._clock.monotonic_s(), self._clock.now()
        return Answered(status, known, bytes(got), before, after, begun + (ended - begun) / 2)

    def round_trip_s(self) -> float:
        """Return the median time of a small question on an open connection."""
        return statistics.median(self.ask().seconds for _ in range(TRIPS))

    def bytes_per_s(self, *, up: bool, round_trip_s: float) -> float | None:
        """Return the throughput towards the coordinator (`up`) or from it; None if it answers no more questions now."""
        rate = None
        for size in SIZES:
            answered = self.ask(send_bytes=size) if up else self.ask(answer_bytes=size)
            if answered.status != 200:
                return rate
            rate = size / max(answered.seconds - round_trip_s, 1e-6)
            if answered.seconds >= LONG_ENOUGH_S:
                break
        return rate


def _unlike() -> WireError:
    return WireError(
        "The answer is larger, or comes more slowly, than asked for.", remedy="See the coordinator's version."
    )
