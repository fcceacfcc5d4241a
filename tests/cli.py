"""The command line in this very process: everything but the start of an interpreter, which costs seconds each time."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from salus.cli import app
from salus.common.console import run


@dataclass(frozen=True)
class Result:
    """What a person would see; field names as of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def salus(*words: object, cwd: Path | None = None) -> Result:
    """Run a `salus` command as `salus.cli.main` does and return its exit code and output."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with _place(cwd), _arguments(words), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run(app)
        except SystemExit as end:
            code = end.code
    return Result(code if isinstance(code, int) else int(code is not None), out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _arguments(words: tuple[object, ...]) -> Iterator[None]:
    before = sys.argv
    sys.argv = ["salus", *map(str, words)]
    try:
        yield
    finally:
        sys.argv = before


@contextlib.contextmanager
def _place(folder: Path | None) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder or before)
    try:
        yield
    finally:
        os.chdir(before)
