"""Text in CSV files that a spreadsheet will not take for a formula (OWASP, "CSV Injection").

A cell that begins like a formula gets an apostrophe in front; `read_cell` takes it away again, so that nothing is lost.
"""

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def write_cell(text: str) -> str:
    """Return `text` as it is to be written; numbers, with their sign, stay as they are."""
    return f"'{text}" if _like_a_formula(text) else text


def read_cell(text: str) -> str:
    """Return what `write_cell` was given."""
    return text[1:] if text.startswith("'") and _like_a_formula(text) else text


def _like_a_formula(text: str) -> bool:
    if not text.lstrip("'").startswith(FORMULA_STARTS):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return text != text.strip()  # a number behind a tab or a line's end is not one to a spreadsheet
