"""The sections of a job file. Sections that name plug-ins are assembled from the registries, see `sections`."""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from salus.common.codes import ClassCode
from salus.common.job_start import Lora, Prefixes
from salus.common.job_statistics import Column, Label, Name
from salus.common.registry import Registry
from salus.common.sections import Plugged, Section
from salus.common.strict import Strict

MAX_INPUT_NUMBERS = 2**26  # a 400^3 volume; more does not fit a hospital's GPU
MAX_COLUMNS = 10_000
MOST_DECAY = 0.1  # of the parameters in one step; usual is less than a thousandth
MEASURED = "none"  # task and model of a job that only measures
MAX_FIELDS = 32
MAX_TRANSFORMS = 64
FieldName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]  # of a tensor that a task or model takes
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]


class JobHead(Strict):
    """Who takes part and how long to wait.

    Args:
        name: Label of the job in screens and reports; lower-case letters, digits and hyphens.
        rounds: Rounds of training; in a statistics job, the number of its steps, usually 1.
        min_sites: Fewest sites that must take part in a round; with fewer, the round is repeated.
        cohort_epoch: The epoch that a job without noise runs in. Within one epoch every such sum over a data set is taken
            over the same sites, so no two sums can be subtracted to expose one site.
        seed: Seed of the first model.
        round_timeout_s: Seconds after which a site that neither answers nor gets on is left out of a round.
        join_timeout_s: Seconds that the coordinator waits for sites to be online, and repeats a round that fails, before it ends
            the job.
    """

    name: Name
    rounds: Annotated[int, Field(ge=1, le=10_000)]
    min_sites: Annotated[int, Field(ge=1, le=10_000)] = 2  # a job at one site is not federated
    cohort_epoch: Annotated[int, Field(ge=0)] = 0  # raised only when all operators agree to a new set of sites
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0  # fixed, so that the same job gives the same model
    round_timeout_s: PositiveFloat = 3600.0  # an epoch on a slow hospital workstation fits in an hour
    join_timeout_s: PositiveFloat = 86_400.0  # one day: a site may be down overnight


class TransformSettings(Section):
    """One step of the chain from a site's image to the model's input; its other keys belong to its kind.

    Args:
        kind: The transform, such as `window`.
    """

    plugins: ClassVar[Mapping[str, str | Registry]] = {"kind": "salus.common.transforms:TRANSFORMS"}

    kind: Name


