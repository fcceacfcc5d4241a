"""Phantom cells: pictures of touching and overlapping cells, and clips in which they move, cross and hide each other.

Images and masks are NIfTI files of the same names; a picture is a volume of one slice, a clip one of its frames. The numbers
of a mask are cells, in a clip the same for a cell in every frame. Everything is invented.
"""

from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt

CELLS = (3, 7)  # of a picture
MOVING, FRAMES = (3, 4), 16
RADIUS = (0.07, 0.12)  # of a picture's side
BACKGROUND, NOISE = 120.0, 30.0
BRIGHT = (350.0, 900.0)
EDGE = 0.6  # brightness of a cell's border, as a share of its middle: cells that overlap can be told apart
Array = npt.NDArray[np.float64]


def write_cells(folder: Path, patients: int, seed: int, side: int) -> Path:
    """Write ``images`` and ``masks``, one picture for each patient, to an existing folder, and return it.

    Guarantees: the same arguments write the same pictures.
    """
    rng = np.random.default_rng([seed, patients, side, 7])
    return _write(folder, [draw_cells(rng, side) for _ in range(patients)])


def write_clips(folder: Path, patients: int, seed: int, side: int) -> Path:
    """Write ``images`` and ``masks``, one clip for each patient, as `write_cells` does."""
    rng = np.random.default_rng([seed, patients, side, 8])
    return _write(folder, [draw_clip(rng, side) for _ in range(patients)])


def draw_cells(rng: np.random.Generator, side: int) -> tuple[Array, npt.NDArray[np.uint8]]:
    """Return a picture ``[1, side, side]`` and the numbers of its cells; each is placed near the one before."""
    count = int(rng.integers(CELLS[0], CELLS[1] + 1))
    places = [rng.uniform(0.25, 0.75, 2)]
    for _ in range(count - 1):
        angle = rng.uniform(0, 2 * np.pi)
        beside = places[-1] + rng.uniform(0.14, 0.3) * np.array([np.sin(angle), np.cos(angle)])
        places.append(np.clip(beside, 0.1, 0.9))
    return _frames(rng, side, np.array(places)[None])


def draw_clip(rng: np.random.Generator, side: int) -> tuple[Array, npt.NDArray[np.uint8]]:
    """Return a clip ``[FRAMES, side, side]`` and the numbers of its cells, which cross near the middle at about one time."""
    count = int(rng.integers(MOVING[0], MOVING[1] + 1))
    angles = rng.uniform(0, 2 * np.pi) + np.arange(count) * 2 * np.pi / count + rng.uniform(-0.3, 0.3, count)
    way = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    times = np.linspace(-1, 1, FRAMES)[:, None, None] * rng.uniform(0.8, 1.0, (count, 1))
    middle = 0.5 + rng.uniform(-0.06, 0.06, (count, 2))
    return _frames(rng, side, middle + 0.36 * times * way)


def _frames(rng: np.random.Generator, side: int, places: Array) -> tuple[Array, npt.NDArray[np.uint8]]:
    """Return pictures of ellipses at ``places [frames, cells, 2]`` (shares of the side), later cells in front."""
    count = places.shape[1]
    y, x = np.mgrid[:side, :side]
    values = np.full((len(places), side, side), BACKGROUND)
    numbers = np.zeros(values.shape, np.uint8)
    radii: Array = rng.uniform(*RADIUS, (count, 2)) * side
    turns: Array = rng.uniform(0, np.pi, (count,))
    bright = rng.permutation(np.linspace(*BRIGHT, count)) * rng.uniform(0.9, 1.1, count)
    for frame, there in enumerate(places * side):
        for cell, (centre, radius, turn) in enumerate(zip(there, radii, turns, strict=True)):
            down, right = y - centre[0], x - centre[1]
            along = (down * np.sin(turn) + right * np.cos(turn)) / radius[0]
            across = (down * np.cos(turn) - right * np.sin(turn)) / radius[1]
            far = along**2 + across**2
            values[frame] = np.where(far < 1, bright[cell] * (1 - (1 - EDGE) * far**2), values[frame])
            numbers[frame][far < 1] = cell + 1
    return values + rng.normal(0, NOISE, values.shape), numbers


def _write(folder: Path, drawn: list[tuple[Array, npt.NDArray[np.uint8]]]) -> Path:
    for name in ("images", "masks"):
        (folder / name).mkdir()
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    for patient, (values, numbers) in enumerate(drawn):
        pairs = (("images", np.clip(values, 0, 4095).astype(np.int16)), ("masks", numbers))
        for name, array in pairs:
            volume = nibabel.Nifti1Image(array.transpose(2, 1, 0), affine)  # type: ignore[no-untyped-call]
            nibabel.save(volume, folder / name / f"phantom{patient:04d}.nii.gz")
    return folder
