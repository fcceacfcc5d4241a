"""Which jobs run and which wait: each running job has its own thread, and the others queue in the order of their submission.

    waiting ──a place is free──> running ──all rounds──> finished
                                   │ too few sites, or a round that fails in every attempt ──> failed
                                   │ cancelled, paused or aborted by the admin ──> cancelled, paused, aborted
                                   └ the process or the roster ends, the disk is full, the database is gone ──> it continues later

Two jobs without noise over the same data set and epoch never run at once: all of their sums must be over the same sites, and
the first sum decides which. A job that waits for another one does not stop a later job over other data.
"""

import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

from salus.common.errors import StorageError
from salus.common.job import job_from_canonical
from salus.server.checkpoints import ACTIVE, Checkpoints, JobRow
from salus.server.database import DatabaseTaken
from salus.server.participants import scope_of
from salus.server.wishes import Wishes

DRAINING = "draining"  # the round in progress ends, and the job is paused


@dataclass(frozen=True)
class Place:
    """A job in the queue.

    Args:
        place: 1 for the first in the queue.
        reason: why it does not run yet.
    """

    row: JobRow
    place: int
    reason: str


@dataclass(frozen=True)
class Plan:
    """What happens next.

    Args:
        due: jobs that begin now.
        queue: jobs that wait.
    """

    due: tuple[JobRow, ...]
    queue: tuple[Place, ...]


def plan(active: Iterable[JobRow], running: Collection[str], limit: int) -> Plan:
    """Return which jobs begin now, and the queue.

    Args:
        active: jobs that are waiting or running, in order of submission; interrupted ones come first.
        running: ids of the jobs that have a thread.
        limit: most jobs that run at once.
    """
    due: list[JobRow] = []
    queue: list[Place] = []
    holders: dict[str, str] = {}  # by scope, the first unfinished job without noise over it
    free = limit - len(running)
    for row in sorted(active, key=lambda row: (row.job_id not in running, row.status != "running")):
        scope = exclusive_scope(row.signed.document)
        holder = holders.setdefault(scope, row.job_id) if scope else row.job_id
        if row.job_id in running:
            continue
        if holder != row.job_id:
            reason = f"waits for {holder}: it is over the same data set and epoch, also without noise"
        elif free <= 0:
            reason = f"waits until a job ends: {limit} run at once, see max_running_jobs in server.toml"
        else:
            free -= 1
            due.append(row)
            continue
        queue.append(Place(row, len(queue) + 1, reason))
    return Plan(tuple(due), tuple(queue))


@lru_cache(maxsize=256)  # asked several times a second, and a job never changes
def exclusive_scope(document: str) -> str:
    """Return the data set and epoch over which no other job without noise may run; empty for a job with noise.

    Args:
        document: the job, as it is signed.
    """
    job = job_from_canonical(document.encode())
    return "" if job.privacy.noised else scope_of(job)


