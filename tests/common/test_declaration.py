import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from salus.common.declaration import Declaration, rounded_down, spacing_class, target_of


@given(st.integers(1, 10**8))
def test_the_lower_bound_is_one_and_says_little(count: int) -> None:
    bound = rounded_down(count)
    assert bound <= count < 2.5 * bound
    assert str(bound).rstrip("0") in ("1", "2", "5")


@pytest.mark.parametrize("word", ["", " a", "a ", "a\x1b[31m", "a\nb", "\u202ea", "a" * 65, "\u200b"])
def test_nothing_that_changes_a_terminal_can_be_declared(word: str) -> None:
    with pytest.raises(ValidationError):
        Declaration(kind="images", classes=(word,))
    with pytest.raises(ValidationError):
        Declaration.model_validate({"kind": "table", "columns": ({"name": word},)})


def test_a_number_for_each_image_is_said_in_words() -> None:
    """`measurement, mask` did not say that the number is the volume of the mask."""
    plain = Declaration(kind="images", annotations=("measurement",))
    assert dict(plain.rows())["annotations"] == "a number for each image"
    target = {"name": "mask", "kind": "mask", "names": ("liver",)}
    masked = Declaration.model_validate(
        {"kind": "images", "annotations": ("measurement", "mask"), "targets": (target,)}
    )
    assert (
        dict(masked.rows())["annotations"]
        == "a number for each image (the volume of its mask, or from a label file), mask"
    )


def test_a_newer_declaration_is_refused() -> None:
    with pytest.raises(ValidationError):
        Declaration.model_validate({"kind": "images", "version": 2})


def test_labels_may_be_numbers_of_ascii_digits_only() -> None:
    assert target_of("1", ["no", "yes"]) == 1
    assert target_of("\u0661", ["no", "yes"]) is None
    assert target_of("1", ["0", "2"]) is None
    assert target_of("9" * 5000, ["no", "yes"]) is None, "Python refuses to read it as a number"


def test_classes_of_spacing() -> None:
    found = [spacing_class(spacing) for spacing in ((), (5.0, 0.2, 0.25), (0.4, 0.6), (3.0, 3.0), (0.0, 0.0))]
    assert found == ["unknown", "up to 0.25 mm", "0.5 to 1 mm", "above 2 mm", "unknown"]
