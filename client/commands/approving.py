"""`salus dataset approve`: the operator looks at images in which text was searched for and blanked, then lets jobs use them."""

import base64
import io
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer
from PIL import Image, ImageDraw

from salus.client.commands.intake import Folder, Name, Yes
from salus.common.console import example, out, shown

if TYPE_CHECKING:
    from salus.client.data.dicom.burned_in import Blanked
    from salus.client.data.dicom.isolation import Decoding
    from salus.client.data.records import FloatArray, Sample

ON_A_PAGE = 200  # images; each takes about 100 kB
SIDE, QUALITY = 640, 85  # pixels of the longer side: a name that was missed must be legible; of JPEG
OUTLINE = (255, 200, 0)
LEGEND = (
    "The detector searched these images for burned-in text. Yellow outlines show what was blanked; with ultrasound regions, "
    "everything outside them was blanked too. The detector can miss text: look at every image for names, numbers and dates. Of a "
    "clip, the middle frame and the brightest values of all frames are shown. If an image still shows a name, delete its file, "
    "which is named below it, from the folder images/{name}, and import again; or import with --mask for its device."
)


def write_pages(folder: Path, name: str, store: Path, decoding: "Decoding | None") -> list[Path]:
    """Write the pages with all images of a store that are not approved, and return their paths; removes those of before."""
    from salus.client.data.approval import SearchedImages
    from salus.client.data.sources import open_source
    from salus.client.data.sources.settings import SourceOptions
    from salus.common.pages import Section, write_page

    reports = folder / "reports"
    for old in reports.glob(f"text-{name}-*.html"):
        if old.stem.removeprefix(f"text-{name}-").isdecimal():
            old.unlink()
    pending = SearchedImages(store).pending()
    source = open_source("imported", store, SourceOptions(), decoding)
    paths = []
    for number, batch in enumerate(_batches(pending), start=1):
        figures = [figure for key, done in batch for figure in _figures(source.load, key, done)]
        page = reports / f"text-{name}-{number}.html"
        lead = "For this site only: this page shows images of its patients."
        counted = [
            ("images on this page", len(batch)),
            ("images on all pages", len(pending)),
            ("images with text that was found", sum(bool(done.boxes) for done in pending.values())),
            ("blanked places of text", sum(len(done.boxes) for done in pending.values())),
        ]
        sections = [
            Section("Before you approve", LEGEND.format(name=name), warns=True),
            Section("Counts", rows=counted),
            Section("Images", pictures=figures, full=True),
        ]
        write_page(page, f"Burned-in text in {name}, page {number}", lead, sections)
        paths.append(page)
    return paths


def _batches(pending: "Mapping[str, Blanked]") -> "Iterator[list[tuple[str, Blanked]]]":
    left = iter(sorted(pending.items(), key=lambda item: (not item[1].boxes, item[0])))  # those with text first
    while batch := list(itertools.islice(left, ON_A_PAGE)):
        yield batch


def _figures(load: "Callable[[str], Sample]", key: str, done: "Blanked") -> Iterator[tuple[str, str]]:
    """Yield captions and pictures of one image, or a caption alone if it cannot be shown."""
    from salus.common.errors import UnreadableImage

    places = f"{len(done.boxes)} blanked" + (", and all outside the ultrasound regions" if done.outside else "")
    try:
        values = load(key).values
    except UnreadableImage as problem:
        yield f"{key}: cannot be shown ({problem.reason}); open it with a DICOM viewer. {places}", ""
        return
    if values.ndim == 4:
        yield f"{key}, middle frame: {places}", picture_of(values[:, values.shape[1] // 2], done)
        yield f"{key}, brightest values", picture_of(values.max(axis=1), done)
    else:
        yield f"{key}: {places}", picture_of(values, done)


def picture_of(values: "FloatArray", done: "Blanked") -> str:
    """Return an image with its outlines as a ``data:`` URL.

    Args:
        values: ``[channels, rows, columns]`` from 0 to 1.
    """
    pixels = np.moveaxis((np.clip(np.nan_to_num(values), 0, 1) * 255).astype(np.uint8), 0, -1)
    image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0]).convert("RGB")
    rows, columns = pixels.shape[:2]
    image.thumbnail((SIDE, SIDE))
    draw = ImageDraw.Draw(image)
    for row, column, height, width in done.boxes:
        ends = (column, row, column + width - 1, row + height - 1)
        scaled = [
            end * side / whole for end, side, whole in zip(ends, image.size * 2, (columns, rows) * 2, strict=True)
        ]
        draw.rectangle(scaled, outline=OUTLINE)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def approve(folder: Folder, name: Name, yes: Yes = False) -> None:
    """Approve the images in which burned-in text was blanked, after looking at the pages; from then on jobs may use them."""
    from salus.client.config import open_catalogue
    from salus.common.errors import UnfitError

    catalogue = open_catalogue(folder)
    catalogue.summary(name)  # fails for an unknown one
    if not catalogue.approvals.waiting(name):
        out.print(f"{shown(name)} does not wait for approval.")
        return
    pages = sorted((folder / "reports").glob(f"text-{name}-*.html"))
    for page in pages:
        out.print(f"Page: {shown(page)}", soft_wrap=True)
    if not yes and not (
        sys.stdin.isatty() and typer.confirm("Have you looked at every image, and does none show a name?")
    ):
        out.print(
            f"Not approved: every job on {name} is refused until you look at the pages and run: "
            f"salus dataset approve {folder} {name} --yes",
            style="yellow",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(UnfitError.exit_code)  # so that a script does not take it for approved
    catalogue.approve(name)
    out.print(f"Approved {shown(name)}.")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=example("salus dataset approve ./site ultrasound"))(approve)
