"""A canary: one round of a job over all sites that are online, in which every vector is zero, and of which nothing is kept.

It goes the whole way: the start and the model to each site, the site's checks and one step with its data, every exchange of the
protection, and a sum that must be zero. No attempt, transcript or cohort is recorded, no budget is reserved, and no consent is
remembered.

A site tells what would stop the job there, unless it depends on patients: that is in the site's own log.
"""

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from salus.common.errors import ProtectionError, RoundError, SalusError
from salus.common.events import EventLog
from salus.common.identity import Signed
from salus.common.job import Job
from salus.common.packets import Request
from salus.common.strategies import strategy_of
from salus.common.strategies.wire import encode_model
from salus.common.sums import sums_of
from salus.common.sums.base import cells_of
from salus.common.sums.state import state_to_bytes
from salus.common.tasks import make_task
from salus.privacy.contribution import Shape, Sum
from salus.privacy.protection import CoordinatorEnd, key_holder_of, protection_of
from salus.privacy.protocol.session import Session, canary_hash
from salus.privacy.protocol.transcript import no_record
from salus.privacy.shapes import measured_shape, shape_of
from salus.server.federation import Federation, GridFederation
from salus.server.link import Link
from salus.server.outline import Outline
from salus.server.participants import Participants
from salus.server.starting import StartSender
from salus.server.turns import Turns

CANARY_TIMEOUT_S = 300.0  # for each exchange, since a site's last progress: it reads one batch
OLDER = "This site runs a version of Salus that cannot be tried out; see salus job check."


@dataclass
class Canary:
    """The tried-out job.

    Args:
        job_id: used for this only.
        keys: Ed25519 keys of the whole roster, by site id.
        roster: hash of the roster.
        outline: of the network of a job that trains.
    """

    job: Job
    signed: Signed
    federation: Federation
    keys: Mapping[int, bytes]
    roster: str = ""
    outline: Outline | None = None
    turns: Turns = field(default_factory=Turns)
    cancelled: Callable[[], bool] = lambda: False
    job_id: str = field(default_factory=lambda: f"canary-{secrets.token_hex(8)}")
    problems: dict[int, str] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Return what would happen: problems by site, who is offline, and whether the sum came about."""
        protection = protection_of(self.job)
        needed = max(self.job.job.min_sites, protection.needed(self.job, len(self.keys)))
        online = [site for site in self.federation.online() if site in self.keys]
        offline = sorted(set(self.keys) - set(online))
        why = ""
        with self.turns.hold(self.job_id, online, self.cancelled):
            try:
                self._sum(tuple(online))
            except (ProtectionError, RoundError) as problem:
                why = problem.problem
            finally:
                self._forget(online)
        left = set(online) - set(self.problems)
        holder = key_holder_of(self.job)
        possible = not why and len(left) >= needed and (not holder or holder in left)
        return {
            "needed": needed,
            "tried": online,
            "offline": offline,
            "problems": dict(sorted(self.problems.items())),
            "why": why,
            "possible": possible,
        }

    def _first(self) -> tuple[Shape, bytes]:
        """Return shape and message of the job's first round."""
        if self.job.statistics is not None:
            return measured_shape(self.job, 2 + cells_of(sums_of(self.job), 1)), state_to_bytes([])
        outline = self.outline
        assert outline is not None  # Safe because the caller gives one for a job that trains.
        strategy = strategy_of(self.job)
        sent = strategy.sent(strategy.init(outline.layout.size))
        shape = shape_of(self.job, "train", outline.layout.size, make_task(self.job.task))
        return shape, encode_model(outline.layout, outline.first, sent)

    def _sum(self, online: tuple[int, ...]) -> Sum:
        protection = protection_of(self.job)
        start = None if self.outline is None else self.outline.start
        StartSender(self.signed, self.job_id, self.federation, EventLog(), self.job, start).send(
            1, online, CANARY_TIMEOUT_S
        )
        shape, blob = self._first()
        manifest = canary_hash(self.signed.document.encode(), shape.kind, shape.parameters, shape.statistics)
        roster = tuple(sorted(self.keys)) if protection.protects else online
        session = Session(self.job_id, 1, 0, manifest, hashlib.sha256(blob).digest(), roster)
        end = protection.coordinator_end(session, shape, self.job, self.keys, no_record)
        common = {"job_id": self.job_id, "round": 1, "attempt": 0, "roster": self.roster}
        first = Request.model_validate({"kind": "canary", "job": self.signed, "sites": roster, **common})
        requests = dict.fromkeys(online, (first, blob))
        while True:
            self._collect(requests, end)
            following = end.close()
            if following is None:
                break
            further = Request.model_validate({"kind": "answer", **common})
            requests = {site: (further, part) for site, part in following.items()}
        mine = end.result.vector[: shape.parameters] if self.job.privacy.noised else end.result.vector
        if self.job.privacy.noise != "distributed" and np.any(mine):
            raise ProtectionError(
                "Expected a sum of zeros.", remedy="A site sent something else; see the roster's members."
            )
        return end.result

    def _collect(self, requests: Mapping[int, tuple[Request, bytes]], end: CoordinatorEnd) -> None:
        for site, reply, blob in self.federation.exchange(requests, CANARY_TIMEOUT_S):
            if isinstance(reply, SalusError):
                self.problems[site] = reply.problem
            elif reply.kind == "refused":
                old = requests[site][0].kind == "canary" and reply.error == "WireError"
                self.problems[site] = f"{OLDER} ({reply.text[:200]})" if old else reply.text
            else:
                try:
                    end.receive(site, blob)
                except ProtectionError as refused:
                    self.problems[site] = str(refused)

    def _forget(self, online: list[int]) -> None:
        """Let the sites forget the weights that were sent for this."""
        if self.job.start is None:
            return
        request = Request(kind="end", job_id=self.job_id, job=self.signed)
        for _ in self.federation.exchange(dict.fromkeys(online, (request, b"")), CANARY_TIMEOUT_S):
            pass


def try_out(
    job: Job,
    signed: Signed,
    link: Link,
    who: Participants,
    roster: str,
    outline: Outline | None,
    turns: Turns,
    stopped: Callable[[], bool],
) -> dict[str, Any]:
    """Run a canary over the link, in a run of its own; arguments as of `Canary`."""
    grid = link.begin_run()
    try:
        federation = GridFederation(grid, lambda: who.present(link.directory()), stopped, progress=link.progress)
        return Canary(job, signed, federation, who.keys, roster, outline, turns, stopped).run()
    finally:
        grid.close()
