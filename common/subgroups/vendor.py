"""Subgroups by the vendor of the scanner, from a fixed list of words."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from salus.common.job_evaluation import Evaluation
from salus.common.job_statistics import Label
from salus.common.registry import settings_of
from salus.common.strict import Strict
from salus.common.subgroups.base import Subject
from salus.common.vocabulary import OTHER, VENDORS, check_words

OTHERS = "other or unknown"


class Vendor:
    """The listed vendors, and all others together. A patient with images of several vendors is in several groups."""

    class Settings(Strict):
        """Settings of subgroups by vendor.

        Args:
            vendors: Scanner vendors that are evaluated apart; all others are evaluated together.
        """

        vendors: Annotated[tuple[Label, ...], Field(min_length=1, max_length=16)] = (
            "GE",
            "SIEMENS",
            "PHILIPS",
            "CANON",
        )  # the largest makers of scanners

        @model_validator(mode="after")
        def _known(self) -> Self:
            if len(set(self.vendors)) != len(self.vendors):
                raise ValueError("expected every vendor only once")
            check_words(self.vendors, VENDORS, "vendors")
            return self

    def __init__(self, settings: Evaluation) -> None:
        self._vendors = settings_of(settings, self.Settings).vendors
        self.values = (*self._vendors, OTHERS)
        self.usual = len(self._vendors)

    def place(self, subject: Subject) -> int:
        vendor = str(subject.info.get("vendor", OTHER))
        return self._vendors.index(vendor) if vendor in self._vendors else len(self._vendors)
