"""Subgroups by site: what a model achieves at one hospital, which every operator must have allowed.

If only the listed sites had to allow it, the total minus theirs would show the last site that did not.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from salus.common.job_evaluation import Evaluation
from salus.common.registry import settings_of
from salus.common.strict import Strict
from salus.common.subgroups.base import Subject


class Site:
    """The listed sites; all others are together."""

    class Settings(Strict):
        """Settings of subgroups by site.

        Args:
            sites: Numbers, on the roster, of the sites that are evaluated apart; all others are evaluated together.
        """

        sites: Annotated[tuple[Annotated[int, Field(ge=1, le=10_000)], ...], Field(min_length=1, max_length=64)]

        @model_validator(mode="after")
        def _each_once(self) -> Self:
            if len(set(self.sites)) != len(self.sites):
                raise ValueError("expected every site only once")
            return self

    def __init__(self, settings: Evaluation) -> None:
        self._sites = settings_of(settings, self.Settings).sites
        self.values = (*(f"site {site}" for site in self._sites), "other sites")
        self.usual = len(self._sites)

    def place(self, subject: Subject) -> int:
        return self._sites.index(subject.site) if subject.site in self._sites else len(self._sites)
