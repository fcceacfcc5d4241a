"""Questions to models from sums: trees, logistic regression and others that read columns."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from salus.client.data.records import Sample
from salus.client.explaining.asking import Asked, check_row
from salus.client.explaining.scores import Question
from salus.client.explaining.subject import MISSING, FloatArray, Score, Subject
from salus.client.measured_rows import Rows, measured_of
from salus.client.predicting.from_sums import SumsModelFile, scored_of
from salus.common.columns import columns_of
from salus.common.errors import ConfigError, DataError, JobError, UnreadableImage
from salus.common.job import Job
from salus.common.job_statistics import Column
from salus.common.sums.base import Float64Vector, Measured
from salus.common.sums.scoring import Scored
from salus.common.sums.xgboost_json import BOOSTED
from salus.common.tasks.base import Said

LIKELY = 1e-9  # probabilities are kept this far from 0 and 1, so that their log-odds are finite


class SumsScore(Score):
    """The log-odds of a class; for a forest, whose trees give probabilities, its probability; else the model's number."""

    def __init__(self, scored: Scored, model: Mapping[str, Any], columns: Sequence[Column], label: str) -> None:
        super().__init__()
        self.network = None
        self._scored, self._model, self._columns, self._label = scored, model, columns, label
        self.plain = model.get("kind") == "forest"
        self._trees = _Trees(model, columns, label) if "trees" in model else None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return ``[items]`` of rows ``[items, columns]``."""
        rows = inputs.detach().cpu().double().numpy()
        if self._trees is not None:
            return torch.from_numpy(self._trees.scores(rows).astype(np.float32))
        return torch.tensor([self._one(row) for row in rows], dtype=torch.float32)

    def _one(self, row: Float64Vector) -> float:
        said = said_of(self._scored, self._model, measured(self._columns, row))
        if not self._label:
            return next(iter(said.values.values()))
        share = min(max(said.probabilities[self._label], LIKELY), 1 - LIKELY)
        return math.log(share / (1 - share))

    def share(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the probability; a hazard ratio against the centres as a share of both."""
        return scores.clamp(0, 1) if self.plain else torch.sigmoid(scores)


class _Trees:
    """All trees of a model, applied to many rows at once."""

    def __init__(self, model: Mapping[str, Any], columns: Sequence[Column], label: str) -> None:
        place = list(model["classes"]).index(label)
        self._boosted, self._categories = model["kind"] in BOOSTED, [frozenset(column.values) for column in columns]
        self._sign = -1.0 if self._boosted and place == 0 else 1.0
        self._trees = [
            (np.array(tree["column"]), np.array(tree["below"]), np.array(tree["missing_left"]),
             np.array(tree["leaves"])[:, 0 if self._boosted else place])
            for tree in model["trees"]
        ]  # fmt: skip

    def scores(self, rows: "np.ndarray[Any, np.dtype[np.float64]]") -> Float64Vector:
        """Return the sum of boosted trees, or the mean of a forest's, for each row."""
        values, every = cleaned(rows, self._categories), np.arange(len(rows))
        total = np.zeros(len(rows))
        for column, below, missing_left, leaves in self._trees:
            place = np.zeros(len(rows), np.int64)
            for level in range(len(leaves).bit_length() - 1):
                node = 2**level - 1 + place
                own = column[node]
                value = values[every, np.maximum(own, 0)]
                left = (own < 0) | np.where(np.isnan(value), missing_left[node], value < below[node])
                place = 2 * place + ~left
            total += leaves[place]
        return self._sign * total if self._boosted else total / len(self._trees)


