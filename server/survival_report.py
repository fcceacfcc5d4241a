"""Cox regressions and Kaplan-Meier curves for people: tables, and a picture of the curves."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from salus.common.pages import Section

WIDTH, HEIGHT, MARGIN, LINE = 560, 270, 38, 16
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito 2008
MOST_TIMES = 12  # rows of a curve's table


def survival_sections(result: Mapping[str, Any]) -> list[Section]:
    """Return the sections of a result of kind `cox` or `kaplan-meier`; none for other kinds."""
    if result.get("kind") == "cox":
        return [_cox(result)]
    if result.get("kind") == "kaplan-meier":
        return [_plot(result), *(_curve(result, name) for name in result["curves"])]
    return []


def _cox(result: Mapping[str, Any]) -> Section:
    values = zip(
        result["columns"], result["coefficients"], result["standard_errors"], result["hazard_ratios"], strict=True
    )
    rows = [(name, f"{value:.4g}", f"{error:.2g}", f"{ratio:.4g}") for name, value, error, ratio in values]
    text = f"{result['events']:.0f} events. Errors count the penalty as knowledge; with a large penalty they are too small."
    return Section(
        "Cox regression",
        text=text,
        columns=("column", "coefficient per unit", "standard error", "hazard ratio per unit"),
        rows=rows,
    )


def _curve(result: Mapping[str, Any], name: str) -> Section:
    found, times = result["curves"][name], result["times"]
    every = max(1, -(-len(times) // MOST_TIMES))
    places = range(every - 1, len(times), every)
    rows = [
        (f"{times[n]:g}", f"{found['survival'][n]:.3f}", f"{found['low'][n]:.3f} to {found['high'][n]:.3f}")
        for n in places
    ]
    title = f"Survival, {name}: {found['patients']:,.0f} patients, {found['events']:,.0f} events"
    return Section(title, columns=("until", "free of the event", "confidence band"), rows=rows)


def _plot(result: Mapping[str, Any]) -> Section:
    curves, times = result["curves"], [0.0, *result["times"]]
    shapes = []
    for number, found in enumerate(curves.values()):
        colour = COLOURS[number % len(COLOURS)]
        low, high = _steps(times, [1.0, *found["low"]]), _steps(times, [1.0, *found["high"]])
        shapes.append(f'<polygon points="{_points(low + high[::-1])}" fill="{colour}" opacity="0.18"/>')
        line = _points(_steps(times, [1.0, *found["survival"]]))
        shapes.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
    frame = f'<rect x="{MARGIN}" y="8" width="{WIDTH - MARGIN - 8}" height="{HEIGHT - MARGIN - 8}" fill="none" stroke="#888"/>'
    marks = [_text(4, _y(share) + 4, f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1)]
    last = times[-1] or 1.0
    marks += [
        _text(MARGIN + share * (WIDTH - MARGIN - 40), HEIGHT - 16, f"{share * last:.4g}") for share in (0, 0.5, 1)
    ]
    marks.append(_text(WIDTH / 2 - 90, HEIGHT - 3, "time, in the unit of the data"))
    below = "".join(_legend(number, name) for number, name in enumerate(curves))
    size = f'width="{WIDTH}" height="{HEIGHT + LINE * len(curves)}"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{frame}{"".join(shapes)}{"".join(marks)}{below}</svg>'
    url = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    text = "Share of the patients who are free of the event until each time; the shade is the confidence band."
    return Section("Free of the event over time", text=text, pictures=[("", url)], full=True)


def _legend(number: int, name: str) -> str:
    height = HEIGHT + LINE * number + 10
    colour = COLOURS[number % len(COLOURS)]
    return (
        f'<rect x="{MARGIN}" y="{height - 5}" width="18" height="4" fill="{colour}"/>{_text(MARGIN + 26, height, name)}'
    )


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="12" font-family="sans-serif">{escape(text)}</text>'


def _steps(times: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """Return the corners of a step function: each value holds from its time to the next one."""
    corners, last = [], times[-1] or 1.0
    for place, (time, value) in enumerate(zip(times, values, strict=True)):
        if place:
            corners.append((time / last, values[place - 1]))
        corners.append((time / last, value))
    return corners


def _points(corners: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{MARGIN + share * (WIDTH - MARGIN - 8):.1f},{_y(value):.1f}" for share, value in corners)


def _y(value: float) -> float:
    return 8 + (1 - value) * (HEIGHT - MARGIN - 8)
