"""Phantom data sets: every kind is read by the source that hospitals use, and a job trains on it."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from tests.cli import salus

from salus.client.data.records import ImageRecord
from salus.client.data.sources import guess_kind, open_source
from salus.client.data.sources.settings import SourceOptions
from salus.common.errors import ConfigError
from salus.simulations.commands import PHANTOMS
from salus.simulations.samples import KINDS, write_samples

JOBS = Path(__file__).resolve().parents[2] / "simulations" / "jobs"


def records(path: Path, options: SourceOptions | None = None) -> list[ImageRecord]:
    found = open_source(guess_kind(path), path, options or SourceOptions()).scan()
    return [record for record in found if isinstance(record, ImageRecord)]


def test_the_help_names_every_kind() -> None:
    assert PHANTOMS == KINDS


def test_every_kind_is_read_with_both_classes(tmp_path: Path) -> None:
    written = write_samples(tmp_path / "p", KINDS, patients=20, seed=0, side=16)
    assert set(written) == set(KINDS)
    for kind, path in written.items():
        followed = SourceOptions(label_column="days", event_column="event")
        found = records(path, followed if kind == "survival" else SourceOptions())
        assert len({record.patient for record in found}) >= 20, kind
        if kind in ("npz", "dicom", "nifti"):
            assert len({record.label for record in found}) == 2, kind
    with_masks = records(written["nifti"], SourceOptions(masks="masks", positive_above=0.0))
    assert {record.label for record in with_masks} == {"0", "1"}


def test_the_same_seed_draws_the_same_and_another_does_not(tmp_path: Path) -> None:
    pictures = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        path = write_samples(tmp_path / name, ("nifti",), patients=20, seed=seed, side=16)["nifti"]
        pictures.append(np.asarray(nibabel.load(path / "images" / "phantom0001.nii.gz").dataobj))  # type: ignore[attr-defined]
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_masks_show_both_structures_of_every_patient(tmp_path: Path) -> None:
    path = write_samples(tmp_path, ("masks",), patients=5, seed=0, side=16)["masks"]
    for mask in (path / "labelsTr").glob("*.nii.gz"):
        values = np.asarray(nibabel.load(mask).dataobj)  # type: ignore[attr-defined]
        assert np.unique(values).tolist() == [0, 1, 2]
        assert values.shape == nibabel.load(path / "imagesTr" / mask.name).shape  # type: ignore[attr-defined]
    assert all(set(record.targets["mask"].amounts) == {"anterior", "posterior"} for record in records(path))


def test_a_used_folder_and_an_unknown_kind_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        write_samples(tmp_path / "full", ("npz",), patients=20, seed=0, side=16)
    with pytest.raises(ConfigError, match="npz, dicom, nifti"):
        write_samples(tmp_path / "new", ("npz", "jpeg"), patients=20, seed=0, side=16)
    assert not (tmp_path / "new").exists()


def test_the_command_ends_with_a_line_that_runs(tmp_path: Path) -> None:
    done = salus("phantoms", "p", "--kind", "npz", "--patients", 60, "--side", 16, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "salus simulate simulations/jobs/phantom-lesion.toml --sites 5 --data p/npz/phantoms.npz" in done.stdout
