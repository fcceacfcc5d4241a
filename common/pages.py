"""HTML pages for people: tables, bar plots and small images in one self-contained file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

PLOT_WIDTH, PLOT_HEIGHT, BASE = 560, 110, 16


@dataclass(frozen=True)
class Bar:
    """One bar of a plot, in pixels."""

    name: str
    value: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Section:
    """One section of a page; empty parts are not shown.

    Args:
        warns: whether the text is shown as a warning.
        bars: names and heights of a bar plot, from left to right.
        pictures: captions and ``data:`` URLs of images.
        large: whether the pictures are shown large.
        full: whether they are shown in their own size; a picture without a URL is a caption only.
        code: text for the reader to copy.
    """

    title: str
    text: str = ""
    warns: bool = False
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()
    bars: Sequence[tuple[str, float]] = ()
    pictures: Sequence[tuple[str, str]] = ()
    large: bool = False
    full: bool = False
    code: str = ""

    def plotted(self, width: int, height: int) -> list[Bar]:
        """Return the bars as rectangles."""
        top = max((value for _, value in self.bars), default=0.0)
        step = width / max(len(self.bars), 1)
        room = height - BASE
        return [
            Bar(
                name,
                f"{value:.6g}",
                round(place * step, 1),
                round(room * (1 - _share(value, top)), 1),
                round(max(step - 1, 0.5), 1),
                round(room * _share(value, top), 1),
            )
            for place, (name, value) in enumerate(self.bars)
        ]


def _share(value: float, top: float) -> float:
    return max(value, 0.0) / top if top > 0 else 0.0


def write_page(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write a page completely or not at all, readable only by its owner; all text in it is escaped."""
    environment = Environment(
        loader=PackageLoader("salus.common", "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html.j2").render(
        title=title, lead=lead, sections=sections, width=PLOT_WIDTH, height=PLOT_HEIGHT
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with os.fdopen(os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
