"""Virtual sites on one machine: a Flower `Grid` over a pool of processes, driving the same apps as over the network.

Each process keeps its sites for the whole run, so a site's open session stays in memory as it does in the daemon. Messages
pass through a pipe in Flower's own wire form.
"""

import multiprocessing
import os
import queue
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from types import TracebackType

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from salus.common.clock import SystemClock
from salus.common.signals import starting_child
from salus.server.link_grid import RunGrid

RUN_ID = 1
POLL_S = 0.01
STOP_S = 5.0  # time for a worker to exit by itself
# Imported once, in the process from which all workers are forked.
PRELOADED = ["salus.simulations.virtual", "torch._dynamo"]  # torch imports the latter when its first optimizer is made
WORKER_LOST = 1000  # our own error code: the process of this site exited

AppFactory = Callable[[Sequence[int], int], ClientApp]


def _serve(
    pipe: Connection, factory: AppFactory, sites: Sequence[int], threads: int, environment: Mapping[str, str]
) -> None:
    """Main loop of a worker: answer each message with the app until the pipe closes."""
    os.environ.update(environment)  # the server process may have begun with another one
    app = factory(sites, threads)
    while True:
        try:
            data = pipe.recv_bytes()
        except EOFError:
            return
        message = message_from_proto(ProtoMessage.FromString(data))
        node = message.metadata.dst_node_id
        context = Context(RUN_ID, node, {"partition-id": node - 1}, RecordDict(), {})
        pipe.send_bytes(message_to_proto(app(message, context)).SerializeToString())


class _Worker:
    """One process and the thread that sends it messages, one at a time."""

    def __init__(
        self, factory: AppFactory, sites: Sequence[int], threads: int, done: "queue.SimpleQueue[Message]"
    ) -> None:
        # A direct fork would copy torch's threads in an undefined state; the server process has none, because it only imports.
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(PRELOADED)
        self._pipe, theirs = server.Pipe()
        self.process = server.Process(
            target=_serve, args=(theirs, factory, sites, threads, dict(os.environ)), daemon=True
        )
        with starting_child():
            self.process.start()
        theirs.close()
        self._todo: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._done = done
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._thread.start()

    def send(self, message: Message) -> None:
        self._todo.put(message)

    def _feed(self) -> None:
        while (message := self._todo.get()) is not None:
            try:
                self._pipe.send_bytes(message_to_proto(message).SerializeToString())
                reply = message_from_proto(ProtoMessage.FromString(self._pipe.recv_bytes()))
            except (EOFError, OSError):
                reply = Message(Error(WORKER_LOST, "The process of this site exited."), reply_to=message)
            self._done.put(reply)

    def stop(self, wait_s: float) -> None:
        self._todo.put(None)
        self._pipe.close()
        self.process.join(timeout=wait_s)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class PoolGrid(RunGrid):
    """A grid whose nodes are virtual sites in worker processes; the node id is the site id.

    Args:
        factory: called once in each worker with its site ids and CPU threads; must be importable, for use in other processes.
        sites: ids of all virtual sites.
        workers: number of processes; by default one per CPU core, at most one per site.
    """

    def __init__(self, factory: AppFactory, sites: Sequence[int], workers: int = 0) -> None:
        cores = os.cpu_count() or 1
        count = min(workers or cores, len(sites))
        self._done: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._held: dict[str, Message] = {}
        self._sites = list(sites)
        threads = max(1, cores // count)
        self._workers = [_Worker(factory, self._sites[i::count], threads, self._done) for i in range(count)]
        self._owner = {site: self._workers[i % count] for i, site in enumerate(self._sites)}
        self._run = Run.create_empty(RUN_ID)
        # Flower stamps these onto every message of this process.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, SUPERLINK_NODE_ID, 1

    def __enter__(self) -> "PoolGrid":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.stop(STOP_S if kind is None else 0.0)

    def process_ids(self) -> list[int]:
        """Return the workers' process ids, to measure memory."""
        return [worker.process.pid for worker in self._workers if worker.process.pid is not None]

    def get_node_ids(self) -> Iterable[int]:
        return list(self._sites)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=site) for site in self._sites]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        identifiers = []
        for message in messages:
            identifier = uuid.uuid4().hex
            message.metadata.__dict__["_message_id"] = identifier
            self._owner[message.metadata.dst_node_id].send(message)
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        while not self._done.empty():
            reply = self._done.get()
            self._held[reply.metadata.reply_to_message_id] = reply
        return [self._held.pop(identifier) for identifier in list(message_ids) if identifier in self._held]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        clock = SystemClock()
        waiting = set(self.push_messages(messages))
        deadline = None if timeout is None else clock.monotonic_s() + timeout
        replies: list[Message] = []
        while waiting and (deadline is None or clock.monotonic_s() < deadline):
            arrived = list(self.pull_messages(waiting))
            waiting -= {message.metadata.reply_to_message_id for message in arrived}
            replies += arrived
            clock.sleep(POLL_S)
        return replies
