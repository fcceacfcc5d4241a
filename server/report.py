"""The report of a job: one HTML file with inline plots, nothing fetched from anywhere, readable by a hospital's board."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from salus import __version__
from salus.common.estimates import from_plain, metric_text
from salus.common.events import Event
from salus.common.job import Job
from salus.privacy.protection import protection_of
from salus.server.card import PrivacyCard

PLOT_WIDTH, PLOT_HEIGHT, MARGIN = 460, 190, 34
SHOWN_METRICS = ("auc", "accuracy", "loss", "calibration_error")


@dataclass(frozen=True)
class Plot:
    """One metric over the rounds, as points of an SVG polyline."""

    name: str
    points: str
    low: str
    high: str
    last: str
    rounds: int


@dataclass(frozen=True)
class SiteRow:
    """What a site's own log says; only where the report is made on one machine, such as the demo."""

    name: str
    patients: int
    images: int
    left_out: str
    rounds: int


def curves(records: Sequence[Mapping[str, object]], final: Mapping[str, object]) -> list[Plot]:
    """Return a plot per metric. A round's record holds the metrics of the model that the round began with, so the curve of
    the sites' validation patients begins at the initial model and ends with the final one."""
    series: dict[str, list[float]] = {name: [] for name in SHOWN_METRICS}
    for metrics in [*(record.get("metrics", record.get("metrics_before")) for record in records), final]:
        if isinstance(metrics, Mapping):
            for name in SHOWN_METRICS:
                value = metrics.get(name)
                if isinstance(value, int | float):
                    series[name].append(float(value))
    return [_plot(name, values) for name, values in series.items() if len(values) > 1]


def _plot(name: str, values: Sequence[float]) -> Plot:
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    inner_w, inner_h = PLOT_WIDTH - 2 * MARGIN, PLOT_HEIGHT - 2 * MARGIN
    points = " ".join(
        f"{MARGIN + inner_w * i / (len(values) - 1):.1f},{PLOT_HEIGHT - MARGIN - inner_h * (v - low) / span:.1f}"
        for i, v in enumerate(values)
    )
    return Plot(name, points, f"{low:.3f}", f"{high:.3f}", f"{values[-1]:.3f}", len(values) - 1)


def phases(records: Sequence[Mapping[str, object]]) -> list[tuple[str, float]]:
    """Return the seconds spent in each phase over all rounds."""
    totals: dict[str, float] = {}
    for record in records:
        seconds = record.get("seconds")
        if isinstance(seconds, Mapping):
            for phase, value in seconds.items():
                totals[str(phase)] = totals.get(str(phase), 0.0) + float(value)
    return sorted(totals.items())


def write_report(
    path: Path,
    job: Job,
    job_id: str,
    records: Sequence[Mapping[str, object]],
    events: Sequence[Event],
    card: PrivacyCard,
    sites: Sequence[SiteRow] = (),
) -> None:
    """Write the report of a finished job to `path`."""
    evaluated = [event for event in events if event.kind == "evaluated"]
    final = evaluated[-1].fields.get("metrics", {}) if evaluated else {}
    environment = Environment(
        loader=PackageLoader("salus.server", "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("report.html.j2").render(
        job=job,
        job_id=job_id,
        version=__version__,
        records=records,
        cohort=records[-1].get("cohort", {}) if records else {},
        plots=curves(records, final if isinstance(final, Mapping) else {}),
        final={name: metric_text(metric) for name, metric in from_plain(final).items()},
        phases=phases(records),
        left_out=[event for event in events if event.kind in ("not-asked", "left-out", "abandoned", "resumed")],
        sites=sites,
        card=card,
        protects=protection_of(job).protects,
        promise=protection_of(job).promise,
        width=PLOT_WIDTH,
        height=PLOT_HEIGHT,
        margin=MARGIN,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
