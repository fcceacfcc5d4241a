"""Images in which a detector looked for burned-in text: what it blanked, and whether the operator has looked at the result.

A detector misses some text, so jobs use such images only once the operator has approved them. A store keeps the list beside its
images, one line for each image, on disk before the image has its name: no kill or power failure makes an image approved.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import astuple
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from salus.client.data.dicom.burned_in import Blanked
from salus.client.data.schema import DATASETS
from salus.common.errors import DataError, UnfitError

SEARCHED = "searched.jsonl"


class SearchedImages:
    """The list of one store.

    Args:
        folder: of the store.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / SEARCHED
        self._known: dict[str, Blanked] = {}
        self._approved: set[str] = set()
        lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines() if self._path.exists() else []
        for line in lines:
            self._read(line)

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
            if "approved" in entry:
                self._approved |= set(self._known)
                return
            boxes = tuple((int(a), int(b), int(c), int(d)) for a, b, c, d in entry["boxes"])
            self._known[str(entry["image"])] = Blanked(boxes, bool(entry["outside"]))
            self._approved.discard(str(entry["image"]))
        except (ValueError, KeyError, TypeError):
            return  # truncated by a crash, before the image had its name

    def put(self, images: Mapping[str, Blanked]) -> None:
        """Remember images by their names in the store; on disk when this returns."""
        changed = {name: done for name, done in images.items() if self._known.get(name) != done}
        self._append({"image": name, "boxes": done.boxes, "outside": done.outside} for name, done in changed.items())
        self._known |= changed
        self._approved -= set(changed)

    def pending(self) -> dict[str, Blanked]:
        """Return the stored images that are not approved, by name."""
        return {
            name: done
            for name, done in self._known.items()
            if name not in self._approved and (self._folder / name).is_file()
        }

    def approve(self) -> None:
        """Approve all images of the list."""
        self._append([{"approved": datetime.now(UTC).isoformat(timespec="seconds")}])
        self._approved = set(self._known)

    def digest(self) -> str:
        """Return a hash of what `pending` returns, empty if that is nothing."""
        pending = sorted((name, astuple(done)) for name, done in self.pending().items())
        return hashlib.sha256(json.dumps(pending).encode()).hexdigest() if pending else ""

    def _append(self, entries: Iterable[Mapping[str, object]]) -> None:
        lines = [json.dumps(entry) for entry in entries]
        if not lines:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(f"\n{line}" for line in lines) + "\n")  # the last line may be truncated
            file.flush()
            os.fsync(file.fileno())


def awaiting(kind: str, root: Path) -> str:
    """Return the digest of a store's images that are not approved; empty for other kinds of data."""
    return SearchedImages(root).digest() if kind == "imported" else ""


class Approvals:
    """Which of a site's data sets wait for their operator's approval, in its catalogue."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def waiting(self, name: str) -> str:
        """Return the digest of the images that wait, empty if there are none or no such data set."""
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(DATASETS.c.awaiting).where(DATASETS.c.name == name)) or ""

    def require(self, name: str) -> None:
        """Raise UnfitError while a data set waits for approval."""
        if self.waiting(name):
            raise UnfitError(sentence(name), remedy="Ask the operator of the site to look at its import page.")

    def approve(self, name: str, root: Path) -> None:
        """Approve the images that the import page shows.

        Raises:
            DataError: the images have changed since the page was written.
        """
        searched = SearchedImages(root)
        if searched.digest() != self.waiting(name):
            raise DataError(
                "The images have changed since the import page was written.",
                remedy="Run the import again, which writes a new page, and look at that.",
            )
        searched.approve()
        with self._engine.begin() as connection:
            connection.execute(DATASETS.update().where(DATASETS.c.name == name).values(awaiting=""))


def sentence(name: str) -> str:
    """Return why jobs on a data set are refused."""
    return (
        f"The data set {name!r} is not approved yet: text was searched for and blanked in its images, and its operator first "
        "looks at them and runs: salus dataset approve."
    )
