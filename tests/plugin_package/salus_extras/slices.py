"""An attribute of subgroups: whether a volume has few or many slices."""

from typing import Annotated

from pydantic import Field

from salus.common.job import Evaluation
from salus.common.registry import settings_of
from salus.common.strict import Strict
from salus.common.subgroups.base import UNKNOWN, Subject


class Slices:
    """Few, many, unknown."""

    class Settings(Strict):
        """Settings of subgroups by slices.

        Args:
            many_slices: Number of slices from which on they are many.
        """

        many_slices: Annotated[int, Field(ge=1)] = 100

    values = ("few", "many", UNKNOWN)
    usual = 2

    def __init__(self, settings: Evaluation) -> None:
        self._many = settings_of(settings, self.Settings).many_slices

    def place(self, subject: Subject) -> int:
        slices = subject.info.get("slices")
        return int(slices >= self._many) if isinstance(slices, int) else 2
