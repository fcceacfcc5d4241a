"""How `--help` looks: whole names of options on a terminal of 80 columns, and the headings under which options stand."""

from collections.abc import Callable
from typing import Any

from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

MOST_KIND = 15  # columns for TEXT, PATH or INTEGER RANGE [0<=x<=64], in two lines
LABELS, DICOM, MASKS, TABLES, PACS = "Labels", "DICOM", "Masks and NIfTI", "Tables", "PACS"


class OptionTable(Table):
    """A table of options with three columns in place of typer's six: all names of an option, its kind, its help.

    Typer gives names, short names and the names that begin with ``--no-`` a column each, and cuts them off where these do not
    fit. Here the names are never cut off, the help gets what is left, and a long word in it is folded.
    """

    def add_row(self, *cells: Any, **settings: Any) -> None:
        """Add a row; one of typer's options or arguments has at least six cells, anything else is left as it is."""
        if len(cells) < 6:
            super().add_row(*cells, **settings)
            return
        *required, name, short, negative, negative_short, kind, text = cells
        if not self.columns:
            for _ in required:
                self.add_column()
            self.add_column(no_wrap=True)
            self.add_column(max_width=MOST_KIND)
            self.add_column(ratio=1, overflow="fold")
        lines = [Text(", ").join(filter(None, pair)) for pair in ((name, short), (negative, negative_short))]
        super().add_row(*required, Text("\n").join(filter(None, lines)), kind, text, **settings)


def use_option_tables() -> None:
    """Let typer print options as `OptionTable`; typer's module for this is imported only once a help is asked for."""
    for kind in (TyperCommand, TyperGroup):
        kind.format_help = _with_option_tables(kind.format_help)  # type: ignore[method-assign]


def _with_option_tables(plain: Callable[..., None]) -> Callable[..., None]:
    def format_help(*words: Any, **settings: Any) -> None:
        from typer import rich_utils

        vars(rich_utils)["Table"] = OptionTable
        plain(*words, **settings)

    return format_help
