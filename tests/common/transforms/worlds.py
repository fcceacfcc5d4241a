"""Examples whose grey values tell where in the patient they are."""

from typing import Any

import numpy as np

from salus.common.batch import Field
from salus.common.examples import Example
from salus.common.job import TaskSettings
from salus.common.transforms import TRANSFORMS
from salus.common.transforms.base import Transform

AXES = np.array(
    [[0.0, 0.3, 1.1], [-0.2, 1.5, 0.0], [2.0, 0.0, 0.4]]
)  # oblique, left-handed in no axis, spacings differ
ORIGIN = np.array([-31.0, 12.5, 7.0])


def affine() -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = AXES, ORIGIN
    return matrix


def places(shape: tuple[int, ...], matrix: np.ndarray) -> np.ndarray:
    """Return ``[3, *shape]``: the millimetres of every voxel."""
    first = 3 - len(shape)
    index = np.indices(shape).reshape(len(shape), -1)
    mm = matrix[:3, first:3] @ index + matrix[:3, 3:4]
    return mm.reshape(3, *shape)


def world(shape: tuple[int, ...], classes: int = 4) -> Example:
    """Return an image whose three channels are x, y and z in millimetres, and a mask of several classes."""
    image = places(shape, affine()).astype(np.float32)
    mask = (np.indices(shape).sum(axis=0) // 3 % classes).astype(np.uint8)[None]
    return Example({"image": image, "mask": mask, "label": np.array(1)}, frozenset({"image", "mask"}), affine())


def spec_of(example: Example) -> dict[str, Field]:
    return {
        name: Field(
            tuple(array.shape),
            "float32" if array.dtype.kind == "f" else "int64",
            0,
            256,
            spatial=name in example.spatial,
        )
        for name, array in example.fields.items()
    }


def task(shape: tuple[int, ...] = (8, 8, 8), channels: int = 3) -> TaskSettings:
    return TaskSettings(
        kind="classification", model="cnn", dataset="d", classes=("a", "b"), shape=shape, channels=channels
    )


def make(kind: str, settings: TaskSettings | None = None, **own: Any) -> Transform:
    found = TRANSFORMS.get(kind)
    made: Transform = found(found.Settings(kind=kind, **own), settings or task())
    return made
