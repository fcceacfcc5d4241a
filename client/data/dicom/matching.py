"""Further pseudonyms of a de-identified object, by which labels and earlier imports are matched; none of them is stored."""

from collections.abc import Callable
from dataclasses import dataclass

from pydicom.dataset import Dataset

from salus.client.data.identity import normalised
from salus.client.data.pseudonyms import literal_pseudonym


@dataclass(frozen=True)
class Others:
    """Pseudonyms, empty where the object lacks the element.

    Args:
        former: the patient's pseudonym in versions for which spaces at the ends of an identifier were significant; empty if it
            is the same.
    """

    instance: str = ""
    series: str = ""
    accession: str = ""
    former: str = ""


def others_of(dataset: Dataset, pseudonym: Callable[[str, str], str], secret: bytes, patient_id: str) -> Others:
    """Return an object's further pseudonyms.

    Args:
        pseudonym: from a kind and an identifier.
        secret: under which it is computed.
    """

    def named(kind: str, keyword: str) -> str:
        value = normalised(str(dataset.get(keyword, "") or ""))
        return pseudonym(kind, value) if value else ""

    former = literal_pseudonym(secret, "patient", patient_id) if patient_id != normalised(patient_id) else ""
    instance, series = named("instance", "SOPInstanceUID"), named("series", "SeriesInstanceUID")
    return Others(instance, series, named("accession", "AccessionNumber"), former)
