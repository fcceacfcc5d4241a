"""The parts of a job that are not training: columns of tables, and statistics."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from salus.common.registry import Registry
from salus.common.sections import Section
from salus.common.strict import Strict
from salus.common.vocabulary import MODALITIES, OTHER, VENDORS, check_words

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
FEATURES = ("mean", "sd", "p10", "p25", "median", "p75", "p90", "p99", "edge")  # of an image, see `sums.features`
Label = Annotated[str, Field(min_length=1, max_length=64)]
Intensity = Annotated[
    float, Field(ge=-1e9, le=1e9)
]  # more than any image holds; far below the limit of single precision
Scale = Annotated[float, Field(ge=1e-6, le=1e9)]
LEAST_RANGE = 1e-6


class Column(Strict):
    """One column of a table and the public constants that bring it to a common scale at every site.

    Args:
        name: Column name, as in the sites' tables.
        centre: Value that becomes 0, in the column's unit.
        scale: Distance from the centre that becomes 1, in the column's unit.
        values: For a categorical column, its values; each becomes one input of the model, and ``scale`` is not used.
        unit: Unit that every site must have declared for this column; empty accepts any.
    """

    name: Label
    centre: Annotated[float, Field(ge=-1e12, le=1e12)] = 0.0
    scale: Annotated[float, Field(ge=1e-12, le=1e12)] = 1.0
    values: tuple[float, ...] = ()
    unit: Annotated[str, Field(max_length=32)] = ""


class Statistics(Section):
    """What is computed over all sites, instead of training; the kind adds keys of its own.

    Args:
        kind: What is computed, such as `summary`, `quantiles` or `logistic`.
        intensity_low, intensity_high: Range in which intensities are counted, in the modality's units.
        bins: Equal intervals into which the range is divided; a quantile is known to the width of one.
        quantiles: Quantiles that are reported.
        modalities: DICOM modalities that are counted separately; all others are counted together.
        vendors: Scanner vendors for each of which quantiles are reported; empty reports one set for all images.
        min_patients: Each site suppresses cells in which fewer of its patients are counted; without noise only.
        held_out: Share of each site's patients that are in no sum, and on whom the finished model is evaluated; with 0 it is not.
            Only without noise, and for kinds whose model tells classes apart.
    """

    plugins: ClassVar[Mapping[str, str | Registry]] = {"kind": "salus.common.sums:SUMS"}

    kind: Name
    intensity_low: Intensity = 0.0  # for CT use -1024
    intensity_high: Intensity = 65_535.0  # the largest 16-bit value
    bins: Annotated[int, Field(ge=4, le=4096)] = 64
    quantiles: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1, max_length=32)] = (
        0.01,
        0.25,
        0.5,
        0.75,
        0.99,
    )
    modalities: Annotated[tuple[Label, ...], Field(max_length=16)] = ("CT", "MR", "DX", "CR")
    vendors: Annotated[tuple[Label, ...], Field(max_length=16)] = ()
    min_patients: Annotated[int, Field(ge=1)] = 5  # a common rule of registries
    held_out: Annotated[float, Field(ge=0, le=0.5)] = (
        0.0  # all patients count, as in jobs from before there was this key
    )

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        if self.intensity_high - self.intensity_low < LEAST_RANGE:
            raise ValueError("expected intensity_low below intensity_high")
        for names in (self.modalities, self.vendors, self.quantiles):
            if len(set(names)) != len(names):
                raise ValueError("expected every value only once")
        check_words(self.modalities, {*MODALITIES, OTHER}, "modalities")
        check_words(self.vendors, {*VENDORS, OTHER}, "vendors")
        return self
