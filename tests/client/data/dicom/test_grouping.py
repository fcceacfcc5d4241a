"""Series are made from known volumes, so that the right grouping is known exactly; the code sees only headers."""

import dataclasses
import itertools
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salus.client.data.dicom.geometry import Geometry
from salus.client.data.dicom.grouping import Grouping, grouped
from salus.client.data.dicom.places import places_of, tolerance_mm
from salus.client.data.dicom.runs import Plane

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
ODD = ["localizer", "size", "spacing", "beside", "copy", "unplaced", "far"]
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))


def plane(
    z: float, key: str = "", xy: Sequence[float] = (-100.0, -120.0), number: int = 0, axes: Any = AXIAL, **values: Any
) -> Plane:
    """Return a plane at a place along its normal; `values` with known names are fields, the others dimensions."""
    normal = np.cross(*axes)
    where = normal * z + np.array(axes[0]) * xy[0] + np.array(axes[1]) * xy[1]
    known = {field.name for field in dataclasses.fields(Plane)}
    fields: dict[str, Any] = {"shape": (8, 8), "pixels": "", **{k: v for k, v in values.items() if k in known}}
    dimensions = {k.replace("_", "-"): v for k, v in values.items() if k not in known}
    spacing = fields.pop("spacing", (0.8, 0.8))
    geometry = Geometry(spacing, *axes, tuple(float(value) for value in where))  # type: ignore[arg-type]
    return Plane(
        key=key or f"{z}{dimensions}{number}",
        frame=0,
        geometry=geometry,
        number=number,
        dimensions=dimensions,
        **fields,
    )


def keys(found: Grouping) -> set[frozenset[str]]:
    return {frozenset(item.key for item in run.planes) for run in found.volumes}


def reasons(found: Grouping) -> dict[str, str]:
    return {item.plane.key: item.reason for item in found.refused}


@st.composite
def series(draw: st.DrawFn) -> tuple[list[Plane], set[frozenset[str]], dict[str, str]]:
    """Return the planes of a series in any order, its volumes, and the reason of each plane that is in none."""
    step = draw(st.sampled_from([0.6, 1.0, 2.5, 3.3, 7.5]))
    count = draw(st.integers(3, 8))
    tilt = draw(st.sampled_from([0.0, 0.0, 0.4]))
    decimals = draw(st.sampled_from([1 if step > 1 else 2, 4, 9]))
    sizes = draw(
        st.dictionaries(
            st.sampled_from(["echo", "b-value", "kind", "time", "trigger-time", "thickness", "acquisition"]),
            st.integers(2, 3), max_size=2,
        )
    )  # fmt: skip
    if "time" in sizes and {"trigger-time", "acquisition"} & set(sizes):
        sizes.pop("time")
    by_number = not sizes and draw(st.booleans())
    times = draw(st.integers(2, 3)) if by_number else 1
    order = draw(st.sampled_from(["block", "beside"] if by_number else ["block", "beside", "same"]))
    random = Random(draw(st.integers(0, 2**31)))
    planes: list[Plane] = []
    volumes: set[frozenset[str]] = set()
    combinations = list(itertools.product(*(range(size) for size in sizes.values()), range(times)))
    for volume, combination in enumerate(combinations):
        mine = []
        for place in range(count):
            dimensions = {
                name: _value(name, index, random) for name, index in zip(sizes, combination[:-1], strict=True)
            }
            number = {"block": volume * count + place, "beside": place * len(combinations) + volume, "same": place}[
                order
            ]
            noise = random.uniform(-0.01, 0.01) * step
            z = round(17.3 + place * step + noise, decimals)
            xy = (round(-90.4 + tilt * place * step, decimals), -120.0)
            key = f"{random.randrange(10**9)}-{volume}-{place}"
            mine.append(plane(z, key, xy, number, pixels=key, **dimensions))
        planes += mine
        volumes.add(frozenset(item.key for item in mine))
    refused: dict[str, str] = {}
    for odd in draw(
        st.lists(st.sampled_from(["localizer", "size", "spacing", "beside", "copy", "unplaced", "far"]), unique=True)
    ):
        extra, reason = _odd(odd, planes[0], planes[-1], step)
        planes.append(extra)
        refused[extra.key] = reason
    random.shuffle(planes)
    return planes, volumes, refused


def _value(name: str, index: int, random: Random) -> float | str:
    if name == "kind":
        return ("ORIGINAL/M", "ORIGINAL/P", "DERIVED")[index]
    if name == "trigger-time":  # the heart beats a little differently at each place
        return 40.0 * index + random.uniform(-5, 5)
    if name == "echo":
        return 10.0 * (index + 1) * random.uniform(0.999, 1.001)
    return float(1000 * index + 1)