class SumsAsking:
    """A model from sums that reads columns: those of a table, or those that the job's chain makes of an image."""

    def __init__(self, job: Job, model: SumsModelFile) -> None:
        self._job, self._scored, self._model = job, scored_of(job), model.values
        self._rows, self._columns = Rows(job), columns_of(job.task)
        self.columns = tuple(column.name for column in self._columns)
        if not self.columns:
            raise JobError(
                "This model reads images as they are and not as columns, and cannot be explained yet.",
                remedy="Explain a model of a job with task.columns, or with a step that makes columns such as radiomics.",
            )

    def __call__(self, sample: Sample, vendor: str) -> Asked:
        every = measured_of(sample, None, {"vendor": vendor}, self._rows).columns
        check_row(every, self.columns)
        row = {name: every[name] for name in self.columns}
        values = np.array([row[name] for name in self.columns], np.float64)
        said = said_of(self._scored, self._model, measured(self._columns, values))
        label = said.label if said.probabilities else ""
        place = list(self._job.task.classes).index(label) if label else 0
        score = SumsScore(self._scored, self._model, self._columns, label)
        number = None if label else next(iter(said.values.values()))
        what = f"the class {label!r}" if label else f"the number {next(iter(said.values))!r}"
        probability = said.probabilities.get(label) if label else None
        question = Question(score, what, said.label, label, number=number, place=place, probability=probability)
        inputs = np.where(np.isnan(values), MISSING, values).astype(np.float32)[None]
        return Asked(question, torch.from_numpy(inputs), self._features(values), row)

    def subject(self, asked: Asked, others: torch.Tensor, seed: int) -> Subject:
        trees = self._model if "trees" in self._model else {}
        # XGBoost knows no categories: a value that is none of its column's is missing.
        whole = _with_missing(others, self._columns)
        inputs = _with_missing(asked.inputs, self._columns)
        return Subject(
            asked.question.score, inputs, self._usual(whole), whole, tuple(range(len(self.columns))), self.columns,
            trees, asked.question.place, seed,
        )  # fmt: skip

    def _usual(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the mean of each column, of a categorical one its commonest value; 0 where all are missing."""
        found = []
        for values, column in zip(rows.unbind(dim=1), self._columns, strict=True):
            there = values[values > MISSING / 2]
            usual = there.mode().values if column.values and len(there) else there.sum() / max(1, len(there))
            found.append(float(usual) if len(there) else 0.0)
        return torch.tensor([found], dtype=torch.float32)

    def randomised(self, subject: Subject) -> Subject | None:
        return None

    def on_image(self, found: FloatArray, asked: Asked) -> FloatArray:
        return found

    def _features(self, values: Float64Vector) -> FloatArray:
        """Return the columns in their own scales, 0 for what is missing."""
        scaled = [
            0.0 if math.isnan(value) else (value - column.centre) / column.scale
            for value, column in zip(values, self._columns, strict=True)
        ]
        return np.clip(np.array(scaled, np.float32), -1e3, 1e3)


def said_of(scored: Scored, model: Mapping[str, Any], row: Measured) -> Said:
    """Return what a model says about a row.

    Raises:
        UnreadableImage: the model needs a value that is missing, or its output is not finite.
        ConfigError: the model lacks numbers that a model of the job has.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            said = scored.said(model, row)
    except (LookupError, TypeError, ValueError, ArithmeticError):
        raise ConfigError(
            "The model file is signed, but its numbers are not those of a model of this job.",
            remedy="Ask the coordinator for the model again.",
        ) from None
    if said is None:
        raise UnreadableImage("missing-value", "a value is missing, or is none of its column's values in the job")
    if not all(map(math.isfinite, (*said.probabilities.values(), *said.values.values()))):
        raise UnreadableImage("not-finite", "the model's output for it is not finite")
    if not said.probabilities and not said.values:
        raise DataError("The model gives no number that could be explained.", remedy="Use salus predict.")
    return said


def measured(columns: Sequence[Column], row: Float64Vector) -> Measured:
    """Return a row as sums see it; `MISSING` is NaN there."""
    values = [math.nan if value <= MISSING / 2 else float(value) for value in row]
    names = [column.name for column in columns]
    return Measured(None, np.zeros(0, np.float32), columns=dict(zip(names, values, strict=True)))


def cleaned(
    rows: "np.ndarray[Any, np.dtype[np.float64]]", categories: Sequence[frozenset[float]]
) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Return rows in single precision with NaN for what is missing, infinite, or none of its column's values."""
    with np.errstate(over="ignore"):
        values = rows.astype(np.float32).astype(np.float64)
    values[~np.isfinite(rows) | (rows <= MISSING / 2) | ~np.isfinite(values)] = np.nan
    for place, known in enumerate(categories):
        if known:
            values[~np.isin(rows[:, place], list(known)), place] = np.nan
    return values


def _with_missing(rows: torch.Tensor, columns: Sequence[Column]) -> torch.Tensor:
    values = cleaned(rows.double().numpy(), [frozenset(column.values) for column in columns])
    return torch.from_numpy(np.where(np.isnan(values), MISSING, values).astype(np.float32))
