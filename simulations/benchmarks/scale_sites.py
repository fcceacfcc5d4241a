"""The two kinds of processes of the benchmark `scale`: one coordinator, and many sites in each of a few processes.

A site here is a real one as far as the coordinator can see: its own folder, keys and certificate, its own TLS connection,
`FleetLink`, and the masking code of `privacy/masking` with its own session. Only the data are missing: instead of training,
it contributes the same small update at once, and it keeps its sessions in memory.
"""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from flwr.app import Message

from salus.client.config import SiteFolder
from salus.client.link import FleetLink
from salus.common.clock import SystemClock
from salus.common.errors import SalusError, describe
from salus.common.events import EventLog
from salus.common.job import Job, open_job, parse_job, seal_job
from salus.common.packets import Reply, Request, pack, refusal, unpack_request
from salus.privacy.contribution import Contribution, DataKind, Shape
from salus.privacy.masking.protection import Masking
from salus.privacy.masking.site import MaskingSite
from salus.privacy.protocol.party import SiteParty
from salus.privacy.protocol.session import Session, manifest_hash
from salus.privacy.protocol.store import MemoryStore
from salus.server.attempts import Attempts
from salus.server.checkpoints import Checkpoints
from salus.server.config import ServerFolder
from salus.server.door import raise_open_files
from salus.server.federation import GridFederation
from salus.server.link import Link
from salus.server.listen import listen_tcp
from salus.server.transcripts import Transcript
from salus.simulations.benchmarks.environment import cpu_seconds, peak_rss_mb

JOB = """
[job]
name = "scale"
rounds = 1000
min_sites = 5
[task]
kind = "classification"
model = "logistic"
dataset = "none"
classes = ["no", "yes"]
shape = [8, 8]
[training]
batch_size = 8
learning_rate = 0.02
[privacy]
noise = "none"
"""
AT_ONCE = 2  # large vectors that a process of sites works on at the same time
SMALL = 100_000
BYTES_PER_PARAMETER = 4
RETRY_S = 0.2
HEARTBEAT_S = 12.0  # as a site's daemon


def shape_for(parameters: int) -> Shape:
    """Return the shape of a sum of this many parameters and no statistics."""
    return Shape(parameters, 0, 1.0)


def run_coordinator(folder: Path, pipe: Connection) -> None:
    """Run a coordinator: ``(parameters, sums)`` in; seconds of each sum, CPU seconds of all and the peak in MiB out."""
    raise_open_files()
    clock = SystemClock()
    opened = ServerFolder.open(folder, clock)
    link = Link(opened.node_keys(), folder=folder)
    listener = listen_tcp(link.app, opened.config.listen, opened.config.port, opened.tls())
    grid = link.begin_run()
    job, round_ = parse_job(JOB), 0
    checkpoints, sites = Checkpoints(folder), len(opened.roster.site_ids())
    signed = seal_job(job, opened.identity)
    attempts = Attempts(
        job,
        checkpoints.submit(signed, job.job.name),
        signed,
        GridFederation(grid, link.directory),
        checkpoints,
        EventLog(folder / "events.jsonl", clock=clock, rotates=True),
        opened.roster.keys(),
        Transcript(folder / "transcript.jsonl"),
    )
    pipe.send("ready")
    while (order := pipe.recv()) is not None:
        while len(link.directory()) < sites:
            time.sleep(RETRY_S)
        parameters, sums = order
        blob, seconds = os.urandom(BYTES_PER_PARAMETER * parameters), []
        cpu = cpu_seconds([os.getpid()])
        for _ in range(sums):
            round_ += 1
            started = time.monotonic()
            total = attempts.sum(round_, "train", blob, shape_for(parameters))
            seconds.append(time.monotonic() - started)
            assert len(total.sites) == sites  # Safe because a sum over fewer sites would make the figures wrong.
            del total
        pipe.send((seconds, cpu_seconds([os.getpid()]) - cpu, peak_rss_mb(os.getpid())))
    grid.close()
    listener.close()


def run_sites(folders: Sequence[Path], port: int) -> None:
    """Run these sites, one thread each, until the process is killed."""
    turn = threading.Semaphore(AT_ONCE)
    sites = [_Site(folder, port, turn) for folder in folders]
    for site in sites:
        threading.Thread(target=site.run, daemon=True).start()
    while True:
        time.sleep(HEARTBEAT_S)
        for site in sites:
            site.beat()


class _Site:
    def __init__(self, folder: Path, port: int, turn: threading.Semaphore) -> None:
        self._folder = SiteFolder.open(folder, SystemClock())
        self._url, self._turn = f"https://127.0.0.1:{port}", turn
        self._store = MemoryStore()
        self._keys = self._folder.roster.keys()
        self._coordinator = bytes.fromhex(self._folder.roster.coordinator.public_key)
        self._end: MaskingSite | None = None
        self._large = False
        self._link = FleetLink(self._url, self._folder.tls(), self._folder.node_key)

    def beat(self) -> None:
        with contextlib.suppress(SalusError):  # the other thread meets the same error and connects again
            self._link.heartbeat()

    def run(self) -> None:
        with self._link as link:
            while True:
                try:
                    link.activate()
                    while True:
                        message = link.receive()
                        if message is not None:
                            self._work(link, message)
                except SalusError:
                    time.sleep(RETRY_S)

    def _work(self, link: FleetLink, message: Message) -> None:
        request, blob = unpack_request(message.content)
        self._large = len(blob) > SMALL if request.kind == "train" else self._large
        if not self._large:
            link.send(self._reply(message, request, blob))
            return
        with self._turn:
            reply = self._reply(message, request, blob)
            del message, blob
            link.send(reply)

    def _reply(self, message: Message, request: Request, blob: bytes) -> Message:
        site = self._folder.site_id
        try:
            answer = self._open(request, blob) if request.kind == "train" else self._following(blob)
        except SalusError as problem:
            return Message(pack(refusal(site, problem, describe(problem))), reply_to=message)
        return Message(pack(Reply(kind="ok", site=site), answer), reply_to=message)

    def _following(self, blob: bytes) -> bytes:
        assert self._end is not None  # Safe because the coordinator opens a session first.
        return self._end.answer(blob)

    def _open(self, request: Request, blob: bytes) -> bytes:
        assert request.job is not None  # Safe because the coordinator sends it with the first request.
        job, document = open_job(request.job, self._coordinator)
        shape = shape_for(len(blob) // BYTES_PER_PARAMETER)
        self._end = Masking().site_end(self._session(request, blob, shape, document), shape, job, self._party(job))
        update = np.broadcast_to(np.float32(1e-4), shape.parameters)
        return self._end.open(Contribution(update, 1.0, np.zeros(0), DataKind.TRAINING))

    def _session(self, request: Request, blob: bytes, shape: Shape, document: bytes) -> Session:
        return Session(
            request.job_id,
            request.round,
            request.attempt,
            manifest_hash(document, shape.kind, shape.parameters, shape.statistics),
            hashlib.sha256(blob).digest(),
            request.sites,
        )

    def _party(self, job: Job) -> SiteParty:
        return SiteParty(
            self._folder.site_id, self._folder.identity, self._keys, self._store, 0, os.urandom, job.task.dataset
        )
