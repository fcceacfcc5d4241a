"""A job over virtual hospitals in this process, as attackers see it: the sites, rounds and protections of a federation."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from salus.client.data.dicom.isolation import Decoding
from salus.client.ledger.store import Ledger
from salus.client.performance import Performance
from salus.client.running import Running, RunningJob
from salus.client.site import Site
from salus.common.clock import SystemClock
from salus.common.errors import SalusError
from salus.common.events import EventLog
from salus.common.identity import Identity
from salus.common.job import Job, seal_job
from salus.common.packets import Reply, Request
from salus.common.start.weights import Weights
from salus.common.strategies.wire import encode_model
from salus.common.vectors import FloatVector, Layout
from salus.privacy.contribution import Contribution, Float64Vector, Kind, Shape, Sum, to_vector
from salus.privacy.protocol.store import MemoryStore
from salus.server.attempts import Attempts
from salus.server.checkpoints import Checkpoints
from salus.server.checks import check_job
from salus.server.rounds import JobRun
from salus.simulations.virtual import OPEN_POLICY, open_catalogue, virtual_identity, virtual_keys

AUDITED = 1  # the site that is attacked
Change = Callable[[int, RunningJob], None]
Craft = Callable[[int, FloatVector], FloatVector]


@dataclass
class Round:
    """One round as attackers see it.

    Args:
        model: the parameters that the sites received.
        own: what the audited site adds to the sum before it is protected: its update, noised if the noise is local. It is what
            the coordinator reads without protection, and what is left of a masked sum if all other sites collude.
        total: the sum over all sites, as the coordinator decodes it.
        each: what every site adds, by its number; `own` is one of these.
        weight: the factor of the update in `own`.
    """

    model: FloatVector
    own: Float64Vector
    total: Float64Vector
    each: Mapping[int, Float64Vector]
    weight: float


class AuditedSite(Site):
    """A site whose data are changed for an audit, and whose contributions are noted before they are protected.

    Args:
        change: called with the site's number and the prepared job; it may replace ``data``.
    """

    def __init__(self, change: Change, **settings: Any) -> None:
        super().__init__(**settings)
        self._change = change
        self.sent: list[Float64Vector] = []
        self.weights: list[float] = []

    def prepare(self, *arguments: Any, **named: Any) -> Running:
        """Return a job of which the data are changed."""
        running = super().prepare(*arguments, **named)
        if isinstance(running, RunningJob):
            self._change(self.site_id, running)
        return running

    def _protect(
        self, request: Request, running: Running, model: bytes, shape: Shape, contribution: Contribution
    ) -> bytes:
        if shape.kind == "train":
            self.sent.append(to_vector(contribution, shape)[: shape.parameters])
            self.weights.append(contribution.weight)
        return super()._protect(request, running, model, shape, contribution)


class InOneProcess:
    """All sites in this process; a `Federation`."""

    def __init__(self, sites: Mapping[int, Site]) -> None:
        self._sites = sites

    def online(self) -> tuple[int, ...]:
        """Return all sites."""
        return tuple(self._sites)

    def exchange(
        self, requests: Mapping[int, tuple[Request, bytes]], timeout_s: float
    ) -> Iterator[tuple[int, Reply | SalusError, bytes]]:
        """Ask the sites one after the other."""
        for number, (request, blob) in requests.items():
            yield (number, *self._sites[number].handle(request, blob))


@dataclass
class Watched(Attempts):
    """The attempts of a job, with what the coordinator sends and decodes.

    Args:
        craft: what a dishonest coordinator sends in place of the model, by round; None for an honest one.
        done: called after every round.
        rounds: after how many the job is given up; None for none.
    """

    craft: Craft | None = None
    done: Callable[[int], None] = lambda round_: None
    rounds: int | None = None
    run: JobRun | None = None
    models: list[FloatVector] = field(default_factory=list)
    totals: list[Float64Vector] = field(default_factory=list)

    def sum(
        self, round_: int, kind: Kind, blob: bytes, shape: Shape, check: Callable[[Sum], object] = lambda total: None
    ) -> Sum:
        """See `Attempts.sum`."""
        if kind != "train":
            return super().sum(round_, kind, blob, shape, check)
        assert self.run is not None  # Safe because `observed` sets it before the job runs.
        model = self.run.model
        if self.craft is not None:
            model = self.craft(round_, model)
            blob = encode_model(self.run.layout, model, {})
        total = super().sum(round_, kind, blob, shape, check)
        self.models.append(model)
        self.totals.append(total.vector[: shape.parameters].copy())
        self.done(round_)
        if round_ == self.rounds:
            raise _Enough
        return total


class _Enough(Exception):
    """Enough rounds were seen."""


@dataclass(frozen=True)
class Observed:
    """A whole job as attackers see it.

    Args:
        final: the finished model; the last one that the sites received if the job was given up.
    """

    rounds: list[Round]
    layout: Layout
    final: FloatVector


def observed(
    job: Job,
    hospitals: Path,
    folder: Path,
    *,
    sites: int,
    performance: Performance,
    change: Change = lambda site, running: None,
    craft: Craft | None = None,
    done: Callable[[int], None] = lambda round_: None,
    rounds: int | None = None,
    decoding: Decoding | None = None,
    start: Weights | None = None,
) -> Observed:
    """Run a job over the catalogues of `hospitals` and return what can be seen of it.

    Args:
        hospitals: with ``site-<n>/catalogue.sqlite`` for every site.
        start: the weights with which the job starts.
        folder: new, for ledgers, checkpoints and logs.
        rounds: after how many the job is given up; its plan, and so its noise, is that of the whole job. None for none.
        decoding: how files are decoded; None for files that are trusted.

    Raises:
        SalusError: anything that would also stop a real federation.
    """
    check_job(job, sites)
    coordinator, secret = Identity.generate(), os.urandom(32)
    keys = virtual_keys(secret, sites)

    def site(number: int) -> AuditedSite:
        place = folder / f"site-{number}"
        place.mkdir(parents=True, exist_ok=True)
        return AuditedSite(
            change,
            site_id=number, identity=virtual_identity(secret, number), keys=dict(keys), store=MemoryStore(),
            coordinator_key=coordinator.public_key, catalogue=open_catalogue(hospitals, number, decoding),
            policy=lambda: OPEN_POLICY, performance=performance, events=EventLog(place / "events.jsonl"),
            ledger=Ledger(place / "ledger.sqlite", SystemClock()), states=place / "states", starts=place / "starts",
        )  # fmt: skip

    made = {number: site(number) for number in keys}
    signed = seal_job(job, coordinator)
    checkpoints = Checkpoints(folder / "coordinator")
    job_id = checkpoints.submit(signed, job.job.name)
    events = EventLog(folder / "events.jsonl")
    watched = Watched(
        job, job_id, signed, InOneProcess(made), checkpoints, events, keys,
        craft=craft, done=done, rounds=rounds, start=start,
    )  # fmt: skip
    watched.run = run = JobRun(watched)
    with contextlib.suppress(_Enough):
        run.run()
    each = [dict(zip(made, sent, strict=True)) for sent in zip(*(one.sent for one in made.values()), strict=True)]
    seen = zip(watched.models, each, watched.totals, made[AUDITED].weights, strict=True)
    rounds_seen = [Round(model, sent[AUDITED], total, sent, weight) for model, sent, total, weight in seen]
    return Observed(rounds_seen, run.layout, run.model)
