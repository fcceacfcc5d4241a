"""A job: what is to be trained or measured, how, and under which protection. Data only; no code travels with it.

A job file is TOML, parsed into frozen models. `Job.canonical_bytes` is what the coordinator signs and what every site hashes
into its session, so two sites that were given different jobs can never complete a round together.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from salus.common.canonical import canonical_json
from salus.common.errors import JobError
from salus.common.identity import Identity, Signed
from salus.common.job_statistics import FEATURES, Column, Harmonise, Label, Name, Statistics
from salus.common.strict import Strict, load_toml, parse_toml, validate

CONTEXT = "salus/job/1"
MAX_INPUT_NUMBERS = 2**26  # a 400^3 volume; more does not fit a hospital's GPU
MAX_COLUMNS = 10_000
MEASURED = "none"  # task and model of a job that only measures
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]


class JobHead(Strict):
    """Who takes part and how long to wait."""

    name: Name
    rounds: Annotated[int, Field(ge=1, le=10_000)]
    min_sites: Annotated[int, Field(ge=1, le=10_000)] = 2  # with one site there is nothing federated about it
    cohort_epoch: Annotated[int, Field(ge=0)] = (
        0  # of the data set, for jobs without noise; raised when all operators agree to sum over other sites
    )
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0  # the same job twice gives the same model
    round_timeout_s: PositiveFloat = 3600.0  # an epoch on a slow hospital workstation fits in an hour
    join_timeout_s: PositiveFloat = 86_400.0  # a site may be down for a night without ending the job


class TaskSettings(Strict):
    """What is learnt from what."""

    kind: Name = "none"
    model: Name = "none"
    dataset: Name
    classes: Annotated[tuple[Label, ...], Field(max_length=1000)]
    shape: tuple[PositiveInt, ...] = ()  # spatial size that every image is brought to; empty for a table
    channels: PositiveInt = 1
    columns: tuple[Column, ...] = ()
    modality: Annotated[str, Field(pattern=r"^[A-Z]{0,16}$")] = ""  # if given, a site's images must all be of this one

    @model_validator(mode="after")
    def _classes_differ(self) -> Self:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError("expected at least two different classes")
        if len(self.shape) > 3 or any(side > 4096 for side in self.shape):
            raise ValueError("expected a shape of at most three sides of at most 4096")
        if math.prod(self.shape) * self.channels > MAX_INPUT_NUMBERS or len(self.columns) > MAX_COLUMNS:
            raise ValueError(f"expected at most {MAX_INPUT_NUMBERS} numbers and {MAX_COLUMNS} columns per sample")
        if len({column.name for column in self.columns}) != len(self.columns):
            # A column counted twice with other bins gives differences of one patient.
            raise ValueError("expected every column once")
        return self


class Training(Strict):
    """How each site trains between two rounds."""

    local_epochs: Annotated[int, Field(ge=1, le=1000)] | None = (
        None  # without noise 1: the usual compromise between drift and traffic; with noise see privacy.steps_per_round
    )
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # read by sgd only
    validation_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.2  # where the site's data have no split of their own

    @property
    def epochs(self) -> int:
        """Passes over a site's data in one round without noise."""
        return self.local_epochs or 1


class Aggregation(Strict):
    """How updates become one model."""

    strategy: Name | None = None  # fedavg; fedavgm where a round is one noised step, see `Job.one_step`
    protection: Name = "masking"  # the coordinator sees sums only
    key_holder: Annotated[int, Field(ge=0)] = (
        0  # encryption only: the site, by its place on the roster, that decrypts the sum
    )
    max_patients: PositiveInt = 1000  # weights are min(patients, this) / this: a public bound, so a weight is at most 1
    server_learning_rate: PositiveFloat | None = None  # 1, plain averaging; 0.3 where a round is one noised step
    server_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # read by fedavgm only
    server_decay: Literal["none", "linear"] | None = (
        None  # read by fedavgm only; linear falls to zero after the last round and is the default of one noised step
    )
    update_clip_norm_l2: PositiveFloat = 100.0  # a broken site cannot move the model further than this in one round

    @model_validator(mode="after")
    def _key_holder_belongs_to_encryption(self) -> Self:
        if (self.protection == "encryption") != (self.key_holder > 0):
            raise ValueError('expected key_holder with protection = "encryption", and only then')
        return self


