"""The page of `salus dataset check`."""

from collections import Counter
from collections.abc import Mapping, Sequence

from salus.client.data.declaration import are_numbers
from salus.client.data.readiness import HISTOGRAM_BINS, UNKNOWN, Readiness, Thumbnail
from salus.client.data.remedies import remedy_of
from salus.client.data.target_check import sections_of as target_sections
from salus.client.outgoing.overlays import legend
from salus.common.pages import Section
from salus.common.vocabulary import OTHER

MOST_ROWS = 12  # of a table of counts
NAMED = "salus dataset refused lists these files by name."


def sections_of(found: Readiness) -> list[Section]:
    """Return the findings as sections of a page."""
    summary = found.summary
    counted = [
        ("patients", summary.patients),
        ("studies", summary.studies),
        ("images", summary.images),
        ("readable now", summary.images - len(found.unreadable)),
        ("files that could not be used", sum(summary.quarantined.values())),
        ("files set aside, such as label files", summary.set_aside),
        ("rows of the label file without an image", summary.unmatched),
    ]
    labels = label_rows(summary.labels, found.patients_by_label)
    ranges = [(name, f"{low:g}", f"{high:g}") for name, (low, high) in sorted(found.ranges.items()) if low <= high]
    quarantined = [(reason, count, remedy_of(reason)) for reason, count in sorted(summary.quarantined.items())]
    unreadable = Counter(reason for _, reason in found.unreadable)
    bars = [(f"{place / HISTOGRAM_BINS:.2f}", float(count)) for place, count in enumerate(found.intensities)]
    return [
        *(Section("" if i else "To look at", warning, warns=True) for i, warning in enumerate(found.warnings)),
        Section("Size", rows=counted),
        *([Section("Labels", columns=("label", "images", "patients"), rows=labels)] if labels else []),
        *target_sections(found.targets, summary.kind),
        *_known("Vendors", found.vendors, OTHER),
        *_known("Modalities", found.modalities, OTHER),
        *_known("Sex", found.sexes),
        *_known("Age in years", found.ages),
        *_table("Sizes in pixels", found.sizes),
        *_table("Spacing in mm", found.spacings),
        *([Section("Range of intensities", columns=("modality", "lowest", "highest"), rows=ranges)] if ranges else []),
        *([Section("Mean brightness of the images", bars=bars)] if any(found.intensities) else []),
        *_table("Missing values", found.missing),
        *(
            [Section("Not used", NAMED, columns=("reason", "files", "what to do"), rows=quarantined)]
            if quarantined
            else []
        ),
        *_table("No longer readable", unreadable),
        *([_samples(found.thumbnails)] if found.thumbnails else []),
    ]


def _samples(thumbnails: Sequence[Thumbnail]) -> Section:
    """Return the pictures; their colours are named once if a number means the same in all, otherwise below each."""
    named: dict[int, str] = {}
    one_meaning = all(named.setdefault(n, name) == name for one in thumbnails for n, name in one.structures.items())
    text = " ".join(filter(None, ["They exist only in this file.", legend(named) if one_meaning else ""]))
    captions = (one.caption if one_meaning else f"{one.caption} {legend(one.structures)}".strip() for one in thumbnails)
    pictures = [(caption, one.picture) for caption, one in zip(captions, thumbnails, strict=True)]
    return Section("Sample images", text, pictures=pictures)


def label_rows(images: Mapping[str, int], patients: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Return label, images and patients; one row for all labels that are measured numbers."""
    if are_numbers(images):
        numbers = sorted(float(label) for label in images if label)
        every = f"measured: {numbers[0]:g} to {numbers[-1]:g}, median {numbers[len(numbers) // 2]:g}"
        return [(every, sum(images.values()), sum(patients.values()))]
    return [(label or "without a label", count, patients.get(label, 0)) for label, count in images.items()]


def _known(title: str, counts: Counter[str], unknown: str = UNKNOWN) -> list[Section]:
    """Return a table, or nothing if it is not known of any sample."""
    return _table(title, counts) if set(counts) - {unknown} else []


def _table(title: str, counts: Counter[str]) -> list[Section]:
    if not counts:
        return []
    rows = counts.most_common(MOST_ROWS)
    others = counts.total() - sum(count for _, count in rows)
    return [Section(title, rows=[*rows, *([("others", others)] if others else [])])]
