"""Phantom pictures with several findings: labels that name them, pictures that show them, the same for the same seed."""

from pathlib import Path

import numpy as np
from PIL import Image

from salus.client.data.records import ImageRecord
from salus.client.data.sources import guess_kind, open_source
from salus.client.data.sources.settings import SourceOptions
from salus.simulations.phantom_findings import FINDINGS, NONE, draw_findings
from salus.simulations.samples import write_samples


def test_labels_name_any_number_of_findings_and_are_read_as_labels(tmp_path: Path) -> None:
    path = write_samples(tmp_path / "p", ("findings",), patients=60, seed=0, side=16)["findings"]
    found = open_source(guess_kind(path), path, SourceOptions()).scan()
    labels = [record.label for record in found if isinstance(record, ImageRecord)]
    assert len(labels) == 60
    assert {name for label in labels if label != NONE for name in label.split("|")} == set(FINDINGS)
    assert NONE in labels
    assert any("|" in label for label in labels)


def test_each_finding_changes_the_picture_in_its_own_direction() -> None:
    def total(*present: str) -> float:
        return float(draw_findings(np.random.default_rng(0), 32, list(present)).sum())

    nothing = total()
    assert total("mass") > nothing
    assert total("device") > nothing
    assert total("cavity") < nothing


def test_the_same_seed_writes_the_same_pictures(tmp_path: Path) -> None:
    pictures = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        path = write_samples(tmp_path / name, ("findings",), patients=20, seed=seed, side=16)["findings"]
        pictures.append(np.asarray(Image.open(path / "images" / "phantom0001.png")))
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])
