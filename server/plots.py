"""The plots of a report, as coordinates in an SVG image whose labels have their own space outside the axes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from salus.common.estimates import Estimate, from_plain, metric_text
from salus.common.figures import Curve, Figures

WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 44  # space for the tick labels and the title of each axis
SQUARE = 320  # a ROC curve has equal axes
COLOURS = ("#2f6fab", "#c2571a", "#3d8b57", "#8a4fa3", "#b02a4c", "#5a6675", "#9a7d0a", "#13808f", "#6b4423", "#d0609b")
SHOWN_METRICS = {"auc": "AUC", "accuracy": "accuracy", "loss": "loss", "calibration_error": "calibration error"}


@dataclass(frozen=True)
class Tick:
    """A tick of an axis: its place in pixels and its label."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """One curve: points of an SVG polyline, its name and colour."""

    name: str
    points: str
    colour: str


@dataclass(frozen=True)
class Plot:
    """A plot with ticks and titles on both axes."""

    title: str
    x_title: str
    y_title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    diagonal: bool = False

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the area between the axes."""
        return LEFT, TOP, self.width - RIGHT, self.height - BOTTOM


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low), 1)


def round_plots(records: Sequence[Mapping[str, object]], final: object) -> list[Plot]:
    """Return a plot for each exact metric over the rounds.

    Args:
        records: records of the rounds; each holds the metrics of the model that its round began with.
        final: metrics of the final model, as in an event, so that the curve ends with it.
    """
    series: dict[str, list[float]] = {name: [] for name in SHOWN_METRICS}
    for values in [*(record.get("metrics", record.get("metrics_before")) for record in records), final]:
        for name, metric in from_plain(values).items():
            if name in series and not isinstance(metric, Estimate):
                series[name].append(metric)
    return [_over_rounds(SHOWN_METRICS[name], values) for name, values in series.items() if len(values) > 1]


def _over_rounds(name: str, values: Sequence[float]) -> Plot:
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or 0.05
    last = len(values) - 1
    x = _Scale(0, last, LEFT, WIDTH - RIGHT)
    y = _Scale(low - room, high + room, HEIGHT - BOTTOM, TOP)
    points = " ".join(f"{x(place)},{y(value)}" for place, value in enumerate(values))
    marks = sorted({0, last // 2, last})
    heights = (low, high) if high > low else (low,)
    return Plot(
        title=f"{name}: {metric_text(values[-1])} at the end",
        x_title="round",
        y_title=name,
        lines=(Line(name, points, COLOURS[0]),),
        x_ticks=tuple(Tick(x(mark), str(mark)) for mark in marks),
        y_ticks=tuple(Tick(y(value), metric_text(value)) for value in heights),
    )


def roc_plot(figures: Figures) -> Plot | None:
    """Return the ROC curves in one plot, or None without curves."""
    title = "ROC curve" if len(figures.curves) == 1 else "ROC curves, each class against the others"
    return _square(figures.curves, title, "false positive rate", "true positive rate", diagonal=True)


def further_plots(figures: Figures) -> list[Plot]:
    """Return the precision-recall curves and the calibration curve, if they were measured."""
    one = len(figures.precision_recall) == 1
    title = "Precision-recall curve" if one else "Precision-recall curves, each class against the others"
    calibration = (Curve(name="predictions", points=figures.calibration),) if figures.calibration else ()
    found = [
        _square(figures.precision_recall, title, "recall", "precision"),
        _square(
            calibration, "Calibration: on the diagonal, confidence is right", "confidence", "share right", diagonal=True
        ),
    ]
    return [plot for plot in found if plot is not None]


def _square(curves: Sequence[Curve], title: str, x_title: str, y_title: str, *, diagonal: bool = False) -> Plot | None:
    """Return curves from 0 to 1 in one plot, or None without curves."""
    if not curves:
        return None
    x, y = _Scale(0, 1, LEFT, SQUARE - RIGHT), _Scale(0, 1, SQUARE - BOTTOM, TOP)
    lines = tuple(
        Line(curve.name, " ".join(f"{x(across)},{y(up)}" for across, up in curve.points), colour)
        for curve, colour in zip(curves, COLOURS, strict=False)
    )
    marks = (0.0, 0.25, 0.5, 0.75, 1.0)
    return Plot(
        title=title,
        x_title=x_title,
        y_title=y_title,
        lines=lines,
        x_ticks=tuple(Tick(x(mark), f"{mark:g}") for mark in marks),
        y_ticks=tuple(Tick(y(mark), f"{mark:g}") for mark in marks),
        width=SQUARE,
        height=SQUARE,
        diagonal=diagonal,
    )


def confusion_rows(figures: Figures) -> list[tuple[str, list[str]]]:
    """Return the rows of the confusion matrix: the true class and one text for each predicted class."""
    rows = []
    for number, (name, counts) in enumerate(zip(figures.classes, figures.confusion, strict=False)):
        texts = [f"{count:.0f}" for count in counts]
        if figures.errors:
            texts = [
                f"{count:.0f} +- {error:.0f}" for count, error in zip(counts, figures.errors[number], strict=False)
            ]
        rows.append((name, texts))
    return rows
