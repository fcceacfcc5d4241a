"""Places that are visited several times: which image belongs to which volume, by the dimensions in which the images differ.

A set of dimensions is used if no two images of one place agree in all of them. Among such sets the one is taken whose volumes
have the fewest holes, properties of the picture (echo, b-value, kind) before times. Times may differ from place to place, so that
they also count by their order at each place. Without any such dimension the order of the instance numbers decides, if the numbers
run through the volumes in order; otherwise nothing is guessed.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from salus.client.data.dicom.dimensions import NAMES, TIMES
from salus.client.data.dicom.runs import Plane, Refused, Run

SAME_VALUE = 5e-3  # relative; by which a property such as an echo time may differ within one volume
INSTANCE, TIME = "instance", "time"
MAX_CHOICES = 200
SAME_PLACE = ("same-place", "another slice lies at the same place, and no element says in what the two differ")
DUPLICATE = ("duplicate", "a copy of another slice of its series: same place, same description, same pixels")


Places = Sequence[Sequence[Plane]]
Label = Callable[[int, Plane], int]  # of a place and a plane: the number of its value


def runs_of(places: Places) -> tuple[list[Run], list[Refused]]:
    """Return the volumes of one line of places, and the planes that belong to none.

    Args:
        places: the planes of each place, along the normal.
    """
    places, copies = _without_copies(places, lambda plane: plane.number)
    refused = [Refused(plane, *DUPLICATE) for plane in copies]
    found = _split(places)
    if found is None:
        single, more = _without_copies(places, lambda plane: None)
        ordered = _by_instance(places)
        if all(len(visits) == 1 for visits in single) or ordered is None:
            places, found = single, _split(single) or _conflicting(single)
            refused += [Refused(plane, *DUPLICATE) for plane in more]
        else:
            found = ordered
    good: list[Run] = []
    for run in found:
        if len(set(run.places)) == len(run.places):
            good.append(run)
        else:
            refused += [Refused(plane, *SAME_PLACE) for plane in run.planes]
    return sorted(good, key=lambda run: run.order), refused


def _without_copies(places: Places, number: Callable[[Plane], object]) -> tuple[list[list[Plane]], list[Plane]]:
    """Return the places without planes that equal another one there, the first by number and key being kept."""
    kept: list[list[Plane]] = []
    copies: list[Plane] = []
    for visits in places:
        here: dict[object, Plane] = {}
        for plane in sorted(visits, key=lambda plane: (plane.number, plane.key, plane.frame)):
            same = (plane.pixels or id(plane), number(plane), tuple(sorted(plane.dimensions.items(), key=str)))
            if here.setdefault(same, plane) is not plane:
                copies.append(plane)
        kept.append(list(here.values()))
    return kept, copies


def _split(places: Places) -> list[Run] | None:
    """Return the runs under the best set of dimensions; None if no set tells all planes of a place apart."""
    if all(len(visits) == 1 for visits in places):
        return [Run({}, tuple(visits[0] for visits in places), tuple(range(len(places))))]
    varying = [name for name in NAMES if any(_differ(visits, name) for visits in places)]
    labels = {name: _by_value(places, name) for name in varying}
    best: list[Run] | None = None
    fewest = -1
    for names, ranked in itertools.islice(_choices(varying), MAX_CHOICES):
        runs = _runs(places, names, labels, ranked)
        if runs is None:
            continue
        holes = sum(len(run.planes) for run in runs if run.broken)
        if best is None or holes < fewest:
            best, fewest = runs, holes
        if not holes:
            break
    return best


def _choices(varying: Sequence[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield sets of dimensions, and which of them counts by its order at each place."""
    properties = tuple(name for name in varying if name not in TIMES)
    times = [name for name in varying if name in TIMES]
    if properties:
        yield properties, ""
    for time in times:
        yield (*properties, time), ""
    for pair in itertools.combinations(times, 2):
        yield (*properties, *pair), ""
    for pair in itertools.permutations(times, 2):  # before one time alone: an order over two times would mix them
        yield (*properties, *pair), pair[1]
    for time in times:
        yield (*properties, time), time
    for count in range(1, len(properties)):
        for some in itertools.combinations(properties, count):
            yield some, ""
            for time in times:
                yield (*some, time), ""
                yield (*some, time), time
    if properties:
        for time in times:
            yield (time,), ""


