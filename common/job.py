"""A job: what is to be trained or measured, how, and under which protection. Data only; no code travels with it.

A job file is TOML, parsed into frozen models. `Job.canonical_bytes` is what the coordinator signs and what every site hashes
into its session, so two sites that received different jobs can never complete a round together.
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
from salus.common.job_statistics import Column, Harmonise, Label, Name, Statistics, check_features
from salus.common.strict import Strict, load_toml, parse_toml, validate

CONTEXT = "salus/job/1"
MAX_INPUT_NUMBERS = 2**26  # a 400^3 volume; more does not fit a hospital's GPU
MAX_COLUMNS = 10_000
MOST_DECAY = 0.1  # of the parameters in one step; usual is less than a thousandth
MEASURED = "none"  # task and model of a job that only measures
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]


class JobHead(Strict):
    """Who takes part and how long to wait.

    Args:
        name: Label of the job in screens and reports; lower-case letters, digits and hyphens.
        rounds: Rounds of training; in a statistics job, the number of steps of the analysis, usually 1.
        min_sites: Fewest sites that must take part in a round; with fewer, the round is repeated.
        cohort_epoch: The epoch that a job without noise runs in. Within one epoch every such sum over a data set is taken
            over the same sites, so no two sums can be subtracted to expose one site.
        seed: Seed of the first model.
        round_timeout_s: Seconds that the coordinator waits for the sites in one round before it repeats the round.
        join_timeout_s: Seconds that the coordinator waits for ``min_sites`` sites to be online before it ends the job.
    """

    name: Name
    rounds: Annotated[int, Field(ge=1, le=10_000)]
    min_sites: Annotated[int, Field(ge=1, le=10_000)] = 2  # a job at one site is not federated
    cohort_epoch: Annotated[int, Field(ge=0)] = 0  # raised only when all operators agree to a new set of sites
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0  # fixed, so that the same job gives the same model
    round_timeout_s: PositiveFloat = 3600.0  # an epoch on a slow hospital workstation fits in an hour
    join_timeout_s: PositiveFloat = 86_400.0  # one day: a site may be down overnight


class TaskSettings(Strict):
    """What is learned, and from which data.

    Args:
        kind: The task, such as `classification`; omitted in a statistics job.
        model: The model to train; omitted in a statistics job.
        dataset: Name of the data set, as the sites registered it.
        classes: Class names, spelled as in the sites' label files; their order is the order of the model's outputs.
        shape: Spatial size in pixels or voxels to which every image is resampled.
        channels: Channels of every image.
        columns: Columns of a table that the model reads.
        modality: DICOM modality that every image must have, such as `CT`; empty accepts any.
    """

    kind: Name = "none"
    model: Name = "none"
    dataset: Name
    classes: Annotated[tuple[Label, ...], Field(max_length=1000)]
    shape: tuple[PositiveInt, ...] = ()  # empty for a table
    channels: PositiveInt = 1
    columns: tuple[Column, ...] = ()
    modality: Annotated[str, Field(pattern=r"^[A-Z]{0,16}$")] = ""

    @model_validator(mode="after")
    def _classes_differ(self) -> Self:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError("expected at least two different classes")
        if len(self.shape) > 3 or any(side > 4096 for side in self.shape):
            raise ValueError("expected a shape of at most three sides of at most 4096")
        if math.prod(self.shape) * self.channels > MAX_INPUT_NUMBERS or len(self.columns) > MAX_COLUMNS:
            raise ValueError(f"expected at most {MAX_INPUT_NUMBERS} numbers and {MAX_COLUMNS} columns per sample")
        if len({column.name for column in self.columns}) != len(self.columns):
            # A column counted twice with different bins gives differences that show one patient.
            raise ValueError("expected every column only once")
        return self


class Training(Strict):
    """How each site trains between two rounds.

    Args:
        local_epochs: Passes over a site's data in one round.
        batch_size: Samples per step without noise; with noise, the most that are processed at once.
        optimizer: Optimizer that the sites use.
        learning_rate: Step size of the sites' optimizer.
        weight_decay: Weight decay of the sites' optimizer.
        momentum: Momentum of the sites' optimizer; used by `sgd` only.
        validation_fraction: Share of a site's patients that is kept for validation if the data set defines no split.
    """

    local_epochs: Annotated[int, Field(ge=1, le=1000)] | None = (
        None  # without noise 1; with noise see privacy.steps_per_round
    )
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    validation_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.2

    @model_validator(mode="after")
    def _steps_keep_what_was_learnt(self) -> Self:
        if self.weight_decay * self.learning_rate > MOST_DECAY:
            # A step that erases the steps before it makes an update the gradient of its last batch.
            raise ValueError(f"expected weight_decay times learning_rate of at most {MOST_DECAY}")
        return self

    @property
    def epochs(self) -> int:
        """Passes over a site's data in one round without noise."""
        return self.local_epochs or 1


