import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from salus.common.cells import FORMULA_STARTS, read_cell, write_cell


@given(st.text())
@example("'=1")
@example("''=1+1")
@example("\t-1")
def test_a_cell_comes_back_as_it_was_and_is_never_a_formula(text: str) -> None:
    written = write_cell(text)
    assert read_cell(written) == text
    if written.startswith(FORMULA_STARTS):
        float(written)
        assert written == written.strip()


@pytest.mark.parametrize("text", ["=cmd|'/C calc'!A0", "@SUM(A1)", "+1+1", "-2+3", "\t=1", "\r=1", "\uff1d1+1"])
def test_formulas_are_made_harmless(text: str) -> None:
    assert write_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-1", "+3.5", "-1e-3", "1.2.840", "pneumonia", "", "a=b"])
def test_numbers_and_ordinary_text_stay(text: str) -> None:
    assert write_cell(text) == text