def _runs(
    places: Places, names: Sequence[str], labels: Mapping[str, Mapping[int, int]], ranked: str
) -> list[Run] | None:
    """Return the runs under a set of dimensions; None if it does not tell the planes of some place apart."""
    fixed = [name for name in names if name != ranked]
    found: dict[tuple[int, ...], list[tuple[int, Plane]]] = defaultdict(list)
    counts: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, visits in enumerate(places):
        here: dict[tuple[int, ...], list[Plane]] = defaultdict(list)
        for plane in visits:
            here[tuple(labels[name][id(plane)] for name in fixed)].append(plane)
        for key, mine in here.items():
            if not ranked:
                if len(mine) > 1:
                    return None
                found[key].append((place, mine[0]))
                continue
            mine.sort(key=lambda plane: labels[ranked][id(plane)])
            if len({labels[ranked][id(plane)] for plane in mine}) != len(mine):
                return None
            counts[key].append(len(mine))
            for rank, plane in enumerate(mine):
                found[*key, rank].append((place, plane))
    if any(len(set(mine)) > 1 for mine in counts.values()):
        return None  # the second of two is not the second of three
    return [_run(key, members, ranked) for key, members in found.items()]


def _run(key: tuple[int, ...], members: Sequence[tuple[int, Plane]], ranked: str = "") -> Run:
    planes = [plane for _, plane in members]
    values = {
        name: value
        for name, value in planes[0].dimensions.items()
        if not any(_differ([planes[0], p], name) for p in planes)
    }
    if ranked:
        values[TIME if ranked == INSTANCE else ranked] = float(key[-1] + 1)
    return Run(values, tuple(planes), tuple(place for place, _ in members), key)


def _by_instance(places: Places) -> list[Run] | None:
    """Return the runs by the order of the instance numbers at each place, if these run through the volumes in order."""
    varying = [name for name in NAMES if name not in TIMES and any(_differ(visits, name) for visits in places)]
    labels = {name: _by_value(places, name) for name in varying}
    labels[INSTANCE] = {id(plane): plane.number for visits in places for plane in visits}
    runs = _runs(places, (*varying, INSTANCE), labels, INSTANCE)
    if runs is None:
        return None
    families: dict[tuple[int, ...], list[Run]] = defaultdict(list)
    for run in runs:
        families[run.order[:-1]].append(run)
    return runs if all(map(_in_order, families.values())) else None


def _in_order(runs: Sequence[Run]) -> bool:
    """Return whether instance numbers run through one volume after another, or through all volumes at one place after another."""
    numbers = [[plane.number for plane in run.planes] for run in sorted(runs, key=lambda run: run.order)]
    after = all(max(first) < min(second) for first, second in itertools.pairwise(numbers))
    steps = sorted(zip(*numbers, strict=True)) if len({len(mine) for mine in numbers}) == 1 else []
    beside = bool(steps) and all(max(first) < min(second) for first, second in itertools.pairwise(steps))
    return after or beside


def _conflicting(places: Places) -> list[Run]:
    """Return runs of which some have two planes at one place: those under all properties that differ."""
    varying = [name for name in NAMES if name not in TIMES and any(_differ(visits, name) for visits in places)]
    labels = {name: _by_value(places, name) for name in varying}
    found: dict[tuple[int, ...], list[tuple[int, Plane]]] = defaultdict(list)
    for place, visits in enumerate(places):
        for plane in visits:
            found[tuple(labels[name][id(plane)] for name in varying)].append((place, plane))
    return [_run(key, members) for key, members in found.items()]


def _differ(visits: Sequence[Plane], name: str) -> bool:
    return len({plane.dimensions.get(name) for plane in visits}) > 1


def _by_value(places: Places, name: str) -> dict[int, int]:
    """Return the number of each plane's value of a dimension, 0 where it has none; close properties are one value."""
    planes = [plane for visits in places for plane in visits]
    numbers = sorted({value for plane in planes if isinstance(value := plane.dimensions.get(name), float | int)})
    places_of: dict[object, int] = {None: 0}
    count = 0
    for index, value in enumerate(numbers):
        near = index > 0 and value - numbers[index - 1] <= SAME_VALUE * abs(value) and name not in TIMES
        count += not near
        places_of[value] = count
    first: dict[str, tuple[int, str]] = {}
    for plane in planes:  # words are tokens after an import, so their own order says nothing
        if isinstance(text := plane.dimensions.get(name), str):
            first[text] = min(first.get(text, plane.rank), plane.rank)
    for offset, text in enumerate(sorted(first, key=lambda text: (first[text], text)), start=count + 1):
        places_of[text] = offset
    return {id(plane): places_of[plane.dimensions.get(name)] for plane in planes}
