"""Subgroups by the patient's sex, as in the DICOM header or the column that the operator named."""

from salus.common.job_evaluation import Evaluation
from salus.common.people import SEXES, sex_of
from salus.common.subgroups.base import UNKNOWN, Subject


class Sex:
    """Female, male, other, unknown."""

    values = ("female", "male", "other", UNKNOWN)
    usual = 2

    def __init__(self, settings: Evaluation) -> None:
        pass

    def place(self, subject: Subject) -> int:
        sex = sex_of(subject.info.get("sex"))
        return SEXES.index(sex) if sex else len(SEXES)
