"""A page of pictures that shows what a job's transforms do to some images; it stays with the data."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from salus.client.data.examples import annotations_of, example_of
from salus.client.data.records import ImageRecord
from salus.client.data.sources import guess_kind, open_source
from salus.client.data.sources.settings import SourceOptions
from salus.client.outgoing.overlays import legend, overlay
from salus.common.errors import DataError, UnreadableImage
from salus.common.examples import PADDING, Array, Example
from salus.common.pages import Section, write_page
from salus.common.tasks.base import Task
from salus.common.transforms.chain import Chain
from salus.common.transforms.streams import stream
from salus.common.vocabulary import OTHER

MOST_COLOURS = 3


def chosen(data: Path, options: SourceOptions, task: Task, count: int) -> list[tuple[str, Example]]:
    """Return images that fit a task, spread evenly over the data, with captions; those that cannot be read are passed over.

    Raises:
        DataError: the path holds no data of a known kind.
    """
    source = open_source(guess_kind(data), data, options)
    records = [record for record in source.scan() if isinstance(record, ImageRecord)]
    annotations, measured = annotations_of(task), task.chain.measured
    found: list[tuple[str, Example]] = []
    for place in range(0, len(records), max(1, len(records) // count)):
        record = records[place]
        vendor = str(record.info.get("vendor", OTHER))
        with contextlib.suppress(DataError, UnreadableImage):
            sample = source.load(record.key)
            example = example_of(
                sample,
                task.settings,
                vendor,
                annotations=annotations,
                measured=measured,
                objects=getattr(task, "objects", ""),
            )
            found.append((f"Image {place + 1} of {len(records)}, label {record.label or 'none'}", example))
        if len(found) == count:
            break
    return found


def write_preview(
    path: Path,
    title: str,
    chain: Chain,
    examples: Sequence[tuple[str, Example]],
    *,
    copies: int,
    seed: int,
    names: Sequence[str] = (),
) -> None:
    """Write a page with each image before the chain, after each step and in several augmented copies, masks drawn over it.

    Args:
        examples: images with the captions that they get.
        copies: augmented copies of each image, if the chain has random steps.
        names: of the structures that are drawn over the images, for the legend.
        seed: of the random steps, so that a page can be made again.
    """
    sections = [_shown(name, example, chain, copies, seed) for name, example in examples]
    steps = ", ".join(chain.kinds) or "no step"
    write_page(
        path,
        title,
        f"Transforms: {steps}. This page stays with the data; do not send it. {legend(names)}".strip(),
        sections,
    )


def _shown(name: str, example: Example, chain: Chain, copies: int, seed: int) -> Section:
    pictures = [("as stored", _picture(example))]
    rows = [("as stored", *_facts(example))]
    current, fixed = example, chain.fixed
    try:
        for place, (kind, step) in enumerate(zip(chain.kinds[:fixed], chain.steps[:fixed], strict=True)):
            current = step(current, None)
            pictures.append((f"{place} {kind}", _picture(current)))
            rows.append((f"{place} {kind}", *_facts(current)))
        for copy in range(copies if chain.random else 0):
            drawn = chain.rest(current, stream(seed.to_bytes(8), name, copy))
            pictures.append((f"copy {copy + 1}", _picture(drawn)))
            rows.append((f"copy {copy + 1}", *_facts(drawn)))
    except UnreadableImage as problem:
        text = f"This image cannot be used after {pictures[-1][0]}: {problem.detail}."
        return Section(name, text=text, warns=True, columns=COLUMNS, rows=rows, pictures=_there(pictures))
    return Section(name, columns=COLUMNS, rows=rows, pictures=_there(pictures))


COLUMNS = ("step", "size", "spacing in mm", "grey values")


def _facts(example: Example) -> tuple[str, str, str]:
    image = _image(example)
    if image is None:
        return "a row", "", ""
    spacing = " x ".join(f"{side:.3g}" for side in example.spacing_mm[4 - image.ndim :])
    return " x ".join(map(str, image.shape[1:])), spacing, f"{image.min():.4g} to {image.max():.4g}"


def _image(example: Example) -> Array | None:
    names = sorted(name for name in example.spatial if example[name].dtype.kind == "f")
    return example[names[0]] if names else None


def _picture(example: Example) -> str:
    image = _image(example)
    if image is None:
        return ""
    masks = sorted(name for name in example.spatial - {PADDING} if example[name].dtype.kind in "iub")
    mask = example[masks[0]] if masks else np.zeros((1, *image.shape[1:]), np.uint8)
    shown = image if len(image) == MOST_COLOURS and image.min() >= 0 and image.max() <= 1 else image[:1]
    return overlay(shown, mask[0] if len(mask) == 1 else mask, spacing_mm=example.spacing_mm[4 - image.ndim :])


def _there(pictures: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(caption, url) for caption, url in pictures if url]
