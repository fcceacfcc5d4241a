"""An image as counts of the words of a codebook, nearest to its local features."""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field as Limits

from salus.common.errors import JobError
from salus.common.examples import Array, Example
from salus.common.features import EXTRACTORS, extractor_of
from salus.common.features.base import DescriptorSettings, described, pictures_of
from salus.common.features.codebook import MOST_TEXT, Encoding, codebook_from_text, row_of
from salus.common.job import MAX_COLUMNS, TaskSettings
from salus.common.job_statistics import Column
from salus.common.registry import Registry
from salus.common.transforms.rows import RowSettings, ToRow, scaled_columns


class BagOfWords(ToRow):
    """Replaces an image by a histogram of words, or by the mean residuals from them (VLAD), see `features.codebook`."""

    class Settings(DescriptorSettings, RowSettings):
        """Counts of the words of a codebook.

        Args:
            codebook: Its centres, from statistics of kind `codebook` with the same settings of local features.
            encoding: `histogram` of words, or `vlad`: for each word the sum of the differences from it, many more numbers.
            regions: Equal parts into which each side of the image is divided; each has numbers of its own.
        """

        plugins: ClassVar[dict[str, str | Registry]] = dict(DescriptorSettings.plugins)

        kind: Literal["bag-of-words"] = "bag-of-words"
        codebook: Annotated[str, Limits(min_length=4, max_length=MOST_TEXT, pattern=r"^[A-Za-z0-9+/]+={0,2}$")]
        encoding: Encoding = "histogram"  # few numbers; with many patients vlad is more accurate
        regions: Annotated[int, Limits(ge=1, le=4)] = 1

    def __init__(self, settings: Settings, task: TaskSettings) -> None:
        super().__init__(settings, task)
        self._extractor = extractor_of(settings)
        self._centres = codebook_from_text(settings.codebook, self._extractor.size, self._extractor.low)

    @classmethod
    def columns(cls, settings: Settings) -> tuple[Column, ...]:
        kind = EXTRACTORS.get(settings.extractor, error=JobError)
        words = len(codebook_from_text(settings.codebook, kind.size, kind.low))
        each = words if settings.encoding == "histogram" else words * kind.size
        if each * settings.regions**2 > MAX_COLUMNS:
            raise JobError(
                f"expected at most {MAX_COLUMNS} columns, got {each * settings.regions**2}.",
                remedy='Lower regions, use encoding = "histogram", or a codebook of fewer words.',
            )
        usual = 1 / math.sqrt(each)  # of an entry of a vector of norm 1
        low, high = (0.0, 3 * usual) if settings.encoding == "histogram" else (-4 * usual, 4 * usual)
        return scaled_columns(
            [
                (
                    f"region {part + 1} {'word' if settings.encoding == 'histogram' else 'residual'} {number + 1}",
                    low,
                    high,
                )
                for part in range(settings.regions**2)
                for number in range(each)
            ]
        )

    def row(self, example: Example) -> Array | None:
        own = self.settings
        image, padding = example[own.field], example.padding_of(own.field)
        pictures = pictures_of(image, own.intensity_low, own.intensity_high, own.picture_side, padding)
        if not pictures:
            return None
        places, found = described(self._extractor, pictures, own.most_keypoints)
        return row_of(places, found, self._centres, own.regions, own.encoding)
