"""Points at which a process ends itself with SIGKILL, once, when a test has armed one of them.

`install` puts them into a forked process of a member, and into the worker that a site's daemon forks:

    coordinator-before-K, coordinator-after-K   exchange K of round 2, 1 to 5: nobody was asked yet; all answers are in
    coordinator-between                         round 1 is stored, round 2 has not begun
    coordinator-model, coordinator-stored       a model is written and its round not stored yet; both are
    coordinator-report, coordinator-ended       the model card is written and the report is not; the job is stored as finished
    daemon-before-K, daemon-after-K             a site's daemon has received request K; the coordinator has its reply
    worker-before-K, worker-after-K             a site's worker has received request K; it has its reply
    worker-reserving, worker-reserved           the reservation is written and not on disk yet; it is
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from salus.client.daemon import SiteDaemon
from salus.client.ledger.entries import Entry, Reserve
from salus.client.ledger.store import Ledger
from salus.client.link_direct import Delivery
from salus.client.site import Site
from salus.common.packets import Request, request_of
from salus.server import checkpoints, reporting
from salus.server.attempts import Attempts
from salus.server.checkpoints import Checkpoints

ROUND, EXCHANGES = 2, (1, 2, 3, 4, 5)


def armed(folder: Path) -> Path:
    """Return the file with the point at which a member's process ends; it is gone when one has."""
    return folder.with_suffix(".kill")


def install(folder: Path) -> None:
    """Put the points of a member into this process."""
    file = armed(folder)

    def here(point: str) -> None:
        if file.exists() and file.read_text() == point:
            file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    _in_coordinator(here)
    _in_daemon(here)
    _in_worker(here)


def _around(owner: Any, name: str, before: Callable[..., None], after: Callable[..., None]) -> None:
    """Call two functions, with the same arguments, around another one."""
    inner = getattr(owner, name)

    def call(*words: Any, **more: Any) -> Any:
        before(*words, **more)
        result = inner(*words, **more)
        after(*words, **more)
        return result

    setattr(owner, name, call)


def _nothing(*words: Any, **more: Any) -> None:
    pass


def _in_coordinator(here: Callable[[str], None]) -> None:
    exchange = 0

    def ask(attempts: Attempts, requests: Any, end: Any, round_: int, *, first: bool) -> None:
        nonlocal exchange
        exchange = 1 if first else exchange + 1
        if round_ == ROUND:
            here(f"coordinator-before-{exchange}")

    def asked(attempts: Attempts, requests: Any, end: Any, round_: int, *, first: bool) -> None:
        if round_ == ROUND:
            here(f"coordinator-after-{exchange}")

    def begin(attempts: Attempts, round_: int, *words: Any, **more: Any) -> None:
        if round_ == ROUND:
            here("coordinator-between")

    def status(stored: Checkpoints, job: str, value: str, *words: Any) -> None:
        if value == "finished":
            here("coordinator-ended")

    _around(Attempts, "_collect", ask, asked)
    _around(Attempts, "sum", begin, _nothing)
    _around(checkpoints, "_write_durably", _nothing, lambda *words: here("coordinator-model"))
    _around(Checkpoints, "save_round", _nothing, lambda *words: here("coordinator-stored"))
    _around(reporting, "write_report", lambda *words, **more: here("coordinator-report"), _nothing)
    _around(Checkpoints, "set_status", _nothing, status)


def _in_daemon(here: Callable[[str], None]) -> None:
    exchange = 0

    def received(daemon: SiteDaemon, delivery: Delivery) -> None:
        nonlocal exchange
        request = request_of(delivery.header)
        exchange = exchange + 1 if request.kind == "answer" else 1 if request.round == ROUND else -10
        here(f"daemon-before-{exchange}")

    _around(SiteDaemon, "_answer", received, _nothing)
    _around(SiteDaemon, "_deliver", _nothing, lambda *words: here(f"daemon-after-{exchange}"))


def _in_worker(here: Callable[[str], None]) -> None:
    exchange = 0

    def received(site: Site, request: Request, blob: bytes) -> None:
        nonlocal exchange
        exchange = exchange + 1 if request.kind == "answer" else 1 if request.round == ROUND else -10
        here(f"worker-before-{exchange}")

    def reserving(ledger: Ledger, connection: Any, entry: Entry) -> None:
        if isinstance(entry, Reserve):
            here("worker-reserving")

    _around(Site, "handle", received, lambda *words: here(f"worker-after-{exchange}"))
    _around(Ledger, "_append", _nothing, reserving)
    _around(Ledger, "reserve", _nothing, lambda *words: here("worker-reserved"))
