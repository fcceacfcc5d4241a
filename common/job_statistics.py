"""What a job asks of the sites' data besides training: columns of tables, statistics, and how images are harmonised."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from salus.common.strict import Strict

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
FEATURES = ("mean", "sd", "p10", "p25", "median", "p75", "p90", "p99", "edge")  # of an image, see `analyses.features`
Label = Annotated[str, Field(min_length=1, max_length=64)]
Intensity = Annotated[float, Field(ge=-1e9, le=1e9)]  # what a picture can hold; far below where single precision ends
Scale = Annotated[float, Field(ge=1e-6, le=1e9)]
LEAST_RANGE = 1e-6


class Column(Strict):
    """One column of a table and the public constants that bring it to a common scale at every site."""

    name: Label
    centre: Annotated[float, Field(ge=-1e12, le=1e12)] = 0.0
    scale: Annotated[float, Field(ge=1e-12, le=1e12)] = 1.0
    values: tuple[float, ...] = ()  # for a category: one input per value, and the column's own scale is not used
    unit: Annotated[str, Field(max_length=32)] = ""  # if given, every site must have declared the same unit


class Statistics(Strict):
    """What is measured over all sites, instead of training."""

    kind: Name
    intensity_low: Intensity = 0.0  # of the range in which intensities are counted, in the modality's units; CT: -1024
    intensity_high: Intensity = 65_535.0  # what 16 bits hold
    bins: Annotated[int, Field(ge=4, le=4096)] = 64  # quantiles are known to the width of one
    quantiles: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1, max_length=32)] = (
        0.01,
        0.25,
        0.5,
        0.75,
        0.99,
    )
    modalities: Annotated[tuple[Label, ...], Field(max_length=16)] = (
        "CT",
        "MR",
        "DX",
        "CR",
    )  # the rest is counted together
    vendors: Annotated[
        tuple[Label, ...], Field(max_length=16)
    ] = ()  # quantiles for each of them; none: for all together
    min_patients: Annotated[int, Field(ge=1)] = 5  # a site hides numbers in which fewer have a part

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        if self.intensity_high - self.intensity_low < LEAST_RANGE:
            raise ValueError("expected intensity_low below intensity_high")
        for names in (self.modalities, self.vendors, self.quantiles):
            if len(set(names)) != len(names):
                raise ValueError("expected no value twice")
        return self


class Harmonise(Strict):
    """How every site brings its images to a common scale before training, with constants from statistics over all sites."""

    kind: Literal["nyul", "zscore", "features", "combat"]
    landmarks: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()  # nyul: the standard scale
    groups: tuple[tuple[Label, Intensity, Scale], ...] = ()  # zscore: vendor or ALL, centre, scale
    constants: tuple[Annotated[float, Field(ge=-1e6, le=1e6)], ...] = ()  # combat: the common model
    intensity_low: Intensity = 0.0  # features and combat: as in the statistics
    intensity_high: Intensity = 65_535.0

    @model_validator(mode="after")
    def _what_the_kind_needs(self) -> Self:
        needed = {"nyul": "landmarks", "zscore": "groups", "combat": "constants"}.get(self.kind)
        for name in ("landmarks", "groups", "constants"):
            if bool(getattr(self, name)) != (name == needed):
                raise ValueError(f"expected {'' if name == needed else 'no '}{name} for harmonise.kind = {self.kind!r}")
        rising = all(a <= b for a, b in zip(self.landmarks, self.landmarks[1:], strict=False))
        if self.landmarks and (len(self.landmarks) != 11 or not rising or self.landmarks[0] >= self.landmarks[-1]):
            raise ValueError("expected 11 rising landmarks")
        if self.intensity_high - self.intensity_low < LEAST_RANGE:
            raise ValueError("expected intensity_low below intensity_high")
        return self
