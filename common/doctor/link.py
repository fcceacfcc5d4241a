"""The checks that need an answer of the coordinator: does it know this site, whose clock is wrong, which version, how fast."""

from dataclasses import dataclass

import httpx

from salus.common.doctor.asking import Answered, Asker
from salus.common.doctor.findings import Finding, skipped
from salus.common.errors import LinkError, Outdated, WireError
from salus.common.link_signature import TOLERANCE_S
from salus.common.versions import OLDEST_HEADER, OLDEST_PROTOCOL, PROTOCOL, PROTOCOL_HEADER, check_protocol

CLOCK_NOTICE_S = (
    30.0  # requests are accepted up to `TOLERANCE_S`; a clock that is set by the network is never this far off
)
SLOW_TRIP_S, SLOW_BYTES_S = 1.0, 128 * 2**10
AFTER = ("link", "clock", "protocol", "newest roster", "round trip", "throughput")
LATER = "Not tried: an earlier step failed."


@dataclass(frozen=True)
class Line:
    """How fast the way to the coordinator is.

    Args:
        round_trip_s: of a small question on an open connection.
        up_bytes_s, down_bytes_s: towards the coordinator, and from it; None if not measured.
        protocol: the version that both sides speak.
    """

    round_trip_s: float
    up_bytes_s: float | None
    down_bytes_s: float | None
    protocol: int = PROTOCOL


def no_link() -> list[Finding]:
    """Return the findings where nothing can be asked."""
    return [skipped(check, LATER) for check in AFTER]


def link_checks(asker: Asker, roster: int) -> tuple[list[Finding], Line | None]:
    """Ask the coordinator, and measure the line.

    Args:
        roster: serial of the newest roster that is installed here.
    """
    try:
        answered = asker.ask()
        protocol = _protocol(answered)
        found = [_link(answered), _clock(answered), protocol, _newest(answered, roster)]
        agreed = int(str(protocol.values.get("agreed", OLDEST_PROTOCOL)))
        line = _measure(asker, agreed) if answered.said() is not None else None
    except (httpx.HTTPError, OSError, WireError) as problem:
        text = f"The coordinator's certificate arrives, but it does not answer this site ({type(problem).__name__})."
        remedy = (
            "Ask the coordinator whether this site is on its roster: it cuts off certificates that it does not know. "
            "If it is, this site's certificate may have expired."
        )
        closed = Finding("link", "failed", text, "closed", remedy)
        return [closed, *(skipped(check, LATER) for check in AFTER[1:])], None
    return [*found, *_speed(line)], line


def _link(answered: Answered) -> Finding:
    said, offset = answered.said(), answered.offset_s()
    if said is not None:
        return Finding(
            "link", "ok", f"The coordinator (Salus {said.version}) answers this site.", values={"status": 200}
        )
    values = {"status": answered.status}
    if answered.status == 404:
        text = "The coordinator answers, but its Salus is older and knows no such question."
        remedy = "Nothing to do here. Round trip and throughput cannot be measured until it is upgraded."
        return Finding("link", "notice", text, "older-coordinator", remedy, values=values)
    if answered.status == 401 and offset is not None and abs(offset) > TOLERANCE_S:
        text = "The coordinator refuses this site's requests, because the two clocks differ too much."
        return Finding("link", "failed", text, "clock-wrong", "See the check of the clock.", values=values)
    if answered.status == 401:
        text = "The coordinator does not know this site's node key."
        remedy = "Ask the consortium to issue a roster with this site, and the coordinator to install it."
        return Finding("link", "failed", text, "not-on-roster", remedy, values=values)
    if answered.status == 426:
        return Finding(
            "link", "failed", "The versions do not fit.", "other-protocol", "See the protocol.", values=values
        )
    if answered.status == 429:
        text = "The coordinator answers, but this site has asked too often in the last hour."
        return Finding("link", "notice", text, "not-measured", "Wait an hour.", values=values)
    text = f"Expected an answer of the coordinator, got status {answered.status}, maybe of something on the way."
    return Finding(
        "link", "failed", text, "answer-not-understood", "Ask the coordinator to look at its log.", values=values
    )


