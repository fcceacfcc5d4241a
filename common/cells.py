"""Text in CSV files that a spreadsheet will not take for a formula (OWASP, "CSV Injection").

A cell that begins like a formula gets a leading apostrophe, which `read_cell` removes, so that nothing is lost.
"""

FORMULA_STARTS = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
    "\n",
    "\uff1d",
    "\uff0b",
    "\uff0d",
    "\uff20",
)  # the last ones: full width


def write_cell(text: str) -> str:
    """Return the text to write for `text`; numbers, including signed ones, are unchanged."""
    return f"'{text}" if _like_a_formula(text) else text


def read_cell(text: str) -> str:
    """Return the original text of a cell from `write_cell`."""
    return text[1:] if text.startswith("'") and _like_a_formula(text) else text


def _like_a_formula(text: str) -> bool:
    if not text.lstrip("'").startswith(FORMULA_STARTS):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return text != text.strip()  # a spreadsheet does not read a number after a tab or line break as a number
