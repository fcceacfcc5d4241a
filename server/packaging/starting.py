"""A job file with the section `start` of a package."""

import re
import tomllib

from salus.common.errors import JobError

SECTION = re.compile(r"^\[start\][^\n]*$", re.MULTILINE)
NEXT = re.compile(r"^\[", re.MULTILINE)


def with_start(text: str, package: str, weights: str) -> str:
    """Return the text of a job file in which the section start names these hashes; its other keys and comments stay.

    Raises:
        JobError: not TOML.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise JobError(f"Expected the job file to be TOML, but {problem}.", remedy="Correct that line.") from None
    lines = f'package = "{package}"\nweights = "{weights}"\n'
    found = SECTION.search(text)
    if found is None:
        if "start" in values:
            raise JobError("Expected start as a section of its own.", remedy="Write it as [start].")
        return f"{text.rstrip()}\n\n[start]\n{lines}"
    after = NEXT.search(text, found.end())
    end = len(text) if after is None else after.start()
    kept = re.sub(r"^(package|weights)\s*=[^\n]*\n?", "", text[found.end() + 1 : end], flags=re.MULTILINE)
    return text[: found.end()] + "\n" + lines + kept + text[end:]
