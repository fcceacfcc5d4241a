"""Which images make one item, for tasks whose items are made of several images of a patient."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from salus.client.data.preparing import Item
from salus.common.tasks.base import Task
from salus.common.tasks.several import OfSeveral, several_of


def items_of(task: Task, images: Sequence[Item]) -> tuple[list[Item], Counter[str]]:
    """Return the items that a task takes, in the order of their first images, and how many images are in none, by reason.

    An item has all images of a patient in their order (by rank, if all of them have one; otherwise as they are given), the
    subgroups of the first, and the label that the task makes of the labels of all of them, those beyond the job's number
    included. It depends on that patient's images only.

    Args:
        images: single ones, with their own labels.
    """
    several = several_of(task)
    if several is None:
        return list(images), Counter()
    patients: dict[str, list[Item]] = {}
    for one in images:
        patients.setdefault(one.image.patient, []).append(one)
    items: list[Item] = []
    left_out: Counter[str] = Counter()
    for own in (in_order(own, [one.order for one in own]) for own in patients.values()):
        target = several.label_of([one.target for one in own])
        if target is None:
            left_out["labels-differ"] += len(own)
            continue
        kept = chosen(own, several)
        left_out["beyond-most-images"] += len(own) - len(kept)
        items.append(replace(kept[0], target=target, groups=own[0].groups, images=tuple(kept)))
    return items, left_out


Each = TypeVar("Each")


def in_order(own: Sequence[Each], ranks: Sequence[float | None]) -> list[Each]:
    """Return a patient's images by their ranks, equal ones as they are given; as they are given if one has no rank."""
    known = [rank for rank in ranks if rank is not None]
    if len(known) < len(own):
        return list(own)
    return [own[place] for place in sorted(range(len(own)), key=known.__getitem__)]


def chosen(own: Sequence[Item], several: OfSeveral) -> list[Item]:
    """Return at most the job's number of a patient's images, in their order: always those with the smallest hashes of content."""
    return [own[place] for place in places_of([one.image.sha256 or one.image.key for one in own], several)]


def places_of(contents: Sequence[str], several: OfSeveral) -> list[int]:
    """Return the places of the images that are used, of a patient's images with these hashes of content or keys, in order."""
    hashes = [hashlib.sha256(f"salus/several/{content}".encode()).digest() for content in contents]
    return sorted(sorted(range(len(hashes)), key=lambda place: (hashes[place], place))[: several.most_images])
