"""A page of pictures that shows what a job's transforms do to some images; it stays with the data."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from salus.client.outgoing.overlays import overlay
from salus.common.errors import UnreadableImage
from salus.common.examples import Array, Example
from salus.common.pages import Section, write_page
from salus.common.transforms.chain import Chain, stream

MOST_COLOURS = 3


def write_preview(
    path: Path, title: str, chain: Chain, examples: Sequence[tuple[str, Example]], *, copies: int, seed: int
) -> None:
    """Write a page with each image before the chain, after each step and in several augmented copies, masks drawn over it.

    Args:
        examples: images with the captions that they get.
        copies: augmented copies of each image, if the chain has random steps.
        seed: of the random steps, so that a page can be made again.
    """
    sections = [_shown(name, example, chain, copies, seed) for name, example in examples]
    steps = ", ".join(chain.kinds) or "no step"
    write_page(path, title, f"The chain: {steps}. It stays with the data; do not send it.", sections)


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
    masks = sorted(name for name in example.spatial if example[name].dtype.kind in "iub")
    mask = example[masks[0]] if masks else np.zeros((1, *image.shape[1:]), np.uint8)
    shown = image if len(image) == MOST_COLOURS and image.min() >= 0 and image.max() <= 1 else image[:1]
    return overlay(shown, mask[0] if len(mask) == 1 else mask, spacing_mm=example.spacing_mm[4 - image.ndim :])


def _there(pictures: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(caption, url) for caption, url in pictures if url]