def _clock(answered: Answered) -> Finding:
    offset = answered.offset_s()
    if offset is None:
        return skipped("clock", "The answer has no time.")
    values = {"offset_s": round(offset, 3)}
    direction = "behind" if offset > 0 else "ahead of"
    text = f"The clock of this machine is {abs(offset):.1f} s {direction} the coordinator's"
    remedy = "Set the clock of this machine by the network (NTP). If it is right, the coordinator's is wrong: tell it."
    team = "Please let this machine set its clock from a time server (NTP, UDP port 123)."
    if abs(offset) > TOLERANCE_S:
        return Finding(
            "clock", "failed", f"{text}; at most {TOLERANCE_S:.0f} s are accepted.", "clock-wrong", remedy, team, values
        )
    if abs(offset) > CLOCK_NOTICE_S:
        return Finding(
            "clock", "notice", f"{text}; {TOLERANCE_S:.0f} s are accepted.", "clock-off", remedy, team, values
        )
    return Finding("clock", "ok", f"{text}.", values=values)


def _protocol(answered: Answered) -> Finding:
    said = answered.said()
    stated = answered.headers.get(PROTOCOL_HEADER, ""), answered.headers.get(OLDEST_HEADER, "")
    if said is not None:  # the answer's head states the version of its route only
        stated = str(said.protocol), str(said.oldest_protocol)
    try:
        agreed = check_protocol(*stated, other="the coordinator", me="this site")
    except LinkError as problem:
        cause = "older-site" if isinstance(problem, Outdated) else "older-coordinator"
        return Finding("protocol", "failed", problem.problem, cause, problem.remedy)
    text = f"Both sides speak version {agreed} of the protocol."
    return Finding("protocol", "ok", text, values={"agreed": agreed})


def _newest(answered: Answered, roster: int) -> Finding:
    said = answered.said()
    if said is None:
        return skipped("newest roster", "The coordinator did not say which roster it has.")
    values = {"here": roster, "coordinator": said.roster}
    if said.roster > roster:
        text = f"The coordinator has roster {said.roster}, this site has {roster}."
        remedy = "The daemon fetches it while it is connected; otherwise install the newest kit."
        return Finding("newest roster", "notice", text, "older-roster", remedy, values=values)
    if said.roster < roster:
        text = f"The coordinator has roster {said.roster}, this site has the newer {roster}."
        remedy = "Ask the coordinator to install its newest kit."
        return Finding("newest roster", "notice", text, "newer-roster", remedy, values=values)
    return Finding("newest roster", "ok", f"Both sides have roster {roster}.", values=values)


def _measure(asker: Asker, protocol: int) -> Line:
    trip = asker.round_trip_s()
    up, down = (asker.bytes_per_s(up=up, round_trip_s=trip) for up in (True, False))
    return Line(trip, up, down, protocol)


def _speed(line: Line | None) -> list[Finding]:
    if line is None:
        return [
            skipped(check, "The coordinator did not answer the question.") for check in ("round trip", "throughput")
        ]
    slow = line.round_trip_s > SLOW_TRIP_S
    trip = Finding(
        "round trip",
        "notice" if slow else "ok",
        f"A question and its answer take {1000 * line.round_trip_s:.0f} ms.",
        "slow" if slow else "",
        "Rounds will take longer; nothing fails by it." if slow else "",
        values={"round_trip_ms": round(1000 * line.round_trip_s, 1)},
    )
    if line.up_bytes_s is None or line.down_bytes_s is None:
        return [trip, skipped("throughput", "This site has asked too often in the last hour.")]
    slow = min(line.up_bytes_s, line.down_bytes_s) < SLOW_BYTES_S
    rates = f"{line.down_bytes_s / 2**20:.1f} MiB/s from the coordinator, {line.up_bytes_s / 2**20:.1f} MiB/s to it"
    throughput = Finding(
        "throughput",
        "notice" if slow else "ok",
        f"{rates}.",
        "slow" if slow else "",
        "Large models will take long; `salus doctor --job` says how long." if slow else "",
        f"Please check the line of this machine for outgoing transfers: {rates}." if slow else "",
        values={"up_bytes_s": round(line.up_bytes_s), "down_bytes_s": round(line.down_bytes_s)},
    )
    return [trip, throughput]
