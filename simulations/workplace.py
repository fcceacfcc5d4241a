"""The folder of a simulation: a temporary one, or one that is kept and checked before the work begins."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from salus.common.errors import ConfigError, storage_error

UNFINISHED = ".unfinished"  # marks a folder whose simulation has not finished
OURS = re.compile(r"coordinator|transcripts|central|site-[0-9]+|events\.jsonl")  # only these are ever removed


@contextmanager
def workplace(output: Path | None) -> Iterator[Path]:
    """Yield the folder of a simulation.

    Args:
        output: folder that is kept; an unfinished simulation in it is replaced. None for a folder that is removed at the end.

    Raises:
        ConfigError: the folder has a finished simulation.
        StorageError: the folder cannot be written.
    """
    if output is None:
        with tempfile.TemporaryDirectory(prefix="salus-", ignore_cleanup_errors=True) as temporary:
            yield Path(temporary)
        return
    mark = output / UNFINISHED
    try:
        output.mkdir(parents=True, exist_ok=True)
        if (output / "coordinator").exists() and not mark.exists():
            raise ConfigError(
                f"The folder {output.name!r} already has a simulation.", remedy="Choose another --output."
            )
        mark.touch()
        for old in output.iterdir():
            if OURS.fullmatch(old.name):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
    except OSError as problem:
        raise storage_error(problem) or problem from None
    yield output
    mark.unlink(missing_ok=True)
