"""Phantom volumes with the masks of two structures, in the layout of the Medical Segmentation Decathlon.

Two ellipsoids lie behind each other, as the two parts of a hippocampus do, in a noisy background with a bias field.
"""

import json
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt

STRUCTURES = ("anterior", "posterior")
VOXEL_MM = (1.0, 1.0, 1.5)
BACKGROUND, BRIGHT = 300.0, (420.0, 520.0)
NOISE = 40.0


def write_structures(folder: Path, patients: int, seed: int, side: int) -> Path:
    """Write ``imagesTr``, ``labelsTr`` and ``dataset.json`` for so many patients to an existing folder, and return it.

    Args:
        side: least number of voxels along each axis; volumes differ by up to a quarter.

    Guarantees: the same arguments write the same volumes.
    """
    rng = np.random.default_rng([seed, patients, side, 4])
    affine = np.diag([*VOXEL_MM, 1.0])
    pairs = []
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    for patient in range(patients):
        shape = tuple(int(n) for n in rng.integers(side, side + side // 4 + 1, size=3))
        file = f"phantom_{patient:03d}.nii.gz"
        for name, values in zip(("imagesTr", "labelsTr"), draw_structures(rng, shape), strict=True):
            nibabel.save(nibabel.Nifti1Image(values, affine), folder / name / file)  # type: ignore[no-untyped-call]
        pairs.append({"image": f"./imagesTr/{file}", "label": f"./labelsTr/{file}"})
    labels = {"0": "background", **{str(number): name for number, name in enumerate(STRUCTURES, start=1)}}
    content = {"name": "phantoms", "modality": {"0": "MRI"}, "labels": labels, "training": pairs}
    (folder / "dataset.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    return folder


def draw_structures(
    rng: np.random.Generator, shape: tuple[int, ...]
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """Return a volume and its mask: 0 background, 1 the front ellipsoid, 2 the one behind it."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    mask = np.zeros(shape, dtype=np.uint8)
    values = BACKGROUND * (1 + 0.2 * x * rng.uniform(-1, 1) + 0.2 * z * rng.uniform(-1, 1))
    for number, (place, bright) in enumerate(zip((0.35, -0.35), BRIGHT, strict=True), start=1):
        centre = np.array([0.0, place, 0.0]) + rng.uniform(-0.12, 0.12, size=3)
        radius = rng.uniform((0.3, 0.28, 0.3), (0.45, 0.4, 0.45))
        inside = sum(((axis - c) / r) ** 2 for axis, c, r in zip((x, y, z), centre, radius, strict=True)) < 1
        mask[inside] = number
        values = np.where(inside, bright * rng.uniform(0.9, 1.1), values)
    values = values + rng.normal(0, NOISE, shape)
    return np.clip(values, 0, 4095).astype(np.int16), mask
