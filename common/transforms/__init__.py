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
        "bilateral": "salus.common.transforms.smoothing:Bilateral",
        "brightness": "salus.common.transforms.augment_values:Brightness",
        "canny": "salus.common.transforms.edges:Canny",
        "bag-of-words": "salus.common.transforms.bag_of_words:BagOfWords",
        "center-crop": "salus.common.transforms.cropping:CenterCrop",
        "clahe": "salus.common.transforms.contrast:Clahe",
        "combat": "salus.common.transforms.features:Combat",
        "compress": "salus.common.transforms.compression:Compress",
        "crop-foreground": "salus.common.transforms.cropping:CropForeground",
        "cutout": "salus.common.transforms.augment_values:Cutout",
        "elastic": "salus.common.transforms.elastic:Elastic",
        "equalize": "salus.common.transforms.contrast:Equalize",
        "features": "salus.common.transforms.features:Features",
        "flip": "salus.common.transforms.augment_grid:Flip",
        "gamma": "salus.common.transforms.augment_values:Gamma",
        "gamma-correction": "salus.common.transforms.contrast:GammaCorrection",
        "gaussian": "salus.common.transforms.smoothing:Gaussian",
        "gaussian-blur": "salus.common.transforms.augment_values:GaussianBlur",
        "gaussian-noise": "salus.common.transforms.augment_values:GaussianNoise",
        "histogram-shift": "salus.common.transforms.augment_values:HistogramShift",
        "laplacian": "salus.common.transforms.edges:Laplacian",
        "median": "salus.common.transforms.smoothing:Median",
        "morphology": "salus.common.transforms.morphology:Morphology",
        "n4": "salus.common.transforms.bias_field:N4",
        "non-local-means": "salus.common.transforms.smoothing:NonLocalMeans",
        "normalize": "salus.common.transforms.intensity:Normalize",
        "nyul": "salus.common.transforms.scales:Nyul",
        "orientation": "salus.common.transforms.position:Orientation",
        "pad": "salus.common.transforms.cropping:Pad",
        "percentiles": "salus.common.transforms.intensity:Percentiles",
        "radiomics": "salus.common.transforms.radiomics:Radiomics",
        "random-crop": "salus.common.transforms.random_crop:RandomCrop",
        "rescale": "salus.common.transforms.intensity:Rescale",
        "resize": "salus.common.transforms.resizing:Resize",
        "rotate": "salus.common.transforms.augment_grid:Rotate",
        "savitzky-golay": "salus.common.transforms.smoothing:SavitzkyGolay",
        "sobel": "salus.common.transforms.edges:Sobel",
        "spacing": "salus.common.transforms.position:Spacing",
        "total-variation": "salus.common.transforms.smoothing:TotalVariation",
        "window": "salus.common.transforms.intensity:Window",
        "zoom": "salus.common.transforms.augment_grid:RandomZoom",
        "zscore": "salus.common.transforms.scales:ZScore",
    },
)


def kind_of(entry: Any) -> Any:
    """Return the class of the transform that a ``[[task.transforms]]`` entry names; raises JobError for an unknown kind."""
    return TRANSFORMS.get(entry.kind, error=JobError)
