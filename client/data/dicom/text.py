"""Finds text that is burned into pixels: the detector of PaddleOCR (PP-OCRv4, Apache-2.0), run by ONNX Runtime on one processor.

Only places are found, never read. Source: Liao et al., "Real-time Scene Text Detection with Differentiable Binarization",
AAAI 2020, arXiv 1911.08947; its boxes are upright here, because a blanked region is. The detector can miss text, above all small
text of low contrast: `salus bench text` measures how often, and an operator looks at every image.
"""

import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from salus.common.errors import UnreadableImage

Box = tuple[int, int, int, int]  # first row, first column, rows, columns
PACKAGE, RUNTIME = "rapidocr_onnxruntime", "onnxruntime"
MODEL = Path("models", "ch_PP-OCRv4_det_infer.onnx")
INSTALL = "pip install 'salus[ocr]'"
TILE, OVERLAP = 512, 96  # source pixels; tiles bound the memory for images of any size
ZOOM = 2  # of a tile: text of 6 to 8 pixels is found at twice its size only
WHOLE = 960  # pixels of the longer side of the whole image, in which large text is found
STEP = 32  # the network halves its input five times
LEAST = 0.2  # of probability; a low bar, because a missed name is worse than a blanked corner
LEAST_PIXELS = 12
MARGIN, MARGIN_PIXELS = (
    0.6,
    3,
)  # beyond the text: the network finds the middle of a line; share of its height, and at least
MOST_BOXES = 500  # of one image
SAMPLED = 5  # frames of a clip that are looked at one by one
FEW = 8  # frames that are all looked at
DARKEST, BRIGHTEST = 1.0, 99.5  # percentiles of the second look at pixels of more than 8 bits


def installed() -> bool:
    """Return whether the detector and its weights are installed."""
    return importlib.util.find_spec(RUNTIME) is not None and _model() is not None


def _model() -> Path | None:
    """Return the file of the weights; its package is not imported, because that would load OpenCV."""
    spec = importlib.util.find_spec(PACKAGE)
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    return next((found for place in places if (found := Path(place) / MODEL).is_file()), None)


class TextFinder:
    """The detector, loaded; it opens no file and starts no thread once it is made.

    Raises:
        FileNotFoundError, ImportError: it is not installed, see `installed`.
    """

    def __init__(self) -> None:
        import onnxruntime

        model = _model()
        if model is None:
            raise FileNotFoundError(MODEL.name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # the memory of the child is limited
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._scores(np.zeros((STEP, STEP, 3), np.uint8), 1.0)  # whatever is loaded at the first use is loaded now

    def find(self, pixels: npt.NDArray[Any]) -> tuple[Box, ...]:
        """Return the places of text, with a margin.

        Args:
            pixels: ``[frames, rows, columns]`` or ``[frames, rows, columns, 3]``; text of any examined frame counts for all.

        Raises:
            UnreadableImage: ``burned-in``, for more places than an image of a patient has.
        """
        found = [box for frame in _frames(pixels) for look in _looks(frame) for box in self._boxes(look)]
        return merged(found, pixels.shape[1], pixels.shape[2])

    def _boxes(self, picture: npt.NDArray[np.uint8]) -> Iterator[Box]:
        rows, columns = picture.shape[:2]
        for row, column, part, zoom in _parts(picture):
            scores = self._scores(part, zoom)
            high, wide = part.shape[0] / scores.shape[0], part.shape[1] / scores.shape[1]
            for top, left, height, width in _boxes_of(scores > LEAST, LEAST_PIXELS):
                first, start, size, length = row + top * high, column + left * wide, height * high, width * wide
                margin = MARGIN_PIXELS + MARGIN * min(size, length)
                upper, lower = max(0, int(first - margin)), min(rows, int(np.ceil(first + size + margin)))
                before, after = max(0, int(start - margin)), min(columns, int(np.ceil(start + length + margin)))
                yield upper, before, lower - upper, after - before

    def _scores(self, picture: npt.NDArray[np.uint8], zoom: float) -> npt.NDArray[np.float32]:
        """Return the probability of text for each pixel of the zoomed picture."""
        height, width = (max(STEP, round(side * zoom / STEP) * STEP) for side in picture.shape[:2])
        sized = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR), np.float32)
        values = np.ascontiguousarray((sized / 127.5 - 1).transpose(2, 0, 1)[None])
        scores: npt.NDArray[np.float32] = self._session.run(None, {self._input: values})[0][0, 0]
        return scores


def merged(boxes: Iterable[Box], rows: int, columns: int) -> tuple[Box, ...]:
    """Return boxes that cover all of these, those that touch as one; raises UnreadableImage for more than `MOST_BOXES`."""
    covered = np.zeros((rows, columns), bool)
    for row, column, height, width in boxes:
        covered[row : row + height, column : column + width] = True
    found = _boxes_of(covered, 1)
    if len(found) > MOST_BOXES:
        raise UnreadableImage("burned-in", f"text at more than {MOST_BOXES} places; it may be a page, not an image")
    return found


def _frames(pixels: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield the frames to look at; of a long clip some, their mean, in which text that stays stands out, and the brightest."""
    if len(pixels) <= FEW:
        yield from pixels
        return
    for place in np.linspace(0, len(pixels) - 1, SAMPLED).astype(int):
        yield pixels[place]
    yield pixels.mean(axis=0, dtype=np.float32).astype(pixels.dtype)
    yield pixels.max(axis=0)


def _looks(frame: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield a frame in 8 bits and three channels: over its whole range and, where it has more bits, over that of most pixels."""
    if frame.dtype == np.uint8:
        yield _three(frame)
        return
    values = np.nan_to_num(frame.astype(np.float32))
    ends = {(float(values.min()), float(values.max())), tuple(map(float, np.percentile(values, (DARKEST, BRIGHTEST))))}
    for low, high in sorted(ends):
        if high > low:
            yield _three((np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8))


def _three(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, axis=2))


def _parts(picture: npt.NDArray[np.uint8]) -> Iterator[tuple[int, int, npt.NDArray[np.uint8], float]]:
    """Yield first row, first column, pixels and zoom of what the network sees: the whole picture, and tiles that overlap."""
    rows, columns = picture.shape[:2]
    yield 0, 0, picture, min(1.0, WHOLE / max(rows, columns))
    for row in _starts(rows):
        for column in _starts(columns):
            yield row, column, picture[row : row + TILE, column : column + TILE], ZOOM


def _starts(side: int) -> list[int]:
    if side <= TILE:
        return [0]
    return [*range(0, side - TILE, TILE - OVERLAP), side - TILE]


def _boxes_of(mask: npt.NDArray[np.bool_], least: int) -> tuple[Box, ...]:
    """Return the boxes of the connected parts of at least so many pixels."""
    labelled, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if not count:
        return ()
    sizes = np.bincount(labelled.ravel())[1:]
    return tuple(
        (rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
        for size, (rows, columns) in zip(sizes, ndimage.find_objects(labelled), strict=True)
        if size >= least
    )
