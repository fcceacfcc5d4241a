"""What became of the objects of a PACS, so that another import brings what is missing and nothing twice.

Each object is remembered and not only its study, because a study may grow: a late reconstruction, a second reading, a report.
A line of the file says what a batch did, and is written after the batch is on disk. A line that is lost or truncated costs only a
second transfer.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from salus import __version__
from salus.client.data.pseudonyms import pseudonym
from salus.common.errors import DataError

PROGRESS = "progress.jsonl"
STORED = ""
DIGEST = 16  # hex digits; compared within one study only
# Reasons that another import may resolve: a corrected label file, a mask, a less busy machine, a PACS that answers.
WORTH_ANOTHER_TRY = {"unlabelled", "burned-in", "annotation", "too-slow", "crashed", "pacs"}


class Progress:
    """The objects that earlier imports into a store have dealt with, by pseudonyms; and the counts of this import's source.

    Args:
        left_out: files that a source does not look at, by the reason.
        listed: ``studies`` and ``objects`` that the PACS lists.
        earlier: objects that the PACS lists and that an earlier import has stored.
    """

    def __init__(self, store: Path, secret: bytes) -> None:
        store.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path, self._secret = store / PROGRESS, secret
        self._known: dict[str, dict[str, str]] = defaultdict(dict)
        self.left_out: Counter[str] = Counter()
        self.listed: Counter[str] = Counter()
        self.earlier = 0
        if self._path.exists():
            for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
                self._read(line)

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
            # Lines of Salus 0.1 before batches name a study only: its objects are fetched once more.
            for study, outcomes in entry["studies"].items() if isinstance(entry, dict) else ():
                for reason, objects in outcomes.items():
                    if reason == STORED or entry["version"] == __version__:  # another version may accept the file
                        self._known[str(study)].update(dict.fromkeys(map(str, objects), str(reason)))
        except (ValueError, KeyError, AttributeError, TypeError):
            return  # truncated by a crash

    def outcome(self, study: str, name: str) -> str | None:
        """Return `STORED`, the reason for which an object was refused for good, or None if it is to be fetched."""
        return self._known.get(self._study(study), {}).get(self._object(name))

    def put(self, outcomes: Iterable[tuple[str, str, str]]) -> None:
        """Remember study, object and `STORED` or the reason of its refusal; call it once the objects are on disk.

        Raises:
            DataError: the file cannot be written.
        """
        studies: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for study, name, reason in outcomes:
            if study and name and reason not in WORTH_ANOTHER_TRY:
                studies[self._study(study)][reason].append(self._object(name))
                self._known[self._study(study)][self._object(name)] = reason
        if not studies:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:  # a line break first: the last line may be truncated
                file.write("\n" + json.dumps({"version": __version__, "studies": studies}))
        except OSError as problem:
            raise DataError(
                f"It cannot be noted which objects are stored: {problem.strerror}.",
                remedy="Free disk space, then run the import again.",
            ) from None

    def _study(self, uid: str) -> str:
        return pseudonym(self._secret, "study", uid)

    def _object(self, uid: str) -> str:
        return pseudonym(self._secret, "object", uid)[:DIGEST]
