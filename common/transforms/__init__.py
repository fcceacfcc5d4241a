"""Transforms: the steps between a stored image and what a task trains on, named by MONAI's words.

To add one: write `common/transforms/<name>.py` with a class that fulfils `Transform`, one test, and one line below. Other
packages add theirs through the entry-point group ``salus.transforms``.
"""

from typing import Any

from salus.common.errors import JobError
from salus.common.registry import Registry

TRANSFORMS = Registry(
    "transform",
    "salus.transforms",
    {
        "affine": "salus.common.transforms.augment_grid:RandomAffine",
        "center-crop": "salus.common.transforms.cropping:CenterCrop",
        "combat": "salus.common.transforms.features:Combat",
        "crop-foreground": "salus.common.transforms.cropping:CropForeground",
        "cutout": "salus.common.transforms.augment_values:Cutout",
        "elastic": "salus.common.transforms.elastic:Elastic",
        "features": "salus.common.transforms.features:Features",
        "flip": "salus.common.transforms.augment_grid:Flip",
        "gamma": "salus.common.transforms.augment_values:Gamma",
        "gaussian-blur": "salus.common.transforms.augment_values:GaussianBlur",
        "gaussian-noise": "salus.common.transforms.augment_values:GaussianNoise",
        "histogram-shift": "salus.common.transforms.augment_values:HistogramShift",
        "normalize": "salus.common.transforms.intensity:Normalize",
        "nyul": "salus.common.transforms.scales:Nyul",
        "orientation": "salus.common.transforms.position:Orientation",
        "pad": "salus.common.transforms.cropping:Pad",
        "percentiles": "salus.common.transforms.intensity:Percentiles",
        "random-crop": "salus.common.transforms.random_crop:RandomCrop",
        "rescale": "salus.common.transforms.intensity:Rescale",
        "resize": "salus.common.transforms.resizing:Resize",
        "rotate": "salus.common.transforms.augment_grid:Rotate",
        "spacing": "salus.common.transforms.position:Spacing",
        "window": "salus.common.transforms.intensity:Window",
        "zoom": "salus.common.transforms.augment_grid:RandomZoom",
        "zscore": "salus.common.transforms.scales:ZScore",
    },
)


def kind_of(entry: Any) -> Any:
    """Return the class of the transform that a ``[[task.transforms]]`` entry names; raises JobError for an unknown kind."""
    return TRANSFORMS.get(entry.kind, error=JobError)
