"""A site's answer whether it could run a job, and how large it may be on its way to the coordinator."""

from typing import Annotated, Literal

from pydantic import Field

from salus.common.canonical import canonical_json
from salus.common.declaration import Declaration
from salus.common.errors import WireError
from salus.common.strict import Strict, parse_json, validate, values_in

Requirement = Literal[
    "data set",
    "labels",
    "annotations",
    "classes",
    "images",
    "modality",
    "columns",
    "patients",
    "policy",
    "epoch",
    "budget",
    "protection",
]
MAX_TEXT = 600
MAX_PROBLEMS = 40
MAX_VERDICT_BYTES = 2**20  # a thousand data sets, or one table of 10 000 columns
MAX_VERDICT_VALUES = 2**16


class Problem(Strict):
    """One requirement of a job that a site does not meet, as a sentence that both sides may read."""

    requirement: Requirement
    text: Annotated[str, Field(max_length=MAX_TEXT)]


class Verdict(Strict):
    """A site's answer whether it could run a job; nothing in it depends on one patient.

    It tells without numbers whether the privacy budget allows the job, like a refusal.

    Args:
        declarations: declarations of the data sets that the site policy allows, by name; None for one that is not declared yet.
    """

    problems: Annotated[tuple[Problem, ...], Field(max_length=MAX_PROBLEMS)] = ()
    declarations: Annotated[dict[str, Declaration | None], Field(default_factory=dict, max_length=1000)]

    @property
    def fits(self) -> bool:
        """Whether the site could run the job."""
        return not self.problems

    def encode(self) -> bytes:
        """Return the encoded verdict."""
        return canonical_json(self.model_dump(mode="json"))

    def fitting(self, dataset: str) -> "Verdict":
        """Return this verdict; with more declarations than a verdict may hold, without those of other data sets.

        Args:
            dataset: the job's; if its declaration alone is too large, there is none.
        """
        mine = {name: found for name, found in self.declarations.items() if name == dataset}
        for fewer in (self.declarations, mine):
            found = self.model_copy(update={"declarations": fewer})
            data = found.encode()
            if len(data) <= MAX_VERDICT_BYTES and values_in(data) <= MAX_VERDICT_VALUES:
                return found
        return self.model_copy(update={"declarations": {}})


def read_verdict(data: bytes) -> Verdict:
    """Return what `Verdict.encode` wrote; raises WireError for anything else, and for too much of it before it is parsed."""
    values = parse_json(data, MAX_VERDICT_BYTES, MAX_VERDICT_VALUES, error=WireError, what="verdict on a job")
    return validate(Verdict, values, error=WireError, what="verdict", received=True)
