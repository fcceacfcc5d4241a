"""One sample of a catalogue, or of files, in the form that the sums of a job take, after the job's own transforms."""

from dataclasses import replace

import numpy as np

from salus.client.data.examples import IMAGE, example_of
from salus.client.data.records import Sample
from salus.common.columns import columns_of
from salus.common.examples import ROW
from salus.common.job import Job
from salus.common.outcomes import Outcome
from salus.common.sums.base import Measured
from salus.common.sums.images import chain_of
from salus.common.vocabulary import OTHER


class Rows:
    """The transforms of a job of statistics, and the names of the columns that they make, if they do.

    Raises:
        JobError, ConfigError: a step does not fit, or needs a package that is not installed.
    """

    def __init__(self, job: Job) -> None:
        self.task, self.chain = job.task, chain_of(job)
        self.names = [column.name for column in columns_of(job.task)]


def measured_of(
    sample: Sample,
    label: int | None,
    info: dict[str, object],
    rows: Rows | None = None,
    outcome: Outcome | None = None,
) -> Measured:
    """Return a sample in the form that `Sums` take.

    Args:
        rows: of the job; without any, the sample as it is.
        outcome: of a patient that was followed.

    Raises:
        UnreadableImage, DataError: a step of the job cannot use it.
    """
    if rows is not None and len(rows.chain):
        return replace(_transformed(sample, label, info, rows), outcome=outcome)
    modality, vendor = str(info.get("modality", OTHER)), str(info.get("vendor", OTHER))
    if sample.columns:
        named = dict(zip(sample.columns, (float(value) for value in sample.values), strict=True))
        return Measured(label, np.zeros(0, np.float32), columns=named, outcome=outcome)
    return Measured(
        label, sample.measured, sample.spacing_mm, modality, vendor, padding=sample.padding, outcome=outcome
    )


def _transformed(sample: Sample, label: int | None, info: dict[str, object], rows: Rows) -> Measured:
    modality, vendor = str(info.get("modality", OTHER)), str(info.get("vendor", OTHER))
    example = rows.chain.prefix(example_of(sample, rows.task, vendor, measured=True))
    if IMAGE not in example:
        named = dict(zip(rows.names, (float(value) for value in example[ROW]), strict=True))
        return Measured(label, np.zeros(0, np.float32), columns=named)
    image = example[IMAGE].astype(np.float32)
    spacing = example.spacing_mm[-(image.ndim - 1) :] or sample.spacing_mm
    return Measured(label, image, spacing, modality, vendor, padding=example.padding_of(IMAGE))