class TaskSettings(Section):
    """What is learned, and from which data; the task and the model add keys of their own.

    Args:
        kind: The task, such as `classification`; omitted in a statistics job.
        model: The model to train; omitted in a statistics job.
        dataset: Name of the data set, as the sites registered it.
        classes: Class names, spelled as in the sites' label files; their order is the order of the model's outputs.
        shape: Spatial size in pixels or voxels to which every image is resampled.
        channels: Channels of every image.
        columns: Columns of a table that the model reads.
        modality: DICOM modality that every image must have, such as `CT`; empty accepts any.
        plane: Plane in which every DICOM slice must have been taken; empty accepts any.
        inputs: For each input of the model, the name under which the data set has it; an input not listed has its own name.
        targets: For each target of the task, the name under which the data set has it; a target not listed has its own name.
        transforms: The chain from a site's image to the model's input, in order; empty takes the chain of the task.
        copies: Copies of each image in every pass or step, each with its own random transforms; together they count as one
            image of the patient.
        trainable: Beginnings of the names of the parameters that are trained; all others stay as they were initialised.
        frozen: Beginnings of the names of the parameters that are not trained, instead of `trainable`.
        lora: Low-rank adapters beside layers, which are then trained in place of the layers.
        codes: Codes of classes or structures in the DICOM objects of a prediction; one without an entry gets DICOM's own code
            for its name, or else a private code.
    """

    plugins: ClassVar[Mapping[str, str | Registry]] = {
        "kind": "salus.common.tasks:TASKS",
        "model": "salus.common.models:MODELS",
    }
    nothing: ClassVar[str] = MEASURED

    kind: Name = "none"
    model: Name = "none"
    dataset: Name
    classes: Annotated[tuple[Label, ...], Field(max_length=1000)]
    shape: tuple[PositiveInt, ...] = ()  # empty for a table
    channels: PositiveInt = 1
    columns: tuple[Column, ...] = ()
    modality: Annotated[str, Field(pattern=r"^[A-Z]{0,16}$")] = ""
    plane: Literal["", "axial", "coronal", "sagittal"] = (
        ""  # volumes are turned alike, so it matters most in two dimensions
    )
    inputs: Annotated[dict[FieldName, Label], Field(max_length=MAX_FIELDS)] = Field(default_factory=dict)
    targets: Annotated[dict[FieldName, Label], Field(max_length=MAX_FIELDS)] = Field(default_factory=dict)
    transforms: Annotated[tuple[Plugged[TransformSettings], ...], Field(max_length=MAX_TRANSFORMS)] = ()
    copies: Annotated[int, Field(ge=1, le=64)] = 1  # each copy costs the time and memory of an image
    trainable: Prefixes = ()  # empty: all parameters, or with lora the adapters only
    frozen: Prefixes = ()
    lora: Lora | None = None  # without it, layers are trained in full
    codes: Annotated[tuple[ClassCode, ...], Field(max_length=1000)] = ()

    def coupled(self) -> Mapping[str, str]:
        """Return the keys whose values let one patient change what others contribute, with the reason: refused with noise."""
        return {}

    @model_validator(mode="after")
    def _either_trainable_or_frozen(self) -> Self:
        if self.frozen and (self.trainable or self.lora is not None):
            raise ValueError("expected frozen without trainable and without lora, which freeze all that is not trained")
        return self

    @model_validator(mode="after")
    def _codes_of_classes(self) -> Self:
        named = [entry.of for entry in self.codes]
        if len(set(named)) != len(named) or not set(named) <= set(self.classes):
            raise ValueError("expected each entry of codes to be of another one of the classes")
        return self

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("expected only different classes")
        if len(self.shape) > 3 or any(side > 4096 for side in self.shape):
            raise ValueError("expected a shape of at most three sides of at most 4096")
        if math.prod(self.shape) * self.channels > MAX_INPUT_NUMBERS or len(self.columns) > MAX_COLUMNS:
            raise ValueError(f"expected at most {MAX_INPUT_NUMBERS} numbers and {MAX_COLUMNS} columns per sample")
        if len({column.name for column in self.columns}) != len(self.columns):
            # A column counted twice with different bins gives differences that show one patient.
            raise ValueError("expected every column only once")
        return self


class Training(Section):
    """How each site trains between two rounds; the optimizer adds keys of its own.

    Args:
        local_epochs: Passes over a site's data in one round.
        batch_size: Samples per step without noise; with noise, the most that are processed at once.
        optimizer: Optimizer that the sites use.
        learning_rate: Step size of the sites' optimizer.
        weight_decay: Weight decay of the sites' optimizer.
        validation_fraction: Share of a site's patients that is kept for validation if the data set defines no split.
    """

    plugins: ClassVar[Mapping[str, str | Registry]] = {"optimizer": "salus.common.optimizers:OPTIMIZERS"}

    local_epochs: Annotated[int, Field(ge=1, le=1000)] | None = (
        None  # without noise 1; with noise see privacy.steps_per_round
    )
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    optimizer: Name = "adamw"  # it needs the least tuning
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
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


class Aggregation(Section):
    """How the sites' updates become one model; the strategy and the protection add keys of their own.

    Args:
        strategy: How the coordinator applies the mean update to the model.
        protection: How updates are protected from the coordinator: `masking`, `encryption` or `none`.
        max_patients: Patients at which a site's weight reaches its limit: the weight is min(patients, this) / this.
        server_learning_rate: Factor by which the coordinator scales the mean update.
        update_clip_norm_l2: L2 norm to which each site clips its update.
    """

    plugins: ClassVar[Mapping[str, str | Registry]] = {
        "strategy": "salus.common.strategies:STRATEGIES",
        "protection": "salus.privacy.protection:PROTECTIONS",
    }
    omitted: ClassVar[Mapping[str, tuple[str, ...]]] = {"strategy": ("fedavg", "fedavgm")}

    strategy: Name | None = None  # fedavg; fedavgm if a round is one noised step
    protection: Name = "masking"  # the coordinator sees only sums
    max_patients: PositiveInt = 1000  # public, so that every weight is at most 1
    server_learning_rate: PositiveFloat | None = None  # 1, plain averaging; 0.3 if a round is one noised step
    update_clip_norm_l2: PositiveFloat = 100.0  # bounds how far a faulty site can move the model in one round


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

    @property
    def noised(self) -> bool:
        """Whether the job gives its patients a formal guarantee."""
        return self.noise != "none"