class Aggregation(Strict):
    """How the sites' updates become one model.

    Args:
        strategy: How the coordinator applies the mean update to the model.
        protection: How updates are protected from the coordinator: `masking`, `encryption` or `none`.
        key_holder: Roster number of the site that decrypts the sum; set it with `encryption` only.
        max_patients: Patients at which a site's weight reaches its limit: the weight is min(patients, this) / this.
        server_learning_rate: Factor by which the coordinator scales the mean update.
        server_momentum: Momentum of the coordinator; used by `fedavgm` only.
        server_decay: How the coordinator's learning rate changes over the rounds: constant, or linearly to zero after the
            last round; used by `fedavgm` only.
        update_clip_norm_l2: L2 norm to which each site clips its update.
    """

    strategy: Name | None = None  # fedavg; fedavgm if a round is one noised step
    protection: Name = "masking"  # the coordinator sees only sums
    key_holder: Annotated[int, Field(ge=0)] = 0  # 0: no key holder
    max_patients: PositiveInt = 1000  # public, so that every weight is at most 1
    server_learning_rate: PositiveFloat | None = None  # 1, plain averaging; 0.3 if a round is one noised step
    server_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    server_decay: Literal["none", "linear"] | None = None  # linear if a round is one noised step, otherwise none
    update_clip_norm_l2: PositiveFloat = 100.0  # bounds how far a faulty site can move the model in one round

    @model_validator(mode="after")
    def _key_holder_belongs_to_encryption(self) -> Self:
        if (self.protection == "encryption") != (self.key_holder > 0):
            raise ValueError('expected key_holder with protection = "encryption", and only then')
        return self


class Privacy(Strict):
    """Differential privacy: what limits how much the model reveals about one patient.

    Every number here is public and the same at every site.

    Args:
        unit: The privacy unit: all data that a site has of one patient.
        noise: Where noise is added: `local` by each site for itself, `distributed` as a sum of the sites' shares, or none.
        epsilon: Privacy budget of the whole job for each patient of each site, retries and evaluation included.
        delta: Probability with which the guarantee may fail.
        clip_norm_l2: Clip norm: the largest L2 norm of one patient's gradient.
        sampling_rate: Probability with which each patient takes part in a step.
        steps_per_round: Noised steps that each site takes in one round.
        patients_per_site: Expected number of patients at a site; it scales the step and is not a limit.
        images_per_patient: The most images of one patient that are used in one step.
        spare_rounds: Extra rounds that the noise allows for, as a share of `rounds`, so that failed rounds can be repeated.
        evaluation_share: Share of epsilon for measuring the final model; with 0 the model is not evaluated.
    """

    unit: Literal["patient"] = "patient"
    noise: Literal["local", "distributed", "none"] = "local"  # the guarantee of local noise trusts no other party
    epsilon: Annotated[float, Field(gt=0, le=50)] = 3.0  # values above 50 guarantee nothing
    delta: Annotated[float, Field(ge=1e-12, lt=0.1)] = 1e-5  # well below 1 / patients of a large site
    clip_norm_l2: Annotated[float, Field(ge=1e-4, le=1e4)] = 1.0
    sampling_rate: Annotated[float, Field(ge=1e-6, le=0.5)] = 0.05
    steps_per_round: Annotated[int, Field(ge=1, le=10_000)] | None = (
        None  # 1, the most accurate; more steps save rounds on slow links
    )
    patients_per_site: PositiveInt = 1000  # a wrong value costs accuracy, not privacy
    images_per_patient: PositiveInt = 8
    spare_rounds: Annotated[float, Field(ge=0, le=10)] = 0.1
    evaluation_share: Annotated[float, Field(ge=0, le=0.9)] = 0.45  # costs training about a tenth more noise

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
                "expected no task.kind, no task.model and no section harmonise with the section statistics"
            )
        if self.statistics is None and MEASURED in (self.task.kind, self.task.model):
            raise ValueError("expected task.kind and task.model, or a section statistics")
        if self.harmonise is not None and self.harmonise.kind in ("features", "combat"):
            check_features(self.harmonise, self.task.shape, self.task.columns, self.task.classes)
        if self.harmonise is not None and self.harmonise.kind == "combat" and self.privacy.noised:
            # ComBat's correction depends on the site's other patients, so one patient's influence would not be bounded.
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
