"""A job: what is to be trained or measured, how, and under which protection. Data only; no code travels with it.

A job file is TOML, parsed into frozen models. `Job.canonical_bytes` is what the coordinator signs and what every site hashes
into its session, so two sites that received different jobs can never complete a round together.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from salus.common.canonical import canonical_json
from salus.common.errors import JobError
from salus.common.identity import Identity, Signed
from salus.common.idle import refuse_idle
from salus.common.job_evaluation import Evaluation
from salus.common.job_sections import (
    MAX_COLUMNS,
    MAX_INPUT_NUMBERS,
    MEASURED,
    Aggregation,
    JobHead,
    Privacy,
    TaskSettings,
    Training,
    TransformSettings,
)
from salus.common.job_start import Lora, Start
from salus.common.job_statistics import Statistics
from salus.common.sections import Plugged
from salus.common.strict import Strict, load_toml, parse_toml, validate
from salus.common.transforms import kind_of

__all__ = [
    "CONTEXT",
    "MAX_COLUMNS",
    "MAX_INPUT_NUMBERS",
    "MEASURED",
    "Aggregation",
    "Evaluation",
    "Job",
    "JobHead",
    "Lora",
    "Privacy",
    "Start",
    "TaskSettings",
    "Training",
    "TransformSettings",
    "job_from_canonical",
    "load_job",
    "open_job",
    "parse_job",
    "seal_job",
]

CONTEXT = "salus/job/1"


class Job(Strict):
    """A whole job file: what is trained, or with a section ``statistics`` what is measured.

    A job is its document: two jobs are equal if their canonical bytes are, and a job that was received keeps the bytes that
    were signed, so that later versions of Salus, with more keys or other defaults, find the same hash.

    Args:
        format: Version of the format of this file.
    """

    newest_format: ClassVar[int] = 1

    format: Literal[1] = 1
    job: JobHead
    task: Plugged[TaskSettings]
    training: Plugged[Training] = Field(default_factory=Training)
    aggregation: Plugged[Aggregation] = Field(default_factory=Aggregation)
    privacy: Privacy = Privacy()
    evaluation: Plugged[Evaluation] = Field(default_factory=Evaluation)
    statistics: Plugged[Statistics] | None = None
    start: Start | None = None
    _document: bytes = PrivateAttr(default=b"")  # the canonical bytes, once they are known

    @model_validator(mode="after")
    def _training_or_statistics(self) -> Self:
        named = (self.task.kind, self.task.model) != (MEASURED, MEASURED)
        if self.statistics is not None and named:
            raise ValueError("expected no task.kind and no task.model with the section statistics")
        for place, step in enumerate(self.task.transforms if self.statistics is not None else ()):
            if kind_of(step).random or kind_of(step).fitted:
                raise ValueError(
                    f"expected no transforms[{place}] {step.kind} with the section statistics: it is not fixed"
                )
        if self.statistics is None and MEASURED in (self.task.kind, self.task.model):
            raise ValueError("expected task.kind and task.model, or a section statistics")
        if self.statistics is not None and self.start is not None:
            raise ValueError("expected no section start with the section statistics, which trains no model")
        if self.statistics is not None and len(self.task.classes) < 2:
            raise ValueError("expected at least two different classes")
        return self

    @model_validator(mode="after")
    def _noise_bounds_each_patient(self) -> Self:
        for place, step in enumerate(self.task.transforms if self.privacy.noised else ()):
            if kind_of(step).fitted:
                # What it does to one image depends on the site's other patients, so one patient's influence has no bound.
                raise ValueError(
                    f'expected noise = "none" with transforms[{place}] {step.kind}, which depends on all patients of a site; '
                    'with noise use "nyul" or "zscore"'
                )
        return self

    @model_validator(mode="after")
    def _noise_needs_patients_apart(self) -> Self:
        for key, reason in (self.task.coupled() if self.privacy.noised else {}).items():
            raise ValueError(f'expected noise = "none" with this task.{key}: {reason}')
        return self

    @model_validator(mode="after")
    def _distributed_needs_masking(self) -> Self:
        if self.privacy.noise == "distributed" and self.aggregation.protection != "masking":
            raise ValueError('noise = "distributed" needs protection = "masking": each site adds a share of the noise')
        return self

    @model_validator(mode="after")
    def _steps_of_a_round(self) -> Self:
        steps, epochs = self.privacy.steps_per_round, self.training.local_epochs
        if self.privacy.noised and steps is not None and epochs is not None:
            raise ValueError("expected privacy.steps_per_round or training.local_epochs, not both")
        if (self.privacy.noise == "distributed" or self.statistics is not None) and (steps or 1) > 1:
            raise ValueError("expected privacy.steps_per_round = 1 with distributed noise and for statistics")
        if self.privacy.noise == "distributed" and epochs is not None:
            raise ValueError("expected no training.local_epochs with distributed noise: a round is one step")
        return self

    @model_validator(mode="after")
    def _subgroups_are_evaluated(self) -> Self:
        held_out = self.statistics.held_out if self.statistics is not None else 0.0
        if held_out and self.privacy.noised:
            raise ValueError(
                "expected statistics.held_out = 0 with noise: such a model is evaluated without noise only"
            )
        if self.evaluation.subgroups and self.statistics is not None and not held_out:
            raise ValueError(
                "expected no evaluation.subgroups with the section statistics, or statistics.held_out above 0: "
                "otherwise no model is evaluated"
            )
        if self.evaluation.subgroups and self.privacy.noised and self.privacy.evaluation_share == 0:
            raise ValueError("expected privacy.evaluation_share above 0 with evaluation.subgroups")
        return self

    @property
    def strategy(self) -> str:
        """Name of the strategy, or of the default for this kind of rounds."""
        return self.aggregation.strategy or ("fedavgm" if self.one_step else "fedavg")

    @property
    def noised_steps(self) -> int:
        """Noised steps that a site takes in one round; 0 without noise."""
        if not self.privacy.noised:
            return 0
        if self.training.local_epochs is not None and self.statistics is None:
            return max(1, round(self.training.local_epochs / self.privacy.sampling_rate))
        return self.privacy.steps_per_round or 1

    @property
    def one_step(self) -> bool:
        """Whether a round of training is one noised step: sites send noised gradients, and only the server takes steps."""
        return self.statistics is None and self.noised_steps == 1

    def canonical_bytes(self) -> bytes:
        """Return what is signed and hashed: the document as it was received, or this job's encoding, defaults included."""
        if not self._document:
            self._document = canonical_json(self.model_dump(mode="json"))
        return self._document

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, which with an `update` is another document."""
        copied = super().model_copy(update=update, deep=deep)
        if update:
            copied._document = b""
        return copied

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and self.canonical_bytes() == other.canonical_bytes()

    def __hash__(self) -> int:
        return hash(self.canonical_bytes())

    def digest(self) -> bytes:
        """Return SHA-256 of `canonical_bytes`, 32 bytes."""
        return hashlib.sha256(self.canonical_bytes()).digest()


def load_job(path: Path) -> Job:
    """Read a job file.

    Raises:
        JobError: unreadable, not TOML, an unknown key (the nearest known key is named), a wrong value, or a setting that has
            no effect in this job.
    """
    job = load_toml(Job, path, error=JobError, what="job file")
    refuse_idle(job)
    return job


def parse_job(text: str) -> Job:
    """Parse the text of a job file; errors as in `load_job`."""
    job = parse_toml(Job, text, error=JobError, what="job file")
    refuse_idle(job)
    return job


def seal_job(job: Job, coordinator: Identity) -> Signed:
    """Return the job signed by the coordinator."""
    return Signed.seal(coordinator, CONTEXT, job.canonical_bytes())


def open_job(signed: Signed, coordinator_key: bytes) -> tuple[Job, bytes]:
    """Check the coordinator's signature and return the job and the bytes that were signed.

    Raises:
        IdentityError: not signed by this key as a job.
        JobError: not a valid job, not in canonical form, or written by a version of Salus that this one cannot read.
    """
    document = signed.open(coordinator_key, CONTEXT, who="the coordinator")
    return job_from_canonical(document), document


def job_from_canonical(document: bytes) -> Job:
    """Parse the canonical bytes of a job that came over the wire or was stored; it keeps them.

    A key that the document lacks has its default of today: such a key was added since, and its default means what was meant
    before. So documents of older versions stay valid, and so do their signatures and hashes.

    Raises:
        JobError: not a valid job, not in canonical form (two encodings of one job would have two hashes), or written by a
            newer version of Salus; the message says which side is too old.
    """
    try:
        values = json.loads(document)
        canonical = canonical_json(values)
    except (ValueError, RecursionError):
        raise JobError("Expected the signed job to be JSON.", remedy="Ask the coordinator to sign it again.") from None
    if canonical != document:
        raise JobError("Expected the signed job in canonical form.", remedy="Sign the job with `salus job sign`.")
    job = validate(Job, values, error=JobError, what="signed job", received=True)
    job._document = document
    return job
