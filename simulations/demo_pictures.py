"""The end of the demo: new phantom patients, drawn after training, and what the model says about each of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from salus.client.data.examples import example_of
from salus.client.data.readiness import thumbnail
from salus.client.data.records import ImageRecord
from salus.client.data.sources import open_source
from salus.client.data.sources.settings import SourceOptions
from salus.common.batch import stacked
from salus.common.job import Job
from salus.common.models import build_model
from salus.common.pages import Section, write_page
from salus.common.tasks import make_task
from salus.common.vectors import layout_of, write_parameters
from salus.common.vocabulary import OTHER
from salus.simulations.phantoms import CLASSES, DEMO_HOSPITALS, write_hospital

PATIENTS = 24
SEED = 9_999  # no hospital of the demo has it


def write_pictures(page: Path, folder: Path, job: Job, model_path: Path) -> int:
    """Write a page of new patients with the model's score for each, and return how many of them it gets right.

    Args:
        folder: where the new patients' DICOM files go.
        model_path: the final model, safetensors.
    """
    hospital = replace(DEMO_HOSPITALS[0], patients=PATIENTS, prevalence=0.5, damaged=0)
    write_hospital(folder, hospital, seed=SEED)
    source = open_source("dicom", folder, SourceOptions())
    records = [record for record in source.scan() if isinstance(record, ImageRecord)]
    task = make_task(job.task)
    model = build_model(job.task, job.job.seed)
    layout = layout_of(model)
    write_parameters(model, layout, layout.flatten(load_file(model_path)))
    model.eval()
    right, pictures = 0, []
    for record in records:
        sample = source.load(record.key)
        with torch.no_grad():
            example = example_of(sample, job.task, OTHER, measured=task.chain.measured)
            batch = stacked([task.prepare(task.chain.traced(example)[-1])])
            scores = torch.softmax(task.infer(model, batch), dim=1)[0].numpy()
        guess = CLASSES[int(np.argmax(scores))]
        right += guess == record.label
        mark = "right" if guess == record.label else "WRONG"
        pictures.append((f"{record.label}: model says {scores[1]:.0%} lesion, {mark}", thumbnail(sample)))
    write_page(
        page,
        "What the demo's model sees",
        f"{len(records)} phantom patients drawn after training. The model classifies {right} of them correctly.",
        [
            Section(
                "New patients",
                "The true class, then the model's probability of a lesion. Above 50% it predicts a lesion.",
                pictures=pictures,
            )
        ],
    )
    return right
