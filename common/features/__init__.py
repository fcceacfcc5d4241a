"""Classic image features. Local ones by name: descriptors of places in an image, of which a codebook makes words.

To add one: `common/features/<name>.py` with a class that fulfils `Extractor`, one test, and one line below. Other packages add
theirs through the entry-point group ``salus.features``.
"""

from salus.common.errors import JobError
from salus.common.features.base import DescriptorSettings, Extractor
from salus.common.registry import Registry

EXTRACTORS = Registry(
    "extractor",
    "salus.features",
    {
        "akaze": "salus.common.features.akaze:Akaze",
        "dense-sift": "salus.common.features.dense_sift:DenseSift",
        "orb": "salus.common.features.orb:Orb",
        "sift": "salus.common.features.sift:Sift",
    },
    refused={"surf": ("SURF is patented and absent from free builds of OpenCV.", 'Use extractor = "akaze".')},
)


def extractor_of(settings: DescriptorSettings) -> Extractor:
    """Return the extractor that settings name.

    Raises:
        JobError: an unknown name.
        ConfigError: OpenCV is not installed; the message has the line that installs it.
    """
    found: Extractor = EXTRACTORS.get(settings.extractor, error=JobError)(settings)
    return found