class Scheduler:
    """Begins jobs and ends them.

    Args:
        run: runs one job to its end, in its own thread; returns also if `must_end` says so. A StorageError or OSError means that
            the job is not to blame and continues when the machine can write again.
        limit: most jobs that run at once.
        valid: whether this coordinator may take part now.
        wishes: how the admin wishes jobs to end.
        end: ends a job that does not run with the status that the admin wishes.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        run: Callable[[JobRow], None],
        limit: int,
        valid: Callable[[], bool],
        wishes: Wishes,
        end: Callable[[str, str], None],
    ) -> None:
        self._checkpoints, self._run, self._limit, self._valid = checkpoints, run, limit, valid
        self._wishes, self._end = wishes, end
        self._lock, self._dates = threading.Lock(), threading.Lock()
        self._ending = threading.Lock()  # one command or look at the queue at a time ends jobs, or opens one again
        self._threads: dict[str, threading.Thread] = {}
        self._problems: list[Exception] = []
        self._stopped = self._taken = False

    def begin_due(self, before: Callable[[], None] = lambda: None) -> None:
        """Begin the jobs that may begin now.

        Args:
            before: called before the first one begins, when it is known that its records can be written.

        Raises:
            StorageError, OSError: a job ended because of the machine, or the machine cannot write the records of the next one.
        """
        with self._lock:
            problem = self._problems[0] if self._problems else None
            self._problems.clear()
        if problem is not None:
            raise problem
        try:
            self._checkpoints.claim()
        except DatabaseTaken:
            self._taken = True  # running jobs stop: they are the other coordinator's now
            raise
        self._taken = False
        if not self.valid():
            return
        for row in self._next().due:
            self._checkpoints.check_writable(row.job_id)
            before()
            self._begin(row)

    def _next(self) -> Plan:
        """Return what happens next, after ending the jobs whose run ended before the admin's wish was carried out."""
        found = self._plan()
        ended = [row.job_id for row in (*found.due, *(p.row for p in found.queue)) if self._wishes.get(row.job_id)]
        for job_id in ended:
            with self._ending:
                if (
                    self._wishes.get(job_id) and self._checkpoints.job(job_id).status in ACTIVE
                ):  # not ended or resumed meanwhile
                    self._carry_out(job_id)
        return self._plan() if ended else found

    def _carry_out(self, job_id: str) -> None:
        self._end(job_id, self.wish(job_id))
        self._wishes.carried_out(job_id)

    def _plan(self) -> Plan:
        running = self.running()  # first: a job that ends while the records are read must not begin again
        return plan(self._checkpoints.active(), running, self._limit)

    def _begin(self, row: JobRow) -> None:
        thread = threading.Thread(target=self._thread, args=(row,), name=row.job_id, daemon=True)
        with self._lock:
            if self._stopped or self._wishes.get(row.job_id):
                return
            self._threads[row.job_id] = thread
        thread.start()

    def _thread(self, row: JobRow) -> None:
        try:
            self._run(row)
            if self._checkpoints.job(row.job_id).status not in ACTIVE:
                self._wishes.carried_out(row.job_id)
        except (StorageError, OSError) as problem:
            with self._lock:
                self._problems.append(problem)
        finally:
            with self._lock:
                del self._threads[row.job_id]

    def running(self) -> tuple[str, ...]:
        """Return the ids of the jobs that run now, in the order in which they began."""
        with self._lock:
            return tuple(self._threads)

    def queue(self) -> tuple[Place, ...]:
        """Return the jobs that wait; one that is about to begin is among the running ones."""
        return self._plan().queue

    def must_end(self, job_id: str) -> bool:
        """Whether a running job must stop now; it continues later unless the admin ended it."""
        ended = self._wishes.get(job_id, DRAINING) != DRAINING
        return self._stopped or self._taken or ended or not self.valid()

    def must_pause(self, job_id: str) -> bool:
        """Whether a running job begins no further round."""
        return self._wishes.get(job_id) == DRAINING

    def wish(self, job_id: str) -> str:
        """Return the status with which the admin ends a job that has stopped; empty if it continues later."""
        wish = self._wishes.get(job_id)
        return "paused" if wish == DRAINING else wish

    def valid(self) -> bool:
        """Whether this coordinator may take part now."""
        with self._dates:
            return self._valid()

    def end(self, job_id: str, wish: str) -> bool:
        """End a job as the admin wishes, and return whether it still runs; a waiting one never begins.

        Args:
            wish: the status with which it ends, ``cancelled``, ``paused`` or ``aborted``; or `DRAINING`, to pause it after the
                round in progress. A later wish replaces an earlier one. It is on disk when this returns.

        Raises:
            StorageError: it cannot be written; a job that runs stops all the same.
        """
        self._checkpoints.job(job_id)
        with self._ending:
            with self._lock:  # from here on it does not begin
                self._wishes.put(job_id, wish)
                runs = job_id in self._threads
            if not runs:
                self._carry_out(job_id)
        return runs

    def cancel(self, job_id: str) -> None:
        """End a job, which can be queued again."""
        self.end(job_id, "cancelled")

    def reopen(self, job_id: str) -> None:
        """Queue a failed, cancelled or paused job again."""
        with self._ending:
            self._checkpoints.reopen(job_id)
            self._wishes.forget(job_id)

    def stop(self) -> None:
        """Let every job end at its next step; callable from a signal handler."""
        self._stopped = True

    def join(self) -> None:
        """Wait until no job runs."""
        for thread in list(self._threads.values()):
            thread.join()
