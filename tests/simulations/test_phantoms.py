from pathlib import Path

import numpy as np

from salus.client.data.catalogue import Catalogue
from salus.client.data.dicom.picture import read_dicom
from salus.client.data.sources.settings import SourceOptions
from salus.simulations.phantoms import HOSPITALS, is_phantom, write_hospital


def test_phantoms_are_real_dicom_and_say_that_they_are_phantoms(tmp_path: Path) -> None:
    hospital = HOSPITALS[1]
    written = write_hospital(tmp_path / "d", hospital, seed=1, side=24)
    files = [path for path in (tmp_path / "d").rglob("image*.dcm")]
    assert len(files) == written
    assert all(is_phantom(path) for path in files[:5])
    image = read_dicom(files[0])
    assert image.geometry.spacing_mm == (hospital.spacing_mm, hospital.spacing_mm)
    assert image.info["vendor"] == hospital.vendor.split()[0].upper()
    catalogue = Catalogue(tmp_path / "c.sqlite", b"s" * 16)
    summary = catalogue.add("phantoms", "dicom", tmp_path / "d", SourceOptions())
    assert summary.patients == hospital.patients
    assert summary.studies > summary.patients
    assert summary.images == written
    assert sum(summary.quarantined.values()) == hospital.damaged
    assert set(summary.labels) == {"healthy", "lesion"}


def test_the_same_seed_writes_the_same_pixels_and_hospitals_differ(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_hospital(tmp_path / name, HOSPITALS[0], seed=seed, side=16)
    a, b, c = (read_dicom(tmp_path / n / "patient000" / "study0" / "image0.dcm").values for n in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert len({h.vendor for h in HOSPITALS}) > 2
    assert len({h.window for h in HOSPITALS}) == len(HOSPITALS)
    assert {h.inverted for h in HOSPITALS} == {True, False}
