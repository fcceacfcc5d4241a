"""The ledger as shown to the operator: tables, a plot, and a comparison with what this site has signed."""

import json
from datetime import datetime
from pathlib import Path

from salus.client.ledger.entries import NOTHING, Close, Commit, Entry, Reserve
from salus.client.ledger.store import Budget, Ledger
from salus.common.errors import LedgerError
from salus.privacy.dp.accounting import Release, epsilon
from salus.privacy.protocol.head import Head

WIDTH, HEIGHT, MARGIN = 640, 260, 44


def job_lines(ledger: Ledger) -> list[dict[str, object]]:
    """Return one line per job: name, data set, day, patients, state, epsilon spent and promised, at the job's delta."""
    jobs: dict[str, list[Entry]] = {}
    for entry, _ in ledger.entries():
        jobs.setdefault(entry.job, []).append(entry)
    return [_job_line(entries) for entries in jobs.values()]


def _job_line(entries: list[Entry]) -> dict[str, object]:
    first = entries[0]
    assert isinstance(first, Reserve)  # Safe because a job's first entry is its reservation.
    sent = [entry.release for entry in entries if isinstance(entry, Commit)]
    return {
        "job": first.job,
        "dataset": first.dataset,
        "accepted": first.at[:10],
        "patients": first.patients,
        "state": "closed" if isinstance(entries[-1], Close) else "open",
        "spent_epsilon": round(epsilon(sent, first.delta), 4),
        "promised_epsilon": first.epsilon,
    }


def patient_lines(ledger: Ledger, budget: Budget) -> list[dict[str, object]]:
    """Return one line per group of patients with the same history: how many, jobs, epsilon, what is left."""
    lines: list[dict[str, object]] = []
    for group in ledger.groups(budget):
        spent = group.epsilon(budget.delta)
        lines.append(
            {
                "patients": group.patients,
                "jobs": len(group.jobs),
                "epsilon": round(spent, 4),
                "left": round(max(0.0, budget.epsilon - spent), 4),
            }
        )
    return lines


def spending_plot(ledger: Ledger, budget: Budget) -> str:
    """Return an SVG plot: epsilon, after each job, of a patient that took part in every job, and the budget as a line."""
    points: list[tuple[datetime, float]] = []
    releases: list[Release] = []
    for entry, _ in ledger.entries():
        if isinstance(entry, Commit):
            releases.append(entry.release)
            moment = datetime.fromisoformat(entry.at)
            if points and points[-1][0].date() == moment.date():
                points.pop()  # one point per day is enough for a plot
            points.append((moment, epsilon(releases, budget.delta)))
    top = max([budget.epsilon, *(value for _, value in points)]) * 1.1
    first = points[0][0] if points else datetime.now().astimezone()
    span = max((points[-1][0] - first).total_seconds(), 1.0) if points else 1.0

    def place(moment: datetime, value: float) -> str:
        x = MARGIN + (WIDTH - 2 * MARGIN) * (moment - first).total_seconds() / span
        return f"{x:.1f},{_height(value, top):.1f}"

    steps = " ".join(place(moment, value) for moment, value in [(first, 0.0), *points])
    limit = _height(budget.epsilon, top)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">'
        f'<title>Privacy spent by a patient in every job</title><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
        f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{limit:.1f}" y2="{limit:.1f}" stroke="#b22" stroke-dasharray="5 4"/>'
        f'<text x="{MARGIN}" y="{limit - 6:.1f}" fill="#b22">budget {budget.epsilon:g}</text>'
        f'<polyline points="{steps}" fill="none" stroke="#246" stroke-width="2"/>'
        f'<text x="{MARGIN}" y="{HEIGHT - 12}">{first:%Y-%m-%d}</text>'
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 12}" text-anchor="end">'
        f"{points[-1][0] if points else first:%Y-%m-%d}, epsilon {points[-1][1] if points else 0.0:.2f}</text></svg>"
    )


def _height(value: float, top: float) -> float:
    return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * value / top


def check_signed_heads(ledger: Ledger, transcript: Path, site: int) -> int:
    """Return how many heads this site signed in a transcript, at least one; all of them must be in its ledger.

    Raises:
        LedgerError: a signed head is not in the ledger: it was restored from a backup, or entries were removed. Or the
            file holds none, so that it proves nothing.
    """
    known = {Head(0, NOTHING)} | {Head(n, digest) for n, (_, digest) in enumerate(ledger.entries(), start=1)}
    signed = _signed_heads(transcript, site)
    for head in signed:
        if head not in known:
            raise LedgerError(
                f"This site signed a ledger head of {head.length} entries that this ledger does not contain.",
                remedy="Restore the latest copy of ledger.sqlite; an older one forgets what was spent.",
            )
    if not signed:
        raise LedgerError(
            f"The transcript {transcript.name!r} holds no ledger head that this site signed, so nothing could be compared.",
            remedy="Use the transcript of a job with noise in which this site took part.",
        )
    return len(signed)


def _signed_heads(transcript: Path, site: int) -> list[Head]:
    """Return the heads in a site's consents; raises LedgerError for a file that is not a transcript."""
    heads = []
    try:
        for line in transcript.read_bytes().splitlines():
            entry = json.loads(line)
            if entry.get("kind") == "consent" and entry.get("site") == site and "ledger" in entry:
                data = bytes.fromhex(entry["ledger"])
                heads.append(Head(int.from_bytes(data[:8], "big"), data[8:40]))
    except FileNotFoundError:
        raise LedgerError(
            f"Expected a transcript at {transcript.name!r}, found nothing.", remedy="Check the path."
        ) from None
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise LedgerError(
            f"The file {transcript.name!r} is not a transcript.", remedy="Ask the coordinator for the job's transcript."
        ) from None
    return heads
