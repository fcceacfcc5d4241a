"""Session keys of the sites that have said hello, see `common/link_signature.py`; part of the link (`server/link.py`).

They are kept in memory only: after a restart of the coordinator a site says hello again, by itself.
"""

import secrets
import threading
import time
from dataclasses import dataclass

from salus.server.link_members import Member

MOST = 4  # of one site: the present one, and those left over from before its restarts
LIFETIME_S = 86_400.0  # after which a site says hello again


@dataclass(frozen=True)
class Session:
    """A site's session."""

    member: Member
    key: bytes
    opened_s: float


class Sessions:
    """The sessions of all sites; may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._of: dict[int, list[str]] = {}

    def open(self, member: Member, key: bytes) -> str:
        """Begin a session and return its name; the oldest of too many ends."""
        name = secrets.token_hex(16)
        with self._lock:
            mine = self._of.setdefault(member.node, [])
            mine.append(name)
            self._sessions[name] = Session(member, key, time.monotonic())
            while len(mine) > MOST:
                del self._sessions[mine.pop(0)]
        return name

    def end(self, node: int) -> None:
        """End all sessions of a site that is no longer a member; if it becomes one again, it says hello again."""
        with self._lock:
            for name in self._of.pop(node, ()):
                del self._sessions[name]

    def find(self, name: str) -> Session | None:
        """Return a session that has not ended."""
        session = self._sessions.get(name)
        return session if session is not None and time.monotonic() - session.opened_s < LIFETIME_S else None
