"""dcmqi (Herz et al. 2017), which shares no code with what wrote the objects; it reads segmentations and reports."""

import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

needs_dcmqi = pytest.mark.skipif(importlib.util.find_spec("dcmqi") is None, reason="needs dcmqi: pip install dcmqi")


def _run(program: str, *arguments: object) -> None:
    folder = Path(str(importlib.util.find_spec("dcmqi").origin)).parent  # type: ignore[union-attr]
    command = [str(folder / "bin" / program), *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


def read_segmentation(path: Path, out: Path) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """Return the mask ``[x, y, z]``, its affine to RAS, and what the object says of each segment."""
    out.mkdir()
    _run("segimage2itkimage", "--inputDICOM", path, "--outputDirectory", out, "--outputType", "nii", "--mergeSegments")
    image = nibabel.load(out / "1.nii.gz")
    return np.asarray(image.dataobj), image.affine, json.loads((out / "meta.json").read_text())["segmentAttributes"][0]


def read_report(path: Path, out: Path) -> dict[str, Any]:
    """Return what a measurement report says."""
    _run("tid1500reader", "--inputDICOM", path, "--outputMetadata", out)
    found: dict[str, Any] = json.loads(out.read_text())
    return found
