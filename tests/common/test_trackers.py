"""Three cells that cross, one of them hidden for some frames, by every tracker; and the metrics against counts by hand."""

import numpy as np
import pytest

from salus.common.metrics.tracking import Tracking, counted
from salus.common.trackers import TRACKERS
from salus.common.trackers.base import FloatArray, overlap_of

SIDE, HALF, FRAMES = 64, 5.0, 24
HIDDEN = range(9, 14)  # while they cross; only the one in front is seen
STARTS = np.array([[32.0, 8.0], [12.0, 12.0], [52.0, 12.0]])
SPEEDS = np.array([[0.0, 2.0], [1.75, 1.75], [-1.75, 1.75]])
GREY = (0.4, 0.6, 0.9)


def clip() -> tuple[list[FloatArray], list[list[tuple[int, FloatArray]]]]:
    """Return the pictures of a clip and the numbers and boxes that are visible in each."""
    y, x = np.mgrid[:SIDE, :SIDE]
    pictures, truth = [], []
    for frame in range(FRAMES):
        picture, seen = np.full((SIDE, SIDE), 0.1), []
        for number in range(3):
            centre = STARTS[number] + frame * SPEEDS[number]
            if number == 0 or frame not in HIDDEN:
                picture[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < HALF**2] = GREY[number]
                seen.append((number + 1, np.concatenate([centre - HALF, centre + HALF])))
        pictures.append(picture)
        truth.append(seen)
    return pictures, truth


def followed(kind: str, **settings: float) -> dict[str, float]:
    pictures, truth = clip()
    cls = TRACKERS.get(kind)
    tracker = cls(cls.Settings(**settings))
    rng = np.random.default_rng(0)
    found = []
    for picture, seen in zip(pictures, truth, strict=True):
        order = rng.permutation(len(seen))  # the order of the boxes tells nothing
        found.append(tracker.update(picture, np.stack([seen[place][1] for place in order])))
    ruler = Tracking(100)
    return ruler.metrics(ruler.row(truth, found).numpy())


@pytest.mark.parametrize("kind", ["sort", "deepsort"])
def test_three_crossing_cells_keep_their_identity_through_an_occlusion(kind: str) -> None:
    metrics = followed(kind)
    assert metrics["idf1"] == pytest.approx(1.0)
    assert metrics["mota"] == pytest.approx(1.0)


def test_the_baseline_without_motion_or_appearance_loses_them() -> None:
    metrics = followed("overlap")
    assert metrics["idf1"] < 0.8
    assert metrics["switches"] >= 2


def not_found_for_some_frames(kind: str) -> set[int]:
    """Return the numbers that a cell gets which is visible all the time and not found in four frames, beside two others."""
    pictures, truth = clip()
    tracker = TRACKERS.get(kind)(TRACKERS.get(kind).Settings())
    numbers = set()
    for frame, (picture, seen) in enumerate(zip(pictures[:9], truth, strict=False)):
        boxes = [box for number, box in seen if number == 2 and frame not in range(3, 7)]
        numbers |= {number for number, _ in tracker.update(picture, np.array(boxes).reshape(-1, 4))}
    return numbers


def test_the_correlation_filter_bridges_frames_in_which_an_object_is_not_found() -> None:
    assert len(not_found_for_some_frames("kcf")) == 1
    assert len(not_found_for_some_frames("overlap")) == 2


def test_a_track_ends_after_too_many_frames_without_a_box() -> None:
    assert followed("sort", most_missed=2)["idf1"] < 1.0


def test_counts_of_a_clip_are_those_by_hand() -> None:
    one, other = np.array([0.0, 0, 10, 10]), np.array([20.0, 20, 30, 30])
    true = [[(1, one), (2, other)]] * 4
    found = [[(7, one), (8, other)], [(7, one), (9, other)], [(7, one)], [(9, one), (7, other), (5, other + 50)]]
    counts = counted(true, found)
    # Track 8 becomes 9 (a switch), one box is missed, one is false, and in the last frame the two change places.
    assert counts == {"objects": 8, "found": 8, "missed": 1, "false": 1, "switches": 3, "same": 4}


def test_overlap_of_boxes() -> None:
    found = overlap_of(np.array([[0.0, 0, 2, 2]]), np.array([[0.0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6]]))
    assert found == pytest.approx(np.array([[1.0, 1 / 7, 0.0]]))


def test_a_clip_without_boxes_adds_nothing() -> None:
    ruler = Tracking(10)
    assert ruler.metrics(ruler.row([[], []], [[], []]).numpy()) == {}
