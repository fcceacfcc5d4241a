"""Sends the weights with which a job starts to each site, once: before the first attempt in which the site takes part."""

from collections.abc import Sequence

from salus.common.errors import NoStart, SalusError
from salus.common.events import EventSink
from salus.common.identity import Signed
from salus.common.job import Job
from salus.common.models import build_model
from salus.common.packets import HERE, Request
from salus.common.start.applying import taken_by
from salus.common.start.weights import Weights
from salus.server.federation import Federation


class StartSender:
    """Which sites have a job's start.

    A site that has it says so; after a crash of either side it is asked again.

    Args:
        weights: None for a job without a start, of which nothing is sent.
    """

    def __init__(
        self,
        signed: Signed,
        job_id: str,
        federation: Federation,
        events: EventSink,
        job: Job,
        weights: Weights | None,
    ) -> None:
        self._request = {"kind": "start", "job": signed, "job_id": job_id}
        self._job, self._job_id, self._weights = job, job_id, weights
        self._federation, self._events = federation, events
        self._have: set[int] = set()

    def send(self, round_: int, sites: Sequence[int], timeout_s: float) -> None:
        """Ask those sites that are not known to have the start, and send it to those that lack it.

        A site that refuses is noted and left to refuse the round, too.
        """
        if self._weights is None:
            return
        if missing := self._ask(round_, [site for site in sites if site not in self._have], b"", timeout_s):
            self._ask(round_, missing, self._weights.encode(self._taken(self._weights)), timeout_s)

    def _taken(self, weights: Weights) -> Sequence[str]:
        if weights.taken is not None:
            return weights.taken
        return taken_by(self._job, build_model(self._job.task, self._job.job.seed), weights.lines)

    def refused(self, site: int, error: str) -> None:
        """Note a site's refusal: one that has lost the start is asked again."""
        if error == NoStart.__name__:
            self._have.discard(site)

    def _ask(self, round_: int, sites: Sequence[int], blob: bytes, timeout_s: float) -> list[int]:
        """Return the sites that answered that they lack the start."""
        if not sites:
            return []
        missing = []
        request = Request.model_validate(self._request)
        for site, reply, answer in self._federation.exchange(dict.fromkeys(sites, (request, blob)), timeout_s):
            if not isinstance(reply, SalusError) and reply.kind == "ok":
                self._have.add(site) if answer == HERE else missing.append(site)
                continue
            text = str(reply) if isinstance(reply, SalusError) else reply.text[:500]
            self._events.emit("left-out", job=self._job_id, round=round_, site=site, text=text)
        return missing
