"""What a daemon wrote last about its connection."""

from pathlib import Path

from salus.common.events import read_events

LINK_KINDS = ("connected", "disconnected", "outdated", "stopped")


def last_link(log: Path) -> str:
    """Return the kind of the last event about the connection, or an empty string."""
    if not log.exists():
        return ""
    return next((event.kind for event in reversed(read_events(log)) if event.kind in LINK_KINDS), "")
