"""Errors of pydantic as plain sentences, the only place that knows its words."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

# By pydantic's type of error; the names in braces are of its context.
SENTENCES = {
    "bool_type": "expected true or false",
    "string_type": "expected text in quotes",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "dict_type": "expected a table",
    "model_type": "expected a table",
    "model_attributes_type": "expected a table",
    "mapping_type": "expected a table",
    "greater_than": "expected a number greater than {gt}",
    "greater_than_equal": "expected at least {ge}",
    "less_than": "expected a number less than {lt}",
    "less_than_equal": "expected at most {le}",
    "literal_error": "expected {expected}",
    "enum": "expected {expected}",
    "string_too_short": "expected {min_length} or more characters",
    "string_too_long": "expected at most {max_length} characters",
    "string_pattern_mismatch": "expected text of the pattern {pattern}",
    "too_short": "expected {min_length} or more entries, got {actual_length}",
    "too_long": "expected at most {max_length} entries",
    "date_from_datetime_parsing": "expected a date such as 2026-01-31",
    "json_invalid": "the text is not JSON",
}


def place_of(location: Sequence[int | str]) -> str:
    """Return where an error is, as the author of a file writes it.

    >>> place_of(("task", "transforms", 0, "size"))
    'task.transforms[0].size'
    """
    text = ""
    for part in location[:8]:  # the names may come from another machine
        text += f"[{part}]" if isinstance(part, int) else f".{part[:80]}" if text else part[:80]
    return text


def sentence_of(problem: Mapping[str, Any]) -> str:
    """Return one error of pydantic in plain words.

    Args:
        problem: an item of `ValidationError.errors()`.

    >>> sentence_of({"type": "greater_than", "ctx": {"gt": 0}, "msg": "Input should be greater than 0"})
    'expected a number greater than 0'
    """
    known = SENTENCES.get(problem["type"])
    try:
        if known is not None:
            return known.format(**problem.get("ctx", {}))
    except KeyError:
        pass  # a context of another version of pydantic: its own words are better than none
    words = re.sub(r"^(Value|Assertion) error, ", "", problem["msg"])
    return re.sub(r"^[A-Z][a-z]+ should (be|have|match) ", lambda found: f"expected {_after(found[1])}", words)


def _after(verb: str) -> str:
    return {"be": "", "have": "", "match": "text of the pattern "}[verb]
