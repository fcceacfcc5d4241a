import contextlib
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salus.common.names import check_name, same_name, visible


@pytest.mark.parametrize(
    "name",
    [
        "St. Mary",
        "Charité – Universitätsmedizin Berlin",
        "東京大学病院",
        "Больница No. 1",
        "अस्पताल",
        "O'Neill & Sons",
        "4+1",
    ],
)
def test_names_of_every_script_may_be_used(name: str) -> None:
    assert check_name(unicodedata.normalize("NFC", name))


@pytest.mark.parametrize(
    "name",
    ["[b]x", "x]", "a\u00a0b", "a\ufe0f", "a\\b", "a/b", "a\nb", "a\x1bb", "a\x9bb", "a\u202eb", "a\u200db",
     "a\u3164b", "a\u0301\u0302\u0303",
     "<b>", '"', "a`b", "{a}", "(a)", "😀", "a ", " a"],
)  # fmt: skip
def test_what_could_change_its_surroundings_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        check_name(name)


@given(st.text(max_size=90))
def test_a_name_that_passes_is_harmless_wherever_it_is_shown(name: str) -> None:
    with contextlib.suppress(ValueError):
        check_name(name)
        assert visible(name) == name
        assert not set(name) & set('[]<>{}()\\/"`=@#')


def test_names_are_compared_without_case_and_width() -> None:
    assert same_name("St. Mary", "ＳＴ. mary")
    assert not same_name("St. Mary", "St. Marie")


@given(st.text())
def test_nothing_that_is_shown_moves_a_terminal(text: str) -> None:
    made = visible(text)
    assert all(unicodedata.category(character)[0] not in "C" for character in made)
    assert visible(made) == made
