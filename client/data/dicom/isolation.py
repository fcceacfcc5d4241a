"""The parent's side of the decoding child: starts it, sends it one request at a time, and kills it when it hangs.

A decoder is C code that processes untrusted files. It runs in a process that enters a sandbox (`sandbox`) before the first byte
of a file reaches it, and that answers over a pipe. A child that dies or takes too long costs one file.
"""

import atexit
import concurrent.futures
import contextlib
import fcntl
import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Annotated, TypeVar

import numpy as np
from pydantic import Field

from salus.client.data.accepted import ACCEPTED as ACCEPTED
from salus.client.data.dicom.channel import Buffer, Channel, ProtocolError, cpu_clock
from salus.client.data.dicom.messages import (
    ANSWER,
    DATA,
    OPERATION,
    PROBLEM,
    QUESTION,
    READY,
    SETUP,
    Answer,
    Operation,
    Problem,
    Question,
    Ready,
    Setup,
)
from salus.client.data.sandbox import LAYERS
from salus.common.errors import ConfigError, DataError, UnreadableImage
from salus.common.process import protect_memory
from salus.common.strict import Strict

START_SECONDS = 20.0  # of processor time: the imports take about two
SLOWEST_BYTES_PER_S = 10e6  # large files get more time, by this rate
MAX_QUESTIONS = 100_000  # in one operation; a series has some thousand files
BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from salus.client.data.dicom.decoder_process import main; main()"
F_SETPIPE_SZ, PIPE_BYTES = 1031, 2**20  # Linux; the most that an unprivileged process may have
KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")  # never the rest: a PACS's password is among them
A = TypeVar("A", bound=Answer)
Serve = Callable[[Question], Buffer]


class Decoding(Strict):
    """How files are decoded at a site.

    Args:
        layers: of the sandbox; empty if the operator has accepted decoding without one.
        memory_mb: memory limit of a child, beyond what it uses when it is ready.
        seconds: of processor time for one file.
    """

    layers: tuple[str, ...] = LAYERS
    memory_mb: Annotated[int, Field(ge=64)] = (
        6144  # several copies of a volume of 2^28 voxels while it is reoriented and rescaled
    )
    seconds: Annotated[float, Field(gt=0)] = 60.0  # one file may hold a thousand compressed slices


