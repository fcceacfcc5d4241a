"""Subgroups by the patient's age at the time of the study, in bands."""

import bisect
from typing import Annotated, Self

from pydantic import Field, model_validator

from salus.common.job_evaluation import Evaluation
from salus.common.people import OLDEST_YEARS, age_years_of
from salus.common.registry import settings_of
from salus.common.strict import Strict
from salus.common.subgroups.base import UNKNOWN, Subject


class Age:
    """Bands of age in whole years; ages of 90 and more are one value, so no band begins later."""

    class Settings(Strict):
        """Settings of subgroups by age.

        Args:
            age_edges: Ages in years at which a new band begins, the first band being below all of them.
        """

        age_edges: Annotated[
            tuple[Annotated[int, Field(ge=1, le=OLDEST_YEARS)], ...], Field(min_length=1, max_length=32)
        ] = (18, 40, 65, 80)  # children, younger and older adults, and the oldest, in whom models often do worse

        @model_validator(mode="after")
        def _ascending(self) -> Self:
            if list(self.age_edges) != sorted(set(self.age_edges)):
                raise ValueError("expected age_edges in ascending order, each only once")
            return self

    def __init__(self, settings: Evaluation) -> None:
        self._edges = settings_of(settings, self.Settings).age_edges
        last = self._edges[-1]
        between = [
            f"{low}-{high - 1}" if high - low > 1 else f"{low}"
            for low, high in zip((0, *self._edges[:-1]), self._edges, strict=True)
        ]
        self.values = (*between, f"{last} or more", UNKNOWN)
        self.usual = len(self.values) - 1

    def place(self, subject: Subject) -> int:
        years = age_years_of(subject.info.get("age_years"))
        return len(self.values) - 1 if years is None else bisect.bisect_right(self._edges, years)
