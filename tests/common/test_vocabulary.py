import numpy as np
import pydicom
import pytest
from tests.client.data.dicom_files import write

from salus.client.data.dicom.picture import Facts, decode, picture
from salus.common.errors import JobError
from salus.common.job import parse_job
from salus.common.vocabulary import modality_of, vendor_of


@pytest.mark.parametrize(
    ("text", "vendor"),
    [
        ("GE MEDICAL SYSTEMS", "GE"),
        ("GEMS", "GE"),
        ("Image Systems", "OTHER"),
        ("Siemens Healthineers", "SIEMENS"),
        ("Dr. German", "OTHER"),
        ("FUJIFILM Corporation", "FUJI"),
        ("Canon Inc.", "CANON"),
        (None, "OTHER"),
        ("", "OTHER"),
    ],
)
def test_vendors_stand_at_the_beginning_of_a_word(text: object, vendor: str) -> None:
    assert vendor_of(text) == vendor
    assert vendor_of(vendor) == vendor  # of the list again


def test_modalities_are_those_of_the_list() -> None:
    assert [modality_of(text) for text in ("ct", " MR ", "DOE^JOHN", None)] == ["CT", "MR", "OTHER", "OTHER"]


def test_what_a_child_says_of_a_picture_is_not_believed(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.mktemp("v") / "a.dcm", np.zeros((3, 3), np.uint16))
    facts, numbers, padding = decode(pydicom.dcmread(path))
    lying: Facts = facts.model_copy(update={"modality": "DOE^JOHN", "vendor": "born 1970"})
    info = picture(lying, numbers, padding, "", "a").info
    assert (info["modality"], info["vendor"]) == ("OTHER", "OTHER")


TRAINING = '[task]\nkind = "classification"\nmodel = "cnn"\ndataset = "d"\nclasses = ["a", "b"]\nshape = [8, 8]\n'
MEASURING = '[task]\ndataset = "d"\nclasses = ["a", "b"]\n'


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (TRAINING + '[[task.transforms]]\nkind = "zscore"\ngroups = [["SEIMENS", 0.0, 1.0]]', "SIEMENS"),
        (TRAINING + '[[task.transforms]]\nkind = "zscore"\ngroups = [["all", 0.0, 1.0]]', "ALL"),
        (MEASURING + '[statistics]\nkind = "quantiles"\nvendors = ["Philips"]', "PHILIPS"),
        (MEASURING + '[statistics]\nkind = "summary"\nmodalities = ["MRI"]', "MR"),
    ],
)
def test_a_misspelt_vendor_or_modality_is_an_error_of_the_job(sections: str, said: str) -> None:
    """Every site would find no such image, and a job with noise would spend its budget on none."""
    with pytest.raises(JobError, match=f"did you mean '{said}'"):
        parse_job(f'[job]\nname = "x"\nrounds = 1\n{sections}')
