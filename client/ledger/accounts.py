"""What the entries of one job add up to: what was reserved, what was sent, and what is left."""

from collections.abc import Sequence

from salus.client.ledger.entries import Close, Commit, Entry, Reserve
from salus.privacy.dp.accounting import Release, merged


def last_sent_of(entries: Sequence[Entry]) -> Entry:
    """Return the newest commit of a job, or its reservation if there is none."""
    return next((entry for entry in reversed(entries) if isinstance(entry, Commit)), entries[0])


def finished_of(entries: Sequence[Entry]) -> bool:
    """Return whether an open job has sent everything in its plan."""
    first = entries[0]
    assert isinstance(first, Reserve)  # Safe because nothing else can begin a job's entries.
    evaluated = (
        len({release.sampling_rate for release in first.releases}) > 1
    )  # training samples patients, evaluation does not
    last = first.rounds + (1 if evaluated else 0)
    sent = [entry.round for entry in entries if isinstance(entry, Commit)]
    return not isinstance(entries[-1], Close) and max(sent, default=0) >= last


def reserved_of(entries: Sequence[Entry]) -> tuple[Release, ...]:
    """Return everything that was reserved."""
    return merged([release for entry in entries if isinstance(entry, Reserve) for release in entry.releases])


def committed_of(entries: Sequence[Entry]) -> tuple[Release, ...]:
    """Return everything that was sent."""
    return merged([entry.release for entry in entries if isinstance(entry, Commit)])


def minus(reserved: Sequence[Release], used: Sequence[Release]) -> tuple[Release, ...] | None:
    """Return what is left of `reserved`, or None if `used` holds anything that is not in it."""
    left = {release.times(0): release.count for release in merged(reserved)}
    for release in merged(used):
        kind = release.times(0)
        if left.get(kind, -1) < release.count:
            return None
        left[kind] -= release.count
    return merged([kind.times(count) for kind, count in left.items()])
