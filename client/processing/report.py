"""The page of before and after, and the summary of a run."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

from salus.client.processing.pictures import Step
from salus.client.processing.run import Finished, Processed
from salus.common.pages import Section, write_page

MOST_SHOWN = 100  # a page with more is too large for a browser
COLUMNS = ("step", "size", "spacing in mm", "values", "mean change", "PSNR in dB", "compression")


def write_before_after(path: Path, title: str, finished: Finished) -> None:
    """Write the page; it holds images and is readable by its owner only."""
    sections = [
        Section("Not processed" if place == 0 else "", f"{one.item}: {one.reason}: {one.detail}", warns=True)
        for place, one in enumerate(finished.refused)
    ]
    left_out = Counter(one.left_out for one in finished.images if one.left_out)
    if left_out:
        sections.append(
            Section("No DICOM objects were written", columns=("reason", "images"), rows=left_out.most_common())
        )
    sections += [_section(one) for one in finished.images[:MOST_SHOWN]]
    more = len(finished.images) - MOST_SHOWN
    rest = f" The first {MOST_SHOWN} images; {more} more are in the folder." if more > 0 else ""
    lead = "Each image as stored and after the steps. This page shows patients' images: keep it where they are."
    write_page(path, title, lead + rest, sections)


def summary_of(finished: Finished) -> dict[str, Any]:
    """Return the run as plain JSON."""
    return {
        "processed": len(finished.images),
        "refused": [{"item": one.item, "reason": one.reason, "detail": one.detail} for one in finished.refused],
        "items": [
            {
                "item": one.item,
                "files": one.files,
                "left_out": one.left_out,
                "mean_change": one.steps[-1].change,
                "psnr_db": None if (psnr := one.steps[-1].psnr_db) is None or math.isinf(psnr) else psnr,
                "unchanged": psnr is not None and math.isinf(psnr),
                "compression_ratio": float(one.steps[-1].ratio) if one.steps[-1].ratio else None,
            }
            for one in finished.images
        ],
    }


def _section(one: Processed) -> Section:
    pictures = [(step.name, step.picture) for step in one.steps if step.picture]
    return Section(one.item, columns=COLUMNS, rows=[_row(step) for step in one.steps], pictures=pictures)


def _row(step: Step) -> tuple[str, ...]:
    change = "" if step.change is None else f"{step.change:.4g}"
    psnr = "" if step.psnr_db is None else "unchanged" if math.isinf(step.psnr_db) else f"{step.psnr_db:.1f}"
    return (step.name, *step.facts, change, psnr, f"{step.ratio} : 1" if step.ratio else "")
