"""The metrics of a model in each subgroup, as they are written to events, reports and JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from salus.common.estimates import Metrics, from_plain, metric_text, to_plain
from salus.common.subgroups.base import Groups
from salus.common.subgroups.exact import Float64Array, GroupTotals

if TYPE_CHECKING:  # commands that only show results need no torch
    from salus.common.tasks.base import Task

HIDDEN = "none or hidden"  # in place of the metrics of a group without patients
MOST_IN_TERMINAL = 4  # metrics beside each other


@dataclass(frozen=True)
class GroupResult:
    """One group.

    Args:
        patients: validation patients whose results are in the metrics; None under noise.
        metrics: empty for a group without patients, or hidden at every site.
    """

    value: str
    patients: int | None
    metrics: Metrics


@dataclass(frozen=True)
class AttributeResult:
    """All groups of one attribute.

    Args:
        hidden: at least so many validation patients are in groups that their sites hide; None under noise. A patient with
            images in several groups counts in each.
    """

    attribute: str
    hidden: int | None
    groups: tuple[GroupResult, ...]


def exact_results(task: "Task", groups: Groups, totals: GroupTotals) -> tuple[AttributeResult, ...]:
    """Return the results of a job without noise."""
    found = []
    for name, block in groups.blocks.items():
        counts, rows = totals.patients[block], totals.rows[block]
        each = zip(groups.attributes[name].values, counts, rows, strict=True)
        results = tuple(GroupResult(value, int(n), task.metrics(row) if n > 0 else {}) for value, n, row in each)
        found.append(AttributeResult(name, max(0, int(totals.everyone - counts.sum())), results))
    return tuple(found)


def noisy_results(task: "Task", groups: Groups, rows: Float64Array, noise_sd: float) -> tuple[AttributeResult, ...]:
    """Return the results of a job with noise.

    Args:
        rows: noisy sums of private rows, ``[groups, row]``.
        noise_sd: standard deviation of the noise in each of them.
    """
    return tuple(
        AttributeResult(
            name,
            None,
            tuple(
                GroupResult(value, None, task.private_metrics(row, noise_sd))
                for value, row in zip(groups.attributes[name].values, rows[block], strict=True)
            ),
        )
        for name, block in groups.blocks.items()
    )


def results_to_plain(results: Sequence[AttributeResult]) -> dict[str, object]:
    """Return results as plain JSON: by attribute, and there by group."""
    return {
        result.attribute: {
            "hidden": result.hidden,
            "groups": {
                group.value: {"patients": group.patients, "metrics": to_plain(group.metrics)} for group in result.groups
            },
        }
        for result in results
    }


def results_from_plain(values: object) -> tuple[AttributeResult, ...]:
    """Return the results that `results_to_plain` wrote; what is not valid is left out."""
    return tuple(
        AttributeResult(name, _count(part.get("hidden")), tuple(_groups(part.get("groups"))))
        for name, part in _mappings(values)
    )


def _groups(values: object) -> list[GroupResult]:
    return [
        GroupResult(value, _count(part.get("patients")), from_plain(part.get("metrics")))
        for value, part in _mappings(values)
    ]


def _mappings(values: object) -> list[tuple[str, Mapping[str, object]]]:
    parts = values.items() if isinstance(values, Mapping) else ()
    return [(str(name), part) for name, part in parts if isinstance(part, Mapping)]


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None


def table_of(results: Sequence[AttributeResult], most: int | None = None) -> tuple[list[str], list[list[str]]]:
    """Return the heads of the columns and the rows of a table for people.

    Args:
        most: number of metrics at most, the loss left out; None for all.
    """
    names = list(dict.fromkeys(name for result in results for group in result.groups for name in group.metrics))
    if most is not None:
        names = [name for name in names if name != "loss"][:most]
    counted = any(group.patients is not None for result in results for group in result.groups)
    rows = []
    for result in results:
        for group in result.groups:
            texts = [metric_text(group.metrics[name]) if name in group.metrics else "" for name in names]
            if not group.metrics and texts:
                texts[0] = HIDDEN
            rows.append(
                [f"{result.attribute}: {group.value}", *([str(group.patients or "")] if counted else []), *texts]
            )
        if result.hidden:
            rows.append([f"{result.attribute}: hidden", str(result.hidden), *[""] * len(names)])
    return ["subgroup", *(["patients"] if counted else []), *names], rows


def brief_table_of(results: Sequence[AttributeResult]) -> tuple[list[str], list[list[str]]]:
    """Return `table_of` for a narrow terminal: few metrics, and only groups that have some; see `without_figures`."""
    figures = [replace(result, groups=tuple(group for group in result.groups if group.metrics)) for result in results]
    return table_of(figures, MOST_IN_TERMINAL)


def without_figures(results: Sequence[AttributeResult]) -> str:
    """Return the groups without metrics as a sentence; empty if there are none."""
    found = {result.attribute: [group.value for group in result.groups if not group.metrics] for result in results}
    listed = "; ".join(f"{name}: {', '.join(values)}" for name, values in found.items() if values)
    return f"Without figures, as nobody is in the group or it is hidden: {listed}." if listed else ""