class Child:
    """A process that serves one role, started with its first request and again after it died.

    Args:
        role: ``module:class`` of what it serves, see `decoder_process`.
        settings: for the role.
        secret: given to the child over the pipe, never on its command line.

    Guarantees: no file makes the caller crash, hang for longer than the limit, or write anywhere; safe to call from several
    threads, one after the other.
    """

    def __init__(self, role: str, settings: Mapping[str, object], secret: bytes, decoding: Decoding) -> None:
        self._setup = Setup(
            role=role,
            settings=json.dumps(dict(settings)),
            memory_bytes=decoding.memory_mb * 2**20,
            layers=decoding.layers,
        )
        self._secret, self._seconds = secret, decoding.seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self.lock = threading.RLock()
        self.incarnation = 0  # changes whenever what the child held is lost
        self.held: tuple[str, ...] = ()

    @property
    def process_id(self) -> int:
        """The child's process id, 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    def ask(
        self,
        name: str,
        kind: type[A],
        argument: str = "",
        data: Buffer = b"",
        serve: Serve | None = None,
        seconds: float | None = None,
    ) -> tuple[A, memoryview]:
        """Return the child's answer to one operation, and the body that follows it.

        Args:
            serve: answers the child's questions about files.

        Raises:
            UnreadableImage: with the child's reason; ``too-slow`` or ``crashed`` if it was killed or died.
            DataError: the data cannot be used at all.
            ConfigError: this machine cannot sandbox a child, and the operator has not accepted that.
        """
        with self.lock:
            self.start()
            channel = self._channel
            assert channel is not None  # Safe because `start` made it.
            channel.begin(seconds or self._seconds)
            try:
                return self._conversation(channel, Operation(name=name, argument=argument), kind, data, serve)
            except (DataError, ConfigError):
                raise
            except TimeoutError:
                self.stop()
                raise UnreadableImage(
                    "too-slow", "decoding took more processor time than the limit, or never ended"
                ) from None
            except (EOFError, OSError, ValueError, MemoryError, ProtocolError):
                self.stop()
                raise UnreadableImage("crashed", "the decoder died, ran out of memory or was killed") from None
            except BaseException:
                self.stop()  # otherwise the next file would get the answer to this one
                raise

    def _conversation(
        self, channel: Channel, operation: Operation, kind: type[A], data: Buffer, serve: Serve | None
    ) -> tuple[A, memoryview]:
        channel.send(OPERATION, operation.model_dump_json().encode(), data)
        for _ in range(MAX_QUESTIONS):
            tag, header, length = channel.receive()
            if tag == QUESTION and serve is not None and length == 0:
                self._serve(channel, serve, header)
            elif tag == PROBLEM and length == 0:
                raise raised(Problem.model_validate_json(header))
            elif tag == ANSWER:
                answer = kind.model_validate_json(header)
                if length != answer.body_bytes:
                    raise ProtocolError
                channel.extend(length / SLOWEST_BYTES_PER_S)
                body = memoryview(np.empty(length, np.uint8).data)
                channel.read_into(body)
                return answer, body
            else:
                raise ProtocolError
        raise ProtocolError

    @staticmethod
    def _serve(channel: Channel, serve: Serve, header: bytes) -> None:
        try:
            found = serve(Question.model_validate_json(header))
        except UnreadableImage as problem:
            refusal = Problem(reason=problem.reason, detail=problem.detail)
            channel.send(PROBLEM, refusal.model_dump_json().encode())
            return
        channel.extend(len(found) / SLOWEST_BYTES_PER_S)
        channel.send(DATA, b"", found)

    def start(self) -> None:
        """Start the child if there is none, and wait until it is sandboxed; raises ConfigError as `ask`."""
        if self._channel is not None:
            return
        protect_memory()  # before the child exists that might look at it
        incoming, theirs_out = os.pipe()
        theirs_in, outgoing = os.pipe()
        for pipe in (incoming, outgoing):  # otherwise an image of 1 MB takes sixteen context switches
            with contextlib.suppress(OSError):
                fcntl.fcntl(pipe, F_SETPIPE_SZ, PIPE_BYTES)
        try:
            # By a thread that lives as long as this process: the child is killed when the thread that started it ends.
            self._process = _starter().submit(_spawned, theirs_in, theirs_out).result()
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        self._channel = Channel(incoming, outgoing, clock=cpu_clock(self._process.pid))
        self._channel.begin(START_SECONDS)
        self.incarnation += 1
        try:
            self._channel.send(SETUP, self._setup.model_dump_json().encode(), self._secret)
            tag, header, length = self._channel.receive()
            ready = Ready.model_validate_json(header)
            if tag != READY or length:
                raise ProtocolError
        except (EOFError, OSError, ValueError, ProtocolError):
            self.stop()
            raise DataError(
                "The process that decodes files cannot be started.",
                remedy="Check that memory is free and the installation is complete, then try again.",
            ) from None
        if ready.failed:
            self.stop()
            raise DataError(
                f"The reader of this kind of data cannot be loaded ({ready.failed}).", remedy="Check the installation."
            )
        if ready.problem:
            self.stop()
            raise _unavailable(ready.problem)
        self.held = ready.layers

    def stop(self) -> None:
        """End the child; the next question starts another."""
        with self.lock:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            if self._channel is not None:
                self._channel.close()
            self._process = self._channel = None

    def __enter__(self) -> "Child":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _spawned(incoming: int, outgoing: int) -> "subprocess.Popen[bytes]":
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    # One thread: a process with several cannot enter its own user namespace.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    places = json.dumps([place for place in sys.path if place])
    return subprocess.Popen(
        [sys.executable, "-I", "-c", BOOT, places],
        stdin=incoming,
        stdout=outgoing,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=kept | threads,
        start_new_session=True,  # Ctrl-C reaches the parent, which ends the child
    )


@functools.cache
def _starter() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="decoder-starter")


@functools.cache
def shared_child(role: str, settings: str, decoding: Decoding) -> Child:
    """Return this process's child for a role, the same one each time; it is ended with the process."""
    child = Child(role, json.loads(settings), b"", decoding)
    atexit.register(child.stop)
    return child


def raised(problem: Problem) -> DataError:
    """Return a child's problem as an error; its text may come from a decoder, so only printable characters are kept."""
    detail, remedy = ("".join(c for c in text if c.isprintable()) for text in (problem.detail, problem.remedy))
    return UnreadableImage(problem.reason, detail) if problem.reason else DataError(detail, remedy=remedy)


def _unavailable(problem: str) -> ConfigError:
    return ConfigError(
        f"Image decoders cannot be sandboxed on this machine: {problem}.",
        remedy="Use Linux on x86-64 or AArch64 with seccomp; or, if you trust the files, write into site.toml: "
        f'decode_without_sandbox = "{ACCEPTED}".',
    )
