"""Common parts of all commands: reporting failures, printing tables, printing JSON.

All output goes through `SafeConsole`, which lets no control character in any text reach the terminal. Text inside a string
with rich markup also goes through `shown`, so that it is never interpreted as markup.
"""

import contextlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from typer.core import TyperArgument

from salus.common.errors import SalusError, storage_error
from salus.common.extras import error_of
from salus.common.help import use_option_tables
from salus.common.names import visible
from salus.common.signals import Stopped, unwinding


class SafeConsole(Console):
    """A console on which text cannot move the cursor, change colours, write to the clipboard or reverse the text direction.

    Only rich's own control segments (colours, the progress bar's cursor) reach the terminal.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of `renderable` with control characters in their text escaped."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                style = segment.style
                if style is not None and style.link:  # a link's address is a separate escape sequence
                    style = style.update_link(None)
                yield Segment(visible(segment.text, keep="\n\t"), style)


out: Console = SafeConsole()
err: Console = SafeConsole(stderr=True)


def shown(value: object) -> str:
    """Return a value as text for a string with rich markup: escaped markup, no control characters, one line."""
    return escape(visible(str(value)))


def tell(line: str, *, alarm: bool = False) -> None:
    """Print a line of a daemon; a full disk or a closed pipe behind standard output does not stop the daemon."""
    with contextlib.suppress(OSError):
        with (
            out.capture() as captured
        ):  # otherwise rich keeps a line that it could not write, and writes it with the next
            out.print(line, style="bold red" if alarm else None, markup=False, highlight=False, soft_wrap=True)
        out.file.write(captured.get())
        out.file.flush()


def _keep_help_of_arguments() -> None:
    """Let typer's arguments keep their help: since click 8.4, the constructor of the class above replaces it by its own, None."""
    plain = TyperArgument.__init__

    def keeping(self: TyperArgument, *words: Any, **settings: Any) -> None:
        plain(self, *words, **settings)
        self.help = settings.get("help")

    TyperArgument.__init__ = keeping  # type: ignore[method-assign]


_keep_help_of_arguments()
use_option_tables()


def group(help_text: str) -> typer.Typer:
    """Return a group of commands."""
    return typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)


def example(text: str) -> str:
    """Return the last line of a command's help: a working example, which a test runs or parses."""
    return f"Example: {text}"


def run(app: Callable[[], None]) -> None:
    """Run the command line: every failure gives one clear line and a non-zero exit code, never a traceback.

    Ctrl-C and SIGTERM end a command with one line, and exit code 130 or 143.
    The traceback of an unexpected error goes to a private file, because it may quote data; the line names the file.
    """
    try:
        with unwinding():
            app()
    except SalusError as problem:
        err.print(f"[bold red]Error:[/] {shown(problem)}", soft_wrap=True)
        sys.exit(problem.exit_code)
    except Stopped as stopped:
        err.print(shown(stopped.line), soft_wrap=True)
        sys.exit(stopped.exit_code)
    except Exception as problem:
        known: SalusError | None = storage_error(problem) if isinstance(problem, OSError) else None
        if isinstance(problem, ModuleNotFoundError):
            known = error_of(problem)
        if known is not None:
            err.print(f"[bold red]Error:[/] {shown(str(known))}", soft_wrap=True)
            sys.exit(known.exit_code)
        handle, path = tempfile.mkstemp(prefix="salus-error-", suffix=".txt")
        with os.fdopen(handle, "w") as file:
            logger = logging.Logger("salus")
            logger.addHandler(logging.StreamHandler(file))
            logger.exception("unexpected")
        err.print(
            f"[bold red]Error:[/] An unexpected {type(problem).__name__} occurred; the details are in {shown(path)}. "
            "Please report it without patient data.",
            soft_wrap=True,
        )
        sys.exit(1)


def show_fingerprint(public_key: bytes, title: str = "Fingerprint") -> None:
    """Print a key's fingerprint as digits and as words; people compare either, both are the same 128 bits."""
    from salus.common.identity import fingerprint
    from salus.common.words import fingerprint_words

    out.print(f"{shown(title)}: [bold]{fingerprint(public_key)}[/]", highlight=False, soft_wrap=True)
    out.print(f"In words: [bold]{shown(fingerprint_words(public_key))}[/]", highlight=False, soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; title and cells are plain text, and columns that are all without a name have no header."""
    if title:  # not as the grid's own, which is wrapped to the width of a narrow grid
        out.print(shown(title), style="italic", soft_wrap=True, highlight=False)
    grid = Table(header_style="bold", show_header=any(columns))
    for column in columns:
        grid.add_column(shown(column), overflow="fold")  # a truncated id cannot be copied
    for row in rows:
        grid.add_row(*(shown(cell) for cell in row))
    out.print(grid)


def emit_json(value: Any, target: str = "-") -> None:
    """Write one JSON object to a file, or to standard output for ``-``; everything but printable ASCII is escaped."""
    text = json.dumps(value, indent=1, allow_nan=False)
    if target == "-":
        sys.stdout.write(text + "\n")
    else:
        Path(target).write_text(text + "\n", encoding="utf-8")
