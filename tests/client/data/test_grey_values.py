"""A range of grey values in which pictures would be flat is refused, by name, before any image is read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from salus.client.data.grey_values import flat_here
from salus.client.data.sources.settings import SourceOptions
from salus.common.errors import JobError, UnfitError
from salus.common.job import Job, parse_job
from salus.server.checks import check_job
from salus.simulations.virtual import make_hospitals

HEAD = '[job]\nname = "grey"\nrounds = 1\n'
TASK = '[task]\nkind = "classification"\nmodel = "cnn"\ndataset = "d"\nclasses = ["a", "b"]\nshape = [8, 8]\n'
SVM = '[task]\nkind = "svm"\nmodel = "logistic"\ndataset = "d"\nclasses = ["a", "b"]\n'
RESIZE = '[[task.transforms]]\nkind = "resize"\nsize = [8, 8]\n'


def step(kind: str, **settings: float) -> str:
    return "\n".join(["[[task.transforms]]", f'kind = "{kind}"', *(f"{k} = {v}" for k, v in settings.items())]) + "\n"


def job_of(text: str) -> Job:
    return parse_job(HEAD + text)


FLAT = [
    TASK + RESIZE + step("window", low=0, high=255),
    TASK + RESIZE + step("window", low=2, high=3),
    TASK + step("window", low=-160, high=240) + RESIZE + step("normalize"),
    TASK + RESIZE + step("rescale", low=0, high=255) + step("n4"),
    SVM + step("radiomics"),  # up to 65535, as it stands
    SVM + step("radiomics", intensity_high=255.0),
    '[statistics]\nkind = "quantiles"\n[task]\ndataset = "d"\nclasses = ["a", "b"]\n',
]
FITTING = [
    TASK,
    TASK + RESIZE + step("window", low=0, high=1),
    TASK + RESIZE + step("window", low=0.2, high=0.3),
    TASK + RESIZE + step("normalize") + step("window", low=-100, high=100),
    SVM + step("radiomics", intensity_high=1.0),
    '[statistics]\nkind = "quantiles"\nintensity_high = 1.0\n[task]\ndataset = "d"\nclasses = ["a", "b"]\n',
]


@pytest.mark.parametrize("text", FLAT)
def test_a_range_beside_the_values_of_pictures_is_named(text: str) -> None:
    for kind in ("images", "medmnist"):
        assert "values from 0 to 1" in flat_here(job_of(text), kind)
    assert flat_here(job_of(text), "nifti") == flat_here(job_of(text), "dicom") == ""  # their own units are not known


@pytest.mark.parametrize("text", FITTING)
def test_a_range_of_the_values_of_pictures_is_none_to_name(text: str) -> None:
    assert flat_here(job_of(text), "images") == ""


def test_a_job_that_asks_for_no_units_is_refused_when_it_is_validated() -> None:
    check_job(job_of(TASK + RESIZE + step("rescale", low=0, high=1)), 5)
    with pytest.raises(JobError, match=r"transforms\[1\] rescale.*from 0 to 255.*low = 0 and high = 1"):
        check_job(job_of(TASK + RESIZE + step("rescale", low=0, high=255)), 5)


def test_pictures_are_refused_before_a_hospital_is_made(tmp_path: Path) -> None:
    lines = ["file,label,patient"]
    for number in range(12):
        name = f"{number}.png"
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(tmp_path / name)
        lines.append(f"{name},{'ab'[number % 2]},p{number}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    folder = tmp_path / "run"
    with pytest.raises(UnfitError, match=r"window.*from 0 to 255.*would all be flat"):
        make_hospitals(job_of(FLAT[0]), tmp_path, SourceOptions(), sites=2, partition="iid", seed=0, folder=folder)
    assert not folder.exists()
