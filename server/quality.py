"""Quality of the final model, read from a job's events: its metrics, figures and results in subgroups."""

from collections.abc import Sequence

from salus.common.estimates import Metric, from_plain
from salus.common.events import Event
from salus.common.figures import Figures, figures_of
from salus.common.subgroups.results import AttributeResult, results_from_plain


def evaluation_in(events: Sequence[Event]) -> dict[str, Metric]:
    """Return the metrics of the last evaluation at the sites; empty if there was none."""
    found = [event for event in events if event.kind == "evaluated"]
    return from_plain(found[-1].fields.get("metrics")) if found else {}


def figures_in(events: Sequence[Event]) -> Figures:
    """Return the figures of the last evaluation at the sites."""
    found = [event for event in events if event.kind == "evaluated"]
    return figures_of(found[-1].fields.get("figures")) if found else Figures()


def subgroups_in(events: Sequence[Event]) -> tuple[AttributeResult, ...]:
    """Return the results of the last evaluation in each subgroup; empty for a job without subgroups."""
    found = [event for event in events if event.kind == "evaluated"]
    return results_from_plain(found[-1].fields.get("subgroups")) if found else ()
