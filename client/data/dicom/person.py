"""Sex and age in a DICOM header: read for evaluation by subgroup, and written by the de-identification."""

import pydicom

from salus.common.people import age_on, age_years_of, sex_of


def age_years(dataset: pydicom.Dataset) -> int | None:
    """Return the patient's age in whole years, at most 90: as stated, or from the dates of birth and study; None if unknown."""
    stated = age_years_of(dataset.get("PatientAge"))
    return age_on(dataset.get("PatientBirthDate"), dataset.get("StudyDate")) if stated is None else stated


def write_person(clean: pydicom.Dataset, dataset: pydicom.Dataset) -> None:
    """Write sex and age, as far as they are known, and no date of birth."""
    sex, years = sex_of(dataset.get("PatientSex")), age_years(dataset)
    if sex:
        clean.PatientSex = sex
    if years is not None:
        clean.PatientAge = f"{years:03d}Y"