def _odd(kind: str, first: Plane, last: Plane, step: float) -> tuple[Plane, str]:
    geometry = first.geometry
    x, y, z = geometry.position or (0.0, 0.0, 0.0)
    lone = dataclasses.replace(first, key=f"odd-{kind}", pixels=f"odd-{kind}")
    moved = dataclasses.replace
    changes: dict[str, tuple[Plane, str]] = {
        "localizer": (moved(lone, geometry=moved(geometry, column_direction=(0.0, 0.0, -1.0))), "odd-slice"),
        "size": (moved(lone, shape=(9, 8)), "odd-slice"),
        "spacing": (moved(lone, geometry=moved(geometry, spacing_mm=(0.7, 0.8))), "odd-slice"),
        "beside": (moved(lone, geometry=moved(geometry, position=(x - 31, y + 20, z))), "odd-slice"),
        "copy": (moved(first, key="zz-copy"), "duplicate"),
        "unplaced": (moved(lone, geometry=moved(geometry, position=None)), "no-position"),
        "far": (plane(17.3 + 300, "odd-far", xy=(x, y), number=10**6, echo=77.0), "odd-slice"),
    }
    return changes[kind]


@settings(max_examples=150, deadline=None)
@given(series())
def test_known_volumes_are_found_whatever_the_order_the_rounding_and_the_odd_files(
    made: tuple[list[Plane], set[frozenset[str]], dict[str, str]],
) -> None:
    planes, volumes, refused = made
    found = grouped(planes)
    assert keys(found) == volumes
    assert reasons(found) == refused


@st.composite
def anything(draw: st.DrawFn) -> list[Plane]:
    count = draw(st.integers(1, 12))
    return [
        plane(
            draw(st.sampled_from([0.0, 0.01, 1.0, 1.02, 2.0, 3.0, 9.0])),
            str(number),
            (draw(st.sampled_from([0.0, 0.05, 40.0])), 0.0),
            draw(st.integers(0, 3)),
            draw(st.sampled_from([AXIAL, AXIAL, CORONAL])),
            shape=draw(st.sampled_from([(8, 8), (8, 8), (9, 8)])),
            pixels=draw(st.sampled_from(["a", "b", "c"])),
            **draw(st.dictionaries(st.sampled_from(["echo", "time"]), st.sampled_from([1.0, 2.0]))),
        )
        for number in range(count)
    ]


@settings(max_examples=150, deadline=None)
@given(anything(), st.randoms(use_true_random=False))
def test_every_plane_is_in_one_volume_or_refused_once(planes: list[Plane], shuffle: Any) -> None:
    """Compared with a slow rule: any two planes of a volume lie at different places of one line of equal planes."""
    found = grouped(planes)
    counted = [item.key for run in found.volumes for item in run.planes] + [item.plane.key for item in found.refused]
    assert sorted(counted) == sorted(item.key for item in planes)
    for run in found.volumes:
        assert len(run.planes) > 1
        for one, other in itertools.combinations(run.planes, 2):
            assert (one.shape, one.geometry.row_direction) == (other.shape, other.geometry.row_direction)
            assert one.geometry.column_direction == other.geometry.column_direction
            gap = np.array(one.geometry.position) - np.array(other.geometry.position)
            assert abs(gap @ one.geometry.normal) > 1e-3
    shuffle.shuffle(planes)
    again = grouped(planes)
    assert (keys(again), reasons(again)) == (keys(found), reasons(found))


def test_two_echoes_with_the_same_instance_numbers_are_two_volumes() -> None:
    planes = [plane(3.0 * i, f"{i}{e}", number=i, echo=e) for i in range(6) for e in (10.0, 80.0)]
    found = grouped(planes)
    assert keys(found) == {frozenset(f"{i}{e}" for i in range(6)) for e in (10.0, 80.0)}
    assert [run.values["echo"] for run in found.volumes] == [10.0, 80.0]


def test_planes_that_nothing_tells_apart_are_refused_and_other_volumes_are_not() -> None:
    """Without the old rule, under which the name of a file decided."""
    good = [plane(i, f"good{i}", number=i, echo=10.0, pixels=f"g{i}") for i in range(4)]
    bad = [plane(i, f"bad{i}{n}", number=i, echo=80.0, pixels=f"b{i}{n}") for i in range(4) for n in range(2)]
    found = grouped([*good, *bad])
    assert keys(found) == {frozenset(item.key for item in good)}
    assert set(reasons(found).values()) == {"same-place"}
    assert len(found.refused) == 8


def test_instance_numbers_that_run_in_no_order_are_not_trusted() -> None:
    numbers = [(1, 5), (4, 8), (2, 3), (6, 7)]
    found = grouped([plane(i, f"{i}{n}", number=n, pixels=str(n)) for i, pair in enumerate(numbers) for n in pair])
    assert not found.volumes
    assert set(reasons(found).values()) == {"same-place"}


def test_a_series_that_was_sent_twice_is_counted_once() -> None:
    first = [plane(i, f"a{i}", number=i, pixels=f"{i}") for i in range(5)]
    for shift in (0, 100):  # the second time with the same instance numbers, or with others
        again = [dataclasses.replace(item, key=f"b{item.key}", number=item.number + shift) for item in first]
        found = grouped([*again, *first])
        assert keys(found) == {frozenset(item.key for item in first)}
        assert reasons(found) == {item.key: "duplicate" for item in again}


