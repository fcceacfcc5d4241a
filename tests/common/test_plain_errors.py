"""What pydantic refuses is said in plain words, with places as the author of the file writes them."""

import re
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, field_validator

from salus.common.errors import JobError
from salus.common.strict import Strict, validate

PYDANTICS = re.compile(
    r"[Ii]nput should|Value error|[A-Z][a-z]+ should (be|have|match)|valid (integer|tuple|string|boolean)"
)


class Inner(Strict):
    size: Annotated[int, Field(gt=0, lt=100)] = 1
    names: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)] = ("a",)
    kind: Literal["a", "b"] = "a"
    share: float = 0.5
    on: bool = False
    word: Annotated[str, Field(pattern=r"^[a-z]*$", max_length=5)] = ""

    @field_validator("share")
    @classmethod
    def _check(cls, share: float) -> float:
        if share > 1:
            raise ValueError("expected a share from 0 to 1")
        return share


class Outer(Strict):
    steps: tuple[Inner, ...] = ()


def said(values: object) -> str:
    with pytest.raises(JobError) as caught:
        validate(Outer, values, error=JobError, what="job file")
    return str(caught.value)


def test_places_and_sentences_are_those_of_the_file() -> None:
    assert "steps[1].size: expected a number greater than 0" in said({"steps": [{}, {"size": 0}]})
    assert "steps[0].share: expected a share from 0 to 1" in said({"steps": [{"share": 2.0}]})
    assert "steps[0].names: expected 1 or more entries, got 0" in said({"steps": [{"names": []}]})
    assert "steps: expected a list" in said({"steps": 3})
    assert "unknown key 'steps[0].sise' (did you mean 'size'?)" in said({"steps": [{"sise": 1}]})


WRONG = (
    st.none()
    | st.booleans()
    | st.integers(-200, 200)
    | st.floats(-2, 2)
    | st.text(max_size=8)
    | st.lists(st.integers())
)


@given(st.sampled_from(sorted(Inner.model_fields)), WRONG)
@settings(max_examples=150, deadline=None)
def test_no_message_speaks_as_pydantic_does(key: str, value: object) -> None:
    message = ""
    try:
        validate(Outer, {"steps": [{key: value}]}, error=JobError, what="job file")
    except JobError as problem:
        message = str(problem)
    assert not PYDANTICS.search(message), message
