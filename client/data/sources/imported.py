"""A store of de-identified images: a DICOM folder whose patients are already pseudonyms, and are not hashed again.

So a patient who was added twice, once by import and once in a plain folder, is one patient to the privacy ledger.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from salus.client.data.dicom.kinds import INCLUDABLE
from salus.client.data.records import ImageRecord, Quarantined
from salus.client.data.sources.base import Files
from salus.client.data.sources.dicom_folder import DicomFolder
from salus.client.data.sources.settings import DicomSettings

PSEUDONYM = re.compile(r"^[0-9a-f]{32}\Z")


class ImportedFolder(DicomFolder):
    """What `salus dataset import` has stored; it was decided there which objects are training pictures."""

    def __init__(self, files: Files, options: DicomSettings) -> None:
        super().__init__(files, options.model_copy(update={"include": INCLUDABLE}))

    def unmatched(self) -> Iterator[Quarantined]:
        """Yield nothing: the import has compared the hospital's label file; the store's own may hold rows of lost images."""
        return iter(())

    def examine(self, names: Sequence[str]) -> Iterator[ImageRecord | Quarantined]:
        """Yield every stored image; one whose patient is not a pseudonym is quarantined."""
        for item in super().examine(names):
            if isinstance(item, ImageRecord) and not PSEUDONYM.match(item.patient):
                yield Quarantined(item.key, "not-imported", "its patient is not a pseudonym; import it first")
            elif isinstance(item, ImageRecord):
                yield replace(item, pseudonymous=True)
            else:
                yield item
