from salus.common import errors
from salus.common.errors import SalusError, describe


def test_the_tree_is_drawn_completely() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, SalusError)]
    for error in classes:
        assert error.__name__ in (errors.__doc__ or ""), f"{error.__name__} is missing in the drawing"
    codes = [error.exit_code for error in classes]
    assert len(set(codes)) == len(codes)
    assert 0 not in codes


def test_foreign_texts_are_dropped() -> None:
    assert "Smith" not in describe(ValueError("patient Smith at /home/x"))
    assert describe(errors.Refused("No.", remedy="Ask.")) == "No. Ask."
