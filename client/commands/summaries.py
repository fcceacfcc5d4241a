"""Prints a data set in counts."""

from collections.abc import Iterator
from dataclasses import asdict

from salus.client.data.readiness_page import label_rows
from salus.client.data.summaries import DatasetSummary
from salus.client.data.target_check import unit_of
from salus.client.data.target_table import TargetSummary
from salus.common.console import emit_json, table


def show_summary(summary: DatasetSummary, *, as_json: bool) -> None:
    """Print the counts as a table or as JSON."""
    if as_json:
        emit_json(asdict(summary))
        return
    labels = label_rows(summary.labels, {})
    rows = [
        ("kind", summary.kind),
        ("patients", summary.patients),
        ("studies", summary.studies),
        ("images", summary.images),
        ("images with the same pixels", summary.duplicates),
        *((f"label {label}" if label in summary.labels else label, count) for label, count, _ in labels),
        *(row for name, target in summary.targets.items() for row in _target_rows(name, target, summary.kind)),
        *((f"not used: {reason}", count) for reason, count in summary.quarantined.items()),
        *([("set aside: label files and the like", summary.set_aside)] if summary.set_aside else []),
        *([("rows of the label file without an image", summary.unmatched)] if summary.unmatched else []),
    ]
    table(summary.name, ["", ""], rows)


def _target_rows(name: str, target: TargetSummary, source: str) -> Iterator[tuple[str, object]]:
    yield f"{target.kind} {name}" if name != target.kind else name, target.images
    if target.empty:
        yield f"{name}: empty", target.empty
    if target.cut:
        yield f"{name}: reaches beyond the image", target.cut
    unit = unit_of(target.kind, source)
    for structure, amount in target.amounts.items():
        yield f"{name}: {structure}, in all images", f"{amount:,.6g} {unit}".strip()
