"""Brings a site's images to the scale that a job names, with public constants and, for ComBat, the site's own effects.

nyul, zscore, features   each image by itself, so a patient's part in training stays bounded
combat                   with the effect of the image's batch, taken from the training images of the site
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from salus.client.data.records import Sample
from salus.common.errors import UnreadableImage
from salus.common.job_statistics import Harmonise
from salus.common.sums.combat import Batch, CombatModel
from salus.common.sums.features import FEATURES, image_features
from salus.common.sums.nyul import to_standard_scale

Z_REACH = 4.0  # this many scales on both sides of the centre are mapped to 0 .. 1
Harmoniser = Callable[[Sample, str], Sample]
Known = tuple[Sample, str, int]  # a training image with its vendor and class


def harmoniser_of(settings: Harmonise, training: Callable[[], Sequence[Known]] = lambda: ()) -> Harmoniser:
    """Return the function that brings a vendor's sample to the job's scale.

    Args:
        training: reads the site's training images; called for ComBat only.

    Raises:
        JobError: constants that ComBat cannot use.
    """
    match settings.kind:
        case "nyul":
            return lambda sample, vendor: replace(
                sample, values=to_standard_scale(sample.measured, settings.landmarks), intensities=None
            )
        case "zscore":
            return _zscore(settings)
        case "features":
            return lambda sample, vendor: _row(sample, _features(sample, settings))
        case "combat":
            return _combat(settings, training())


def _zscore(settings: Harmonise) -> Harmoniser:
    scales = {vendor: (centre, scale) for vendor, centre, scale in settings.groups}

    def harmonise(sample: Sample, vendor: str) -> Sample:
        if vendor not in scales and "ALL" not in scales:
            raise UnreadableImage("no-scale", "the job has no scale for this image's vendor")
        centre, scale = scales.get(vendor) or scales["ALL"]
        z = np.clip((sample.measured - np.float32(centre)) / np.float32(scale), -Z_REACH, Z_REACH)
        return replace(sample, values=(z / np.float32(2 * Z_REACH) + np.float32(0.5)), intensities=None)

    return harmonise


def _combat(settings: Harmonise, training: Sequence[Known]) -> Harmoniser:
    model = CombatModel.of(settings.constants)
    rows: dict[str, list[tuple[np.ndarray, int]]] = defaultdict(list)
    for sample, vendor, target in training:
        rows[vendor].append((_features(sample, settings), target))
    batches: dict[str, Batch] = {
        vendor: model.batch(np.stack([row for row, _ in mine]), [target for _, target in mine])
        for vendor, mine in rows.items()
    }

    def harmonise(sample: Sample, vendor: str) -> Sample:
        if vendor not in batches:
            raise UnreadableImage("no-batch", "no training image of this site is from its vendor")
        return _row(sample, model.adjusted(_features(sample, settings)[None], batches[vendor])[0])

    return harmonise


def _features(sample: Sample, settings: Harmonise) -> np.ndarray:
    features = image_features(sample.measured, settings.intensity_low, settings.intensity_high)
    if features is None:
        raise UnreadableImage("no-features", "it holds no finite image")
    return features


def _row(sample: Sample, features: np.ndarray) -> Sample:
    return replace(sample, values=features.astype(np.float32), columns=FEATURES, intensities=None)
