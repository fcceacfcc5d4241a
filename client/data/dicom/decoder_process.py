"""The child that parses and decodes files for `isolation`: loads what its role needs, enters its sandbox, and serves.

    parent ── setup ──> child: loads the role's modules, enters its sandbox ── ready ──> parent
    parent ── operation, bytes ──> child ── [question about files <──> data] ── answer or problem ──> parent

A role is a class: its constructor loads everything that a file may need, because nothing can be opened later; `answer` does one
operation. It reports a problem with a file by raising `UnreadableImage`, and one with the whole data set by raising `DataError`.
"""

import codecs
import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

from salus.client.data.dicom.channel import Buffer, Channel, ProtocolError
from salus.client.data.dicom.messages import (
    ANSWER,
    DATA,
    PROBLEM,
    QUESTION,
    READY,
    Answer,
    Operation,
    Problem,
    Question,
    Ready,
    Setup,
)
from salus.client.data.sandbox import SandboxUnavailableError, lock_down
from salus.common.errors import DataError, UnreadableImage

# Each is a module that Python loads when it is first used.
ENCODINGS = ("utf-8", "utf-8-sig", "latin-1", "ascii", "cp1252", "utf-16")
Ask = Callable[[Question], bytearray]


class Role(Protocol):
    """What a child does."""

    def __init__(self, settings: str, secret: bytes, ask: Ask) -> None:
        """Load everything; `ask` gets what the parent knows of the files, and works once the child serves."""

    def answer(self, operation: Operation, data: bytearray) -> tuple[Answer, Sequence[Buffer]]:
        """Do one operation; the buffers are the answer's body."""


def main() -> None:
    """Run in the child, with its pipes as standard input and output."""
    channel = Channel(os.dup(0), os.dup(1))
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # what a library prints must not be mistaken for an answer
        os.dup2(nothing, standard)
    os.close(nothing)
    warnings.simplefilter("ignore")
    for encoding in ENCODINGS:
        codecs.lookup(encoding)
    _, header, length = channel.receive()
    setup, secret = Setup.model_validate_json(header), bytes(channel.read(length))
    try:
        module, _, name = setup.role.partition(":")
        role: Role = getattr(importlib.import_module(module), name)(setup.settings, secret, _asking(channel))
        held = lock_down(setup.memory_bytes, setup.layers)
    except SandboxUnavailableError as problem:
        _said(channel, READY, Ready(problem=str(problem)))
        return
    except Exception as problem:  # of a plug-in
        _said(channel, READY, Ready(failed=type(problem).__name__))
        return
    _said(channel, READY, Ready(layers=held))
    with contextlib.suppress(EOFError):
        while True:
            _serve_one(channel, role)
    sys.exit(0)


def _serve_one(channel: Channel, role: Role) -> None:
    _, header, length = channel.receive()
    try:
        answer, body = role.answer(Operation.model_validate_json(header), channel.read(length))
        channel.send(ANSWER, answer.model_dump_json().encode(), *body)
    except (EOFError, ProtocolError, BrokenPipeError):
        raise EOFError from None
    except Exception as problem:
        _said(channel, PROBLEM, problem_of(problem))


def problem_of(problem: Exception) -> Problem:
    """Return what to say about a file that cannot be decoded."""
    if isinstance(problem, UnreadableImage):
        return Problem(reason=problem.reason, detail=problem.detail[:1000])
    if isinstance(problem, DataError):
        return Problem(detail=problem.problem[:1000], remedy=problem.remedy[:1000])
    if isinstance(problem, MemoryError):
        return Problem(reason="too-large", detail="the file needs more memory than allowed")
    if isinstance(problem, RecursionError):
        return Problem(reason="nested-too-deep", detail="the file nests too deeply")
    # Decoders raise arbitrary exceptions; their text is dropped, as it may quote a patient's values.
    return Problem(reason="damaged", detail=f"the file cannot be decoded ({type(problem).__name__})")


def _asking(channel: Channel) -> Ask:
    def ask(question: Question) -> bytearray:
        _said(channel, QUESTION, question)
        kind, header, length = channel.receive()
        if kind == PROBLEM:
            problem = Problem.model_validate_json(header)
            raise UnreadableImage(problem.reason, problem.detail)
        if kind != DATA:
            raise ProtocolError
        return channel.read(length)

    return ask


def _said(channel: Channel, kind: bytes, what: Ready | Question | Problem) -> None:
    channel.send(kind, what.model_dump_json().encode())