class Privacy(Strict):
    """What limits what the model itself reveals about one patient. Every number here is public and the same at every site."""

    unit: Literal["patient"] = "patient"
    noise: Literal["local", "distributed", "none"] = "local"  # local holds even if every other party colludes
    # of the whole job, retries and evaluation included, for each patient of each site; above 50 it promises nothing
    epsilon: Annotated[float, Field(gt=0, le=50)] = 3.0
    delta: Annotated[float, Field(ge=1e-12, lt=0.1)] = 1e-5  # well below one over the patients of a large site
    clip_norm_l2: Annotated[float, Field(ge=1e-4, le=1e4)] = (
        1.0  # of one patient's gradient; float32 is exact enough in between
    )
    sampling_rate: Annotated[float, Field(ge=1e-6, le=0.5)] = 0.05  # chance of a patient to take part in one step
    steps_per_round: Annotated[int, Field(ge=1, le=10_000)] | None = (
        None  # 1, the most accurate; more, or training.local_epochs, make fewer rounds of it where links are slow
    )
    patients_per_site: PositiveInt = 1000  # public guess; only scales the step, a wrong one costs accuracy, not privacy
    images_per_patient: PositiveInt = 8  # more of one patient are not used in one step
    spare_rounds: Annotated[float, Field(ge=0, le=10)] = 0.1  # share of further rounds that are paid for, for retries
    evaluation_share: Annotated[float, Field(ge=0, le=0.9)] = (
        0.45  # of epsilon, to measure the final model; training gets about a tenth more noise. 0: it is not measured
    )

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Self:
        idle = sorted(self.model_fields_set - {"unit", "noise"})
        if self.noise == "none" and any(getattr(self, name) != Privacy.model_fields[name].default for name in idle):
            raise ValueError(f'expected no {idle[0]!r} with noise = "none"')
        return self

    @property
    def noised(self) -> bool:
        """Whether the job gives its patients a formal guarantee."""
        return self.noise != "none"


def _check_features(harmonise: Harmonise, task: TaskSettings) -> None:
    """Refuse what would fail at every site: other columns than the features, or another number of constants."""
    wrong = [column.name for column in task.columns if column.name not in FEATURES]
    if task.shape or not task.columns or wrong:
        raise ValueError(f"expected no task.shape and task.columns among {', '.join(FEATURES)} with features")
    count = len(FEATURES)
    if harmonise.kind == "combat":
        if len(harmonise.constants) != count * (1 + len(task.classes)):
            raise ValueError(f"expected {count * (1 + len(task.classes))} constants for {len(task.classes)} classes")
        if min(harmonise.constants[count : 2 * count]) <= 0:
            raise ValueError("expected positive scales among the constants")


class Job(Strict):
    """A whole job file: what is trained, or with a section ``statistics`` what is measured."""

    job: JobHead
    task: TaskSettings
    training: Training = Training()
    aggregation: Aggregation = Aggregation()
    privacy: Privacy = Privacy()
    statistics: Statistics | None = None
    harmonise: Harmonise | None = None

    @model_validator(mode="after")
    def _training_or_statistics(self) -> Self:
        named = (self.task.kind, self.task.model) != (MEASURED, MEASURED)
        if self.statistics is not None and (named or self.harmonise is not None):
            raise ValueError(
                "expected no task.kind, no task.model and no section harmonise beside the section statistics"
            )
        if self.statistics is None and MEASURED in (self.task.kind, self.task.model):
            raise ValueError("expected task.kind and task.model, or a section statistics")
        if self.harmonise is not None and self.harmonise.kind in ("features", "combat"):
            _check_features(self.harmonise, self.task)
        if self.harmonise is not None and self.harmonise.kind == "combat" and self.privacy.noised:
            # What ComBat takes from an image depends on the site's other patients, so no patient's part would be bounded.
            raise ValueError(
                'expected noise = "none" with harmonise.kind = "combat"; with noise use "nyul" or "zscore"'
            )
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
        """Return the one encoding of this job, defaults included, that is signed and hashed."""
        return canonical_json(self.model_dump(mode="json"))

    def digest(self) -> bytes:
        """Return SHA-256 of `canonical_bytes`, 32 bytes."""
        return hashlib.sha256(self.canonical_bytes()).digest()


def load_job(path: Path) -> Job:
    """Read a job file.

    Raises:
        JobError: unreadable, not TOML, an unknown key (the nearest known key is named) or a wrong value.
    """
    return load_toml(Job, path, error=JobError, what="job file")


def parse_job(text: str) -> Job:
    """Parse the text of a job file; errors as in `load_job`."""
    return parse_toml(Job, text, error=JobError, what="job file")


def seal_job(job: Job, coordinator: Identity) -> Signed:
    """Return the job signed by the coordinator."""
    return Signed.seal(coordinator, CONTEXT, job.canonical_bytes())


def open_job(signed: Signed, coordinator_key: bytes) -> tuple[Job, bytes]:
    """Check the coordinator's signature and return the job and its canonical bytes.

    Raises:
        IdentityError: not signed by this key as a job.
        JobError: not a valid job, or not in canonical form.
    """
    document = signed.open(coordinator_key, CONTEXT, who="the coordinator")
    return job_from_canonical(document), document


def job_from_canonical(data: bytes) -> Job:
    """Parse canonical bytes that came over the wire.

    Raises:
        JobError: not a valid job, or not in canonical form (two encodings of one job would have two hashes).
    """
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        raise JobError("Expected the signed job to be JSON.", remedy="Ask the coordinator to sign it again.") from None
    job = validate(Job, values, error=JobError, what="signed job")
    if job.canonical_bytes() != data:
        raise JobError(
            "Expected the signed job in canonical form.",
            remedy="Both sides may run different versions of Salus; install the same one.",
        )
    return job
