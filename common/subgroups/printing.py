"""Prints the metrics of subgroups on a terminal."""

from collections.abc import Sequence

from salus.common.console import out, table
from salus.common.subgroups.results import AttributeResult, brief_table_of, without_figures


def show_subgroups(title: str, results: Sequence[AttributeResult]) -> None:
    """Print a table of the groups that have figures, and name the others below it."""
    table(title, *brief_table_of(results))
    if others := without_figures(results):
        out.print(others, markup=False, highlight=False, soft_wrap=True)
