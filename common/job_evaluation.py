"""The section of a job that says by which groups of patients the final model is evaluated."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from salus.common.job_statistics import Name
from salus.common.registry import Registry
from salus.common.sections import Section

MAX_ATTRIBUTES = 8


class Evaluation(Section):
    """How the final model is evaluated on the sites' validation patients, besides all of them together.

    Args:
        subgroups: Attributes by whose values the patients are also evaluated in groups, such as `sex` and `age`.
        min_patients: A site hides groups in which it has fewer patients; without noise only.
    """

    plugins: ClassVar[Mapping[str, str | Registry]] = {"subgroups": "salus.common.subgroups:SUBGROUPS"}

    subgroups: Annotated[tuple[Name, ...], Field(max_length=MAX_ATTRIBUTES)] = ()  # each costs exactness under noise
    min_patients: Annotated[int, Field(ge=1)] = 5  # a common rule of registries

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.subgroups)) != len(self.subgroups):
            raise ValueError("expected every one of subgroups only once")
        return self
