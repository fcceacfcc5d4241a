"""No randomness but the argument's, no files, no sockets, no clock in these folders."""

import re
from pathlib import Path

PRIVACY = Path(__file__).resolve().parents[3] / "privacy"
FOLDERS = [PRIVACY / "masking", PRIVACY / "protocol"]


def test_nothing_impure_is_used() -> None:
    for path in (path for folder in FOLDERS for path in folder.glob("*.py")):
        code = re.sub(r'""".*?"""', "", path.read_text(), flags=re.S)
        for forbidden in (
            r"np\.random",
            r"\bimport random\b",
            r"torch",
            r"\bos\b",
            r"\btime\b",
            r"socket",
            r"open\(.*['\"]r",
            r"import secrets",
        ):
            assert not re.search(forbidden, code), f"{path.name} uses {forbidden}"
