"""The folder of a run's results: what it belongs to, which images are done, and so where a stopped run goes on.

run.json          which model, job, data and outputs the folder is for; written first
progress.jsonl    one line for each finished image, written after its files
masks/ seg/ sr/ sc/ overlays/   one file for each image, each complete or absent
predictions.csv  predictions.json  predictions.html    written when all images are done
"""

import contextlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from salus.common.errors import ConfigError, storage_error
from salus.common.files import write_whole
from salus.common.lock import FolderLock
from salus.common.strict import Strict, validate

RUN, PROGRESS = "run.json", "progress.jsonl"
LOCK = "daemon.lock"  # of `FolderLock`
MAX_NAME = 100
TAKEN = (
    "item",
    "label",
    "boxes",
    "masks",
    "objects",
    "seg",
    "sr",
    "sc",
    "overlays",
)  # columns that a number of this name would overwrite
OWN_FILE = re.compile(r"[a-z]+/(?!\.\.?\Z)[A-Za-z0-9._-]+")  # what a page shows and a command sends lies in the folder
FORMAT: Literal["salus/predictions/1"] = "salus/predictions/1"


class Run(Strict):
    """What a folder's results belong to; a run is continued only if all of this is the same.

    Args:
        data_sha256: of the place and the options of the data.
        outputs: kinds of files, sorted.
    """

    format: Literal["salus/predictions/1"] = FORMAT
    model_sha256: str
    job_sha256: str
    data_sha256: str
    outputs: tuple[str, ...]


class Outcome(Strict):
    """The result for one image, volume or row.

    Args:
        item: how the source calls it: a file relative to the data, or the first file of a series.
        name: of its files.
        probabilities: by class, for tasks with classes.
        values: by name, for tasks that predict a number.
        volumes: by structure, in millilitres; in pixels for pictures, and for volumes of unknown spacing.
        unit: of `volumes`.
        files: by kind of output, relative to the folder.
        left_out: outputs that this image cannot have, with the reason.
    """

    item: str
    name: str
    label: str = ""
    probabilities: dict[str, float] = Field(default_factory=dict)
    values: dict[str, float] = Field(default_factory=dict)
    volumes: dict[str, float] = Field(default_factory=dict)
    unit: Literal["", "ml", "pixels"] = ""
    files: dict[str, str] = Field(default_factory=dict)
    left_out: dict[str, str] = Field(default_factory=dict)


class Record:
    """A folder that is open for one run.

    Args:
        folder: created if absent.

    Attributes:
        done: outcomes of finished images by the key of the source.

    Raises:
        ConfigError: the folder holds something else, or the results of another run; or a run is writing into it.
    """

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder = folder
        self._check(run)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as problem:
            raise storage_error(problem) or problem from None
        try:
            self._lock = FolderLock(folder)
        except ConfigError:
            raise ConfigError(
                f"A prediction is already writing into {folder.name!r}.", remedy="Wait until it ends."
            ) from None
        if not (folder / RUN).exists():
            write_whole(folder / RUN, run.model_dump_json(indent=1).encode())
        self.done = self._read()
        self._names = {outcome.name.lower() for outcome in self.done.values()}
        self._file = (folder / PROGRESS).open("a", encoding="utf-8")

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._lock.close()

    def _check(self, run: Run) -> None:
        path = self.folder / RUN
        if not path.exists():
            if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
                raise ConfigError(f"{self.folder.name!r} is not a folder.", remedy="Choose another --out.")
            if self.folder.exists() and any(entry.name != LOCK for entry in self.folder.iterdir()):
                raise ConfigError(
                    f"The folder {self.folder.name!r} is not empty and holds no predictions.",
                    remedy="Choose another --out.",
                )
            return
        try:
            earlier = validate(Run, json.loads(path.read_bytes()), error=ConfigError, what="record of the earlier run")
        except (ValueError, OSError):
            raise ConfigError(f"The file {RUN!r} is damaged.", remedy="Choose another --out.") from None
        what = {"model_sha256": "model", "job_sha256": "job", "data_sha256": "data", "outputs": "outputs"}
        other = [text for name, text in what.items() if getattr(earlier, name) != getattr(run, name)]
        if other:
            raise ConfigError(
                f"The folder {self.folder.name!r} holds predictions with another {' and another '.join(other)}.",
                remedy="Choose another --out, or remove the folder; a run is continued only with the same command.",
            )

    def _read(self) -> dict[str, Outcome]:
        found: dict[str, Outcome] = {}
        path = self.folder / PROGRESS
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            with contextlib.suppress(ValueError, ConfigError, KeyError, TypeError):  # the last line may be cut short
                plain = json.loads(line)
                outcome = validate(Outcome, plain["outcome"], error=ConfigError, what="line")
                if all(OWN_FILE.fullmatch(name) and (self.folder / name).is_file() for name in outcome.files.values()):
                    found[str(plain["key"])] = outcome
        return found

    def name_for(self, item: str) -> str:
        """Return a file name for an item that no other item has: its own name where that is a plain one."""
        stem = re.sub(r"\.(nii|nii\.gz|dcm|png|jpe?g|bmp|tiff?)$", "", item, flags=re.IGNORECASE)
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._-")[-MAX_NAME:] or "image"
        name, number = plain, 1
        while name.lower() in self._names:
            number += 1
            name = f"{plain}-{number}"
        self._names.add(name.lower())
        return name

    def finish(self, key: str, outcome: Outcome) -> None:
        """Note that an item's files are complete; on disk when this returns."""
        plain = {"key": key, "outcome": outcome.model_dump(mode="json")}
        try:
            self._file.write("\n" * bool(self._cut_short()) + json.dumps(plain) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as problem:
            raise storage_error(problem) or problem from None
        self.done[key] = outcome

    def _cut_short(self) -> bool:
        path = self.folder / PROGRESS
        size = path.stat().st_size
        if not size:
            return False
        with path.open("rb") as file:
            file.seek(size - 1)
            return file.read(1) != b"\n"

    def path(self, kind: str, name: str, suffix: str) -> Path:
        """Return where an item's file of a kind goes; its folder exists."""
        folder = self.folder / kind
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / f"{name}{suffix}"


def columns_of(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the columns of the table of outcomes, in the order in which they first occur."""
    return list(dict.fromkeys(column for outcome in outcomes for column in row_of(outcome)))


def row_of(outcome: Outcome) -> dict[str, object]:
    """Return an outcome as a row of the table."""
    return {
        "item": outcome.item,
        **({"label": outcome.label} if outcome.label else {}),
        **{f"probability_{name}": value for name, value in outcome.probabilities.items()},
        **{f"value_{name}" if name in TAKEN else name: value for name, value in outcome.values.items()},
        **{f"{name}_{outcome.unit}": value for name, value in outcome.volumes.items()},
        **outcome.files,
    }
