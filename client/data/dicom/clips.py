"""Clips: several images of one view in time, as of ultrasound, angiography and endoscopy (PS3.3 C.7.6.5 and C.7.6.6)."""

from collections.abc import Sequence

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from salus.client.data.dicom.frames import MAX_FRAMES
from salus.client.data.dicom.numbers import has, not_understood, number_of, rounded, safely, whole_of

MOST_MS = 3.6e6  # between two frames
FITS = 60_000  # characters of one element
STEP, STEPS, POINTER = "FrameTime", "FrameTimeVector", "FrameIncrementPointer"


def intervals_ms(dataset: Dataset) -> tuple[float, ...]:
    """Return the times in milliseconds from each frame to the next, or nothing for one image or frames that are no times.

    A damaged element that no pointer names has no meaning: the times are then unknown.

    Raises:
        UnreadableImage: ``not-understood``, for an element of which its pointer says that frames follow in it, by its name.
    """
    count = whole_of(dataset, "NumberOfFrames", 1, most=MAX_FRAMES)
    if count < 2:
        return ()
    pointed = _pointed(dataset)
    if not pointed & {STEP, STEPS}:
        found: tuple[float, ...] = safely(lambda: _times(dataset, count, pointed), ())
        return found
    return _times(dataset, count, pointed)


def _times(dataset: Dataset, count: int, pointed: set[str]) -> tuple[float, ...]:
    if STEPS in pointed or (not pointed and has(dataset, STEPS)):
        return _listed(dataset, count)
    if not pointed or STEP in pointed:
        step = number_of(dataset, STEP)
        if step is None:
            rate = safely(
                lambda: number_of(dataset, "CineRate") or number_of(dataset, "RecommendedDisplayFrameRate"), None
            )
            step = 1000.0 / rate if rate and rate > 0 else None
        if step is None and STEP in pointed:
            raise not_understood(STEP, f"is missing, to which {POINTER} points")
        if step is not None and not 0 <= step <= MOST_MS:
            raise not_understood(STEP, "is not a time between frames in milliseconds")
        return () if step is None else (rounded(step),) * (count - 1)
    return ()


def write_intervals(clean: Dataset, dataset: Dataset) -> None:
    """Write the times of a clip into a de-identified image; errors as in `intervals_ms`."""
    steps = intervals_ms(dataset)
    if not steps:
        return
    if len(set(steps)) == 1:
        clean.FrameTime = steps[0]
        clean.FrameIncrementPointer = tag_for_keyword(STEP)
        return
    values = [0.0, *steps]
    if sum(len(str(value)) + 1 for value in values) > FITS:
        raise not_understood(STEPS, "is too long to be kept")
    clean.FrameTimeVector = values
    clean.FrameIncrementPointer = tag_for_keyword(STEPS)


def _pointed(dataset: Dataset) -> set[str]:
    value = safely(lambda: dataset.get(POINTER), None)
    tags = [] if value is None else list(value) if isinstance(value, Sequence) else [value]
    known = {tag_for_keyword(keyword): keyword for keyword in (STEP, STEPS)}
    return {known.get(int(tag), "another") for tag in tags[:16]}


def _listed(dataset: Dataset, count: int) -> tuple[float, ...]:
    """Return the intervals of a vector, whose first number stands before the first frame."""
    value = safely(lambda: dataset.get(STEPS), None)
    parts = list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    if len(parts) != count:
        raise not_understood(STEPS, f"has {len(parts)} values for {count} frames")
    numbers = [safely(lambda part=part: float(part), -1.0) for part in parts]  # type: ignore[misc]
    if not all(0 <= number <= MOST_MS for number in numbers):
        raise not_understood(STEPS, "is not times between frames in milliseconds")
    return tuple(rounded(number) for number in numbers[1:])
