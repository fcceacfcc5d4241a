"""What every command shares: one way to fail, one way to show a table, one way to print for a machine."""

import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from salus.common.errors import SalusError, storage_error

INTERRUPTED = 130
out = Console()
err = Console(stderr=True)


def group(help_text: str) -> typer.Typer:
    """Return a group of commands."""
    return typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)


def example(text: str) -> str:
    """Return the last line of a command's help: an example that works; a test runs or parses each."""
    return f"Example: {text}"


def run(app: Callable[[], None]) -> None:
    """Run the command line: every failure is one clear line and a non-zero exit code, never a traceback.

    An error nobody foresaw leaves its traceback in a private file, because it may quote data; the line says which.
    """
    try:
        app()
    except SalusError as problem:
        err.print(f"[bold red]Error:[/] {_plain(str(problem))}", soft_wrap=True)
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        err.print("Interrupted.")
        sys.exit(INTERRUPTED)
    except Exception as problem:
        known = storage_error(problem) if isinstance(problem, OSError) else None
        if known is not None:
            err.print(f"[bold red]Error:[/] {_plain(str(known))}", soft_wrap=True)
            sys.exit(known.exit_code)
        handle, path = tempfile.mkstemp(prefix="salus-error-", suffix=".txt")
        with os.fdopen(handle, "w") as file:
            logger = logging.Logger("salus")
            logger.addHandler(logging.StreamHandler(file))
            logger.exception("unexpected")
        err.print(
            f"[bold red]Error:[/] An unexpected {type(problem).__name__} occurred; the details are in {path}. "
            "Please report it without patient data.",
            soft_wrap=True,
        )
        sys.exit(1)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table."""
    shown = Table(title=title or None, title_justify="left", header_style="bold")
    for column in columns:
        shown.add_column(column)
    for row in rows:
        shown.add_row(*(_plain(str(cell)) for cell in row))
    out.print(shown)


def emit_json(value: Any, target: str = "-") -> None:
    """Write one JSON object to a file, or to standard output for ``-``."""
    text = json.dumps(value, indent=1, allow_nan=False)
    if target == "-":
        sys.stdout.write(text + "\n")
    else:
        Path(target).write_text(text + "\n", encoding="utf-8")
