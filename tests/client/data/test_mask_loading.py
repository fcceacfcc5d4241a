"""From a folder with masks to the tensors of a segmentation, at sites that number the same structures differently."""

import json
from pathlib import Path

import numpy as np
import torch
from tests.client.data.test_nifti_folder import VALUES, write

from salus.client.data.catalogue import Catalogue
from salus.client.data.loading import Memory, local_data
from salus.client.data.sources.settings import SourceOptions
from salus.common.fit import problems_of
from salus.common.job import parse_job
from salus.common.tasks import make_task

JOB = """
[job]
name = "hippocampus"
rounds = 1
[task]
kind = "segmentation"
model = "unet"
dataset = "x"
classes = ["anterior", "posterior"]
shape = [6, 5, 4]
[privacy]
noise = "none"
"""
MASK = np.zeros(VALUES.shape, np.uint8)
MASK[1, 1:3, :2], MASK[2, 1:3, :3] = 1, 2
NUMBERS = {"anterior": 1, "posterior": 2}


def site(folder: Path, labels: dict[str, int], mask: np.ndarray) -> Catalogue:
    """Write six cases, one of them without a mask, and register them."""
    for number in range(6):
        write(folder / "imagesTr" / f"c{number}_0000.nii.gz", VALUES + np.int16(number))
        if number:
            write(folder / "labelsTr" / f"c{number}.nii.gz", mask)
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, **labels}}))
    rows = "".join(f"c{number}_0000.nii.gz,x,P{number}\n" for number in range(6))
    (folder / "labels.csv").write_text(f"file,label,PatientID\n{rows}")
    catalogue = Catalogue(folder.with_suffix(".sqlite"), b"s" * 16)
    catalogue.add("x", "nifti", folder, SourceOptions())
    return catalogue


def masks_of(catalogue: Catalogue) -> tuple[np.ndarray, dict[str, int], dict[str, str]]:
    job = parse_job(JOB)
    assert problems_of(job, catalogue.declarations.all()) == []
    data = local_data(catalogue, job, make_task(job.task), Memory(2**24))
    batch = data.train.batch(torch.arange(len(data.train)))
    return batch["mask"].numpy(), data.left_out, data.train.lost | data.validation.lost


def test_structures_are_matched_by_name_and_an_image_without_mask_is_no_trouble(tmp_path: Path) -> None:
    here, left_out, lost = masks_of(site(tmp_path / "a", NUMBERS, MASK))
    turned = np.array([0, 7, 3], np.uint8)[MASK]
    there, _, _ = masks_of(site(tmp_path / "b", {"posterior": 3, "anterior": 7}, turned))
    assert left_out == {"not-annotated": 1}
    assert lost == {}
    assert sorted(np.unique(here).tolist()) == [0, 1, 2]
    assert np.array_equal(here, there)
    counts = np.bincount(here[0].reshape(-1).astype(int))
    assert counts.tolist() == np.bincount(MASK.reshape(-1)).tolist()


def test_a_site_that_does_not_tell_a_structure_is_refused_by_its_declaration(tmp_path: Path) -> None:
    catalogue = site(tmp_path / "a", {"anterior": 1, "other": 2}, MASK)
    ((problem),) = problems_of(parse_job(JOB), catalogue.declarations.all())
    assert problem.requirement == "classes"
    assert "'posterior'" in problem.text
