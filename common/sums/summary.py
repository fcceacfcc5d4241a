"""Summary of the data at all sites: patients, images, labels, modalities, spacing, sizes, intensities, columns."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from salus.common.columns import columns_of
from salus.common.job import Job
from salus.common.job_statistics import Column
from salus.common.sums.base import Block, Float64Vector, Measured, Patients, Totals, bins_of, finite, sum_of_rows

SPACING_EDGES_MM = tuple(0.05 * 2 ** (k / 2) for k in range(17))  # 0.05 to 12.8 mm in steps of half an octave
SIZE_EDGES = tuple(float(2**k) for k in range(4, 14))  # 16 to 8192 pixels
EXACT = 17  # digits that any two doubles differ in
WIDTH = 4.0  # a column's histogram covers this many scales to either side of its centre


class Summary:
    """Counts and histograms, in one step.

    Every image adds one to one cell of each block (for intensities, a distribution that sums to one), so a row's norm is at
    most the square root of the number of blocks.
    """

    steps = 1

    def __init__(self, job: Job) -> None:
        assert job.statistics is not None  # Safe because `sums_of` has looked.
        self._settings, self._task, self._columns = job.statistics, job.task, columns_of(job.task)
        self._modalities = tuple(dict.fromkeys((*self._settings.modalities, "OTHER")))  # a job may list it itself
        self._blocks: list[tuple[str, list[str], Literal["ordered", "named"]]] = [
            ("labels", [*job.task.classes, _another("other label", job.task.classes)], "named")
        ]
        if self._columns:
            self._blocks += [(f"column {column.name}", self._column_names(column), "named") for column in self._columns]
        else:
            self._blocks += [
                ("modalities", list(self._modalities), "named"),
                ("pixel spacing in mm", _edge_names(SPACING_EDGES_MM), "named"),
                ("slice spacing in mm", _edge_names(SPACING_EDGES_MM), "named"),
                ("rows", _edge_names(SIZE_EDGES), "named"),
                *((f"intensities {name}", self._intensity_names(), "ordered") for name in self._modalities),
            ]

    def state_size(self, step: int) -> int:
        return 0

    def blocks(self, step: int) -> Sequence[Block]:
        return [Block(len(names), kind, "intensities") for _, names, kind in self._blocks]

    def reach(self, step: int) -> float:
        return math.sqrt(1 + len(self._columns)) if self._columns else math.sqrt(6)

    def row(self, step: int, state: Sequence[float], image: Measured) -> Float64Vector | None:
        if not finite(image.intensities):
            return None
        classes = len(self._task.classes)
        parts = [_one_hot(classes if image.label is None else image.label, classes + 1)]
        if self._columns:
            return np.concatenate([*parts, *(self._column(column, image) for column in self._columns)])
        modality = self._modalities.index(image.modality if image.modality in self._modalities else "OTHER")
        spacing = image.spacing_mm
        parts += [
            _one_hot(modality, len(self._modalities)),
            _place(spacing[-2] if len(spacing) >= 2 else None, SPACING_EDGES_MM),
            _place(spacing[0] if len(spacing) == 3 else None, SPACING_EDGES_MM),
            _place(float(image.intensities.shape[-2]) if image.intensities.ndim >= 2 else None, SIZE_EDGES),
        ]
        settings = self._settings
        shares = bins_of(image.counted, settings.intensity_low, settings.intensity_high, settings.bins)
        return np.concatenate(
            [*parts, *(shares if m == modality else np.zeros(settings.bins) for m in range(len(self._modalities)))]
        )

    def measure(self, step: int, state: Sequence[float], patients: Patients, least: int) -> Float64Vector:
        return sum_of_rows(self, step, state, patients, least)

    def fold(self, step: int, state: Sequence[float], totals: Totals) -> list[float]:
        return [float(value) for value in totals.cells]

    def model(self, state: Sequence[float]) -> dict[str, Any]:
        return {}

    def result(self, state: Sequence[float], totals: Totals) -> dict[str, Any]:
        """Return the counts by block and name; a zero may be a suppressed cell."""
        found: dict[str, Any] = {"patients": totals.patients, "images": totals.images, "noise_sd": totals.noise_sd}
        place = 0
        blocks: dict[str, dict[str, float]] = {}
        for block, names, _ in self._blocks:
            blocks[block] = dict(
                zip(names, [round(value, 6) for value in state[place : place + len(names)]], strict=True)
            )
            place += len(names)
        return {**found, "blocks": {name: cells for name, cells in blocks.items() if any(cells.values())}}

    def _column_names(self, column: Column) -> list[str]:
        if column.values:
            return [*_distinct(column.values, 6), "another value", "missing"]
        low, width = column.centre - WIDTH * column.scale, 2 * WIDTH * column.scale / self._settings.bins
        return [*_distinct([low + width * place for place in range(self._settings.bins)], 4), "missing"]

    def _column(self, column: Column, image: Measured) -> Float64Vector:
        value = image.columns.get(column.name, math.nan)
        size = len(column.values) + 2 if column.values else self._settings.bins + 1
        if not math.isfinite(value):
            return _one_hot(size - 1, size)
        if column.values:
            return _one_hot(column.values.index(value) if value in column.values else size - 2, size)
        reach = WIDTH * column.scale
        shares = bins_of(np.array([value]), column.centre - reach, column.centre + reach, size - 1)
        return np.concatenate([shares, [0.0]])

    def _intensity_names(self) -> list[str]:
        settings = self._settings
        width = (settings.intensity_high - settings.intensity_low) / settings.bins
        return _distinct([settings.intensity_low + width * place for place in range(settings.bins)], 6)


def _edge_names(edges: Sequence[float]) -> list[str]:
    return ["unknown", f"below {edges[0]:.3g}", *(f"{edge:.3g}" for edge in edges)]


def _place(value: float | None, edges: Sequence[float]) -> Float64Vector:
    """Return a one-hot row for the bin of a value: unknown, below the first edge, or between two edges."""
    if value is None or not math.isfinite(value):
        return _one_hot(0, len(edges) + 2)
    return _one_hot(1 + int(np.searchsorted(edges, value, side="right")), len(edges) + 2)


def _one_hot(place: int, size: int) -> Float64Vector:
    row = np.zeros(size)
    row[place] = 1.0
    return row


def _distinct(numbers: Sequence[float], digits: int) -> list[str]:
    """Return numbers as text with so many digits, or as many more as it takes to tell them apart.

    A result holds the cells by name, and all but one of several equal names would be lost.
    """
    names = [f"{number:.{digits}g}" for number in numbers]
    return names if len(set(names)) == len(set(numbers)) or digits >= EXACT else _distinct(numbers, digits + 2)


def _another(name: str, taken: Sequence[str]) -> str:
    """Return a name for a further cell that no other one has, see `_distinct`."""
    return name if name not in taken else _another(f"any {name}", taken)