def test_black_slices_of_a_series_in_time_are_not_copies() -> None:
    planes = [
        plane(i, f"{t}{i}", number=10 * t + i, pixels="black" if i in (0, 5) else f"{t}{i}")
        for t in range(3)
        for i in range(6)
    ]
    assert len(grouped(planes).volumes) == 3


def test_a_time_that_ends_early_costs_itself() -> None:
    planes = [
        plane(i, f"{t}{i}", time=float(t), number=9 * t + i) for t in range(3) for i in range(6) if (t, i) < (2, 4)
    ]
    found = grouped(planes)
    assert len(found.volumes) == 2
    assert set(reasons(found).values()) == {"incomplete-volume"}
    thick = [plane(2 * i, f"k{i}", thickness=4.0, number=90 + i) for i in range(3)]
    thin = [plane(i, f"n{i}", thickness=1.0, number=i) for i in range(6)]
    assert len(grouped([*thick, *thin]).volumes) == 2  # every second place is a volume of its own


def test_one_place_in_time_is_no_volume() -> None:
    found = grouped([plane(0.0, str(t), trigger_time=40.0 * t, number=t) for t in range(20)])
    assert not found.volumes
    assert set(reasons(found).values()) == {"single-slice"}


def test_acquisitions_that_overlap_are_two_volumes() -> None:
    lower = [plane(i, f"l{i}", acquisition=1.0, number=i) for i in range(6)]
    upper = [plane(i, f"u{i}", acquisition=2.0, number=10 + i) for i in range(4, 10)]
    assert keys(grouped([*lower, *upper])) == {frozenset(item.key for item in part) for part in (lower, upper)}
    single = [plane(i, f"s{i}", acquisition=float(i), number=i) for i in range(6)]
    assert len(grouped(single).volumes) == 1  # an acquisition for each slice is one volume


@pytest.mark.parametrize(("gaps", "wanted"), [
    ([1.0, 1.0, 1.0], 1e-3),
    ([0.02, 1.0, 0.03, 0.97, 0.01], 0.03),
    ([0.1, 0.1, 0.1, 0.1], 1e-3),  # slices of a small animal
    ([0.1, 0.1, 0.1, 50.0], 1e-3),  # ... with one far away
    ([0.0, 0.625, 0.0, 5.0, 0.0], 1e-3),
])  # fmt: skip
def test_the_tolerance_separates_rounding_from_distances(gaps: list[float], wanted: float) -> None:
    assert tolerance_mm(np.array(gaps), 0.8) == pytest.approx(wanted)


def test_rounded_coordinates_are_one_place() -> None:
    exact = [plane(10 / 3 * i, f"e{i}", echo=1.0) for i in range(7)]
    rounded = [plane(round(10 / 3 * i, 1), f"r{i}", echo=2.0) for i in range(7)]
    assert [len(place) for place in places_of([*exact, *rounded])] == [2] * 7
    assert len(grouped([*exact, *rounded]).volumes) == 2


@pytest.mark.parametrize("count", [1, 4])
def test_slices_of_two_frames_of_reference_are_never_one_volume(count: int) -> None:
    here = [plane(2.0 * z, f"a{z}", number=z, space="1.9") for z in range(4)]
    there = [plane(8.0 + 2.0 * z, f"b{z}", number=9 + z, space="1.10") for z in range(count)]
    found = grouped([*here, *there])
    assert frozenset(item.key for item in here) in keys(found)
    assert sum(len(group) for group in keys(found)) + len(found.refused) == 4 + count
    if count == 1:
        assert "FrameOfReferenceUID" in found.refused[0].detail


@pytest.mark.parametrize(
    "spaces", [["1.1", "1.2", "1.3", "1.4"], ["1.1", "", "1.1", ""], ["", "", "", ""], ["1.1", "1.2", "", ""]]
)
def test_a_frame_of_reference_of_each_slice_or_of_some_tells_nothing(spaces: list[str]) -> None:
    found = grouped([plane(2.0 * z, f"{z}", number=z, space=space) for z, space in enumerate(spaces)])
    assert len(found.volumes) == 1
    assert not found.refused


@pytest.mark.parametrize(
    ("scales", "volumes"),
    [
        (["stated"] * 3 + ["none"], [{"0", "1", "2"}]),
        (["stated"] * 2 + ["none"] * 2, [{"0", "1"}, {"2", "3"}]),
        (["identity"] * 2 + ["none"] * 2, [{"0", "1", "2", "3"}]),
        (["identity"] * 2 + ["stated"] * 2, [{"0", "1", "2", "3"}]),
    ],
)
def test_slices_without_a_rescale_are_not_among_those_with_one(scales: list[Any], volumes: list[set[str]]) -> None:
    found = grouped([plane(2.0 * z, f"{z}", number=z, scale=scale) for z, scale in enumerate(scales)])
    assert keys(found) == set(map(frozenset, volumes))
    for item in found.refused:
        assert "RescaleSlope" in item.detail
