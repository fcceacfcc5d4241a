"""What a mammogram shows, as facts of the catalogue: view, side, and whether there is an implant; words of fixed lists only."""

from pydicom.dataset import Dataset

from salus.client.data.dicom.numbers import items_of, safely, word_of

VIEWS = {"CC", "MLO", "ML", "LM", "LMO", "XCCL", "XCCM", "FB", "SIO", "ISO", "CV", "AT"}
# Of ViewCodeSequence, by SNOMED CT and by the older SNOMED RT (PS3.16 CID 4014).
CODES = {
    "399162004": "CC", "R-10242": "CC", "399368009": "MLO", "R-10226": "MLO", "399260004": "ML", "R-10224": "ML",
    "399352003": "LM", "R-10228": "LM", "399099002": "LMO", "R-10230": "LMO", "399188001": "FB", "R-10244": "FB",
    "399265009": "XCCL", "Y-X1770": "XCCL", "399011000": "XCCM", "Y-X1771": "XCCM", "399101009": "SIO", "R-102D0": "SIO",
}  # fmt: skip
SIDES = {"L", "R", "B"}
BREAST = {"MG"}


def facts_of(dataset: Dataset) -> dict[str, str]:
    """Return ``view``, ``laterality`` and ``implant`` of a mammogram, as far as they are stated; nothing for other images."""
    if _word(dataset, "Modality") not in BREAST:
        return {}
    sides = (_word(dataset, keyword) for keyword in ("ImageLaterality", "FrameLaterality", "Laterality"))
    found = {
        "view": view_of(dataset),
        "laterality": next((side for side in sides if side in SIDES), ""),
        "implant": {"YES": "yes", "NO": "no"}.get(_word(dataset, "BreastImplantPresent"), ""),
    }
    return {name: word for name, word in found.items() if word}


def write_facts(clean: Dataset, dataset: Dataset) -> None:
    """Write these facts into a de-identified mammogram."""
    found = facts_of(dataset)
    if "view" in found:
        clean.ViewPosition = found["view"]
    if "laterality" in found:
        clean.ImageLaterality = found["laterality"]
    if "implant" in found:
        clean.BreastImplantPresent = found["implant"].upper()


def view_of(dataset: Dataset) -> str:
    """Return the view of a mammogram, or nothing."""
    stated = _word(dataset, "ViewPosition")
    codes = safely(lambda: [str(item.CodeValue).strip() for item in items_of(dataset, "ViewCodeSequence")[:1]], [])
    return stated if stated in VIEWS else next((CODES[code] for code in codes if code in CODES), "")


def _word(dataset: Dataset, keyword: str) -> str:
    return str(safely(lambda: word_of(dataset, keyword), ""))
