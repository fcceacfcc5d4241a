"""Predictions with a model from sums: a signed JSON file, checked against the coordinator's key and the job, and applied."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from salus.client.data.records import Sample
from salus.client.measured_rows import Rows, measured_of
from salus.client.predicting.answering import Answer
from salus.common.clock import Clock
from salus.common.columns import columns_of
from salus.common.errors import ConfigError, DataError, JobError, UnreadableImage, storage_error
from salus.common.identity import unhex
from salus.common.job import Job
from salus.common.sums import sums_of
from salus.common.sums.images import makes_rows
from salus.common.sums.scoring import Scored
from salus.common.sums.signed_model import MAX_MODEL_BYTES, open_model
from salus.common.trust import Trust

KEY_DIGITS = 64
MISSING = "missing-value"


@dataclass(frozen=True)
class SumsModelFile:
    """A model whose signature and job have been checked.

    Args:
        values: the model as plain numbers.
        sha256: of the file, hex.
    """

    values: Mapping[str, Any]
    sha256: str


def scored_of(job: Job) -> Scored:
    """Return what applies the model of a job of statistics; raises JobError if its result says nothing about a patient."""
    sums = sums_of(job)
    if not isinstance(sums, Scored):
        assert job.statistics is not None  # Safe because there are sums.
        raise JobError(
            f"Statistics of kind {job.statistics.kind!r} have no model that says anything about a single patient.",
            remedy="Use a job of a kind such as logistic, cox, boosting, forest or least-squares.",
        )
    return sums


def key_of(signed_by: str, clock: Clock) -> bytes:
    """Return the coordinator's public key: of the roster in a member's folder, or as 64 hexadecimal digits.

    Raises:
        ConfigError: neither.
        IdentityError, RosterError: the folder's kit cannot be trusted.
    """
    if len(signed_by) == KEY_DIGITS and not signed_by.strip("0123456789abcdef"):
        return unhex(signed_by)
    if not signed_by or not Path(signed_by).is_dir():
        raise ConfigError(
            "A model from sums is signed by its coordinator, whose key is needed to check it.",
            remedy="Give --signed-by: the folder of a site or coordinator, or the key that salus simulate has shown.",
        )
    return unhex(Trust.open(Path(signed_by), clock).newest.coordinator.public_key)


def load_sums_model(path: Path, job: Job, key: bytes) -> SumsModelFile:
    """Return the model in a file; its signature is checked before anything in it is read.

    Args:
        key: of the coordinator, 32 bytes.

    Raises:
        ConfigError: the file is too large or damaged.
        IdentityError: not signed by this coordinator as a model.
        JobError: the model of another job.
        StorageError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MODEL_BYTES + 1)
    except OSError as problem:
        raise storage_error(problem) or problem from None
    found = open_model(data, key)
    if found.job_sha256 != job.digest().hex():
        raise JobError(
            f"{path.name!r} is not a model of this job file: its job differs in at least one setting.",
            remedy="Give the job file with which this model was computed, unchanged.",
        )
    return SumsModelFile(found.model, hashlib.sha256(data).hexdigest())


class SumsAnswering:
    """A model from sums that answers for one image or row after the other."""

    def __init__(self, job: Job, model: SumsModelFile) -> None:
        self._scored, self._model = scored_of(job), model.values
        self._rows, self._from_images = Rows(job), makes_rows(job)
        self._columns = [column.name for column in columns_of(job.task)]

    def __call__(self, sample: Sample, vendor: str) -> Answer:
        """Return the answer for a sample, measured as for the sums.

        Raises:
            DataError: a table that lacks a column of the job, an image in place of a row, or a row in place of an image.
            UnreadableImage: the model needs a value that is missing, or its output is not finite.
            ConfigError: the model lacks numbers that a model of the job has.
        """
        self._check(sample)
        measured = measured_of(sample, None, {"vendor": vendor}, self._rows)
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                said = self._scored.said(self._model, measured)
        except (LookupError, TypeError, ValueError, ArithmeticError):
            raise ConfigError(
                "The model file is signed, but its numbers are not those of a model of this job.",
                remedy="Ask the coordinator for the model again.",
            ) from None
        if said is None:
            raise UnreadableImage(MISSING, "a value is missing, or is none of its column's values in the job")
        if not all(map(math.isfinite, (*said.probabilities.values(), *said.values.values()))):
            raise UnreadableImage("not-finite", "the model's output for it is not finite")
        return Answer(said.label, said.probabilities, said.values)

    def _check(self, sample: Sample) -> None:
        wants_rows = bool(self._columns) and not self._from_images
        if wants_rows != bool(sample.columns):
            wanted, found = ("rows of a table", "an image") if wants_rows else ("images", "a row of a table")
            raise DataError(f"Expected {wanted}, got {found}.", remedy="Give data of the kind of the sites' data.")
        lacking = [name for name in self._columns if wants_rows and name not in sample.columns]
        if lacking:
            raise DataError(
                f"Expected a table with the job's columns, got one without {', '.join(map(repr, lacking[:3]))}.",
                remedy="Give a table with the same columns as the sites'.",
            )
