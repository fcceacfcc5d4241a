"""Is a data set ready to train on? Counts, plots and thumbnails for the site's own staff; none of it leaves the site."""

import base64
import io
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from salus.client.data.catalogue import Catalogue
from salus.client.data.declaration import FEW_PATIENTS, are_numbers, differences, outside
from salus.client.data.preparing import read_registered
from salus.client.data.records import ISSUER, ImageFacts, Sample
from salus.client.data.summaries import DatasetSummary
from salus.client.data.target_check import TargetFindings, findings, pictured, structures_of
from salus.client.data.troubles import unreadable
from salus.common.errors import UnreadableImage
from salus.common.people import OLDEST_YEARS
from salus.common.vocabulary import OTHER

THUMBNAILS, THUMBNAIL_SIDE = 24, 96
HISTOGRAM_BINS = 32
MAX_LISTED = 10
UNKNOWN = "unknown"


class Thumbnail(NamedTuple):
    """A small picture of an image.

    Args:
        picture: a ``data:`` URL.
        structures: names of what is drawn over it, by class number.
    """

    caption: str
    picture: str
    structures: Mapping[int, str]


@dataclass
class Readiness:
    """What `check` found.

    Args:
        patients_by_label: different patients of each label.
        copies: images whose pixels another image has, those of the same patient and those of another one.
        several_issuers: patients whose identifier has more than one issuer.
        unreadable: registered images that cannot be read now, by key and reason.
        declared: where the declaration and the data disagree.
        sexes, ages: samples by the patient's sex and by ten years of age, as far as they are known.
        missing: missing values by column, for tables.
        intensities: histogram of the images' mean brightness, 0 .. 1.
        thumbnails: pictures of some images, with what is annotated.
        targets: annotations by name.
    """

    summary: DatasetSummary
    patients_by_label: dict[str, int] = field(default_factory=dict)
    copies_within: int = 0
    copies_across: int = 0
    several_issuers: int = 0
    vendors: Counter[str] = field(default_factory=Counter)
    modalities: Counter[str] = field(default_factory=Counter)
    sexes: Counter[str] = field(default_factory=Counter)
    ages: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    spacings: Counter[str] = field(default_factory=Counter)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    declared: list[str] = field(default_factory=list)
    missing: Counter[str] = field(default_factory=Counter)
    intensities: list[int] = field(default_factory=lambda: [0] * HISTOGRAM_BINS)
    thumbnails: list[Thumbnail] = field(default_factory=list)
    targets: dict[str, TargetFindings] = field(default_factory=dict)

    @property
    def warnings(self) -> list[str]:
        """Warnings to look at before a job uses the data set."""
        found = []
        if self.unreadable:
            found.append(f"{len(self.unreadable)} registered samples can no longer be read.")
        if self.copies_across:
            found.append(
                f"{self.copies_across} images have the pixels of an image of another patient: one person may be "
                "registered as two, and privacy is counted per patient."
            )
        if self.several_issuers:
            found.append(
                f"{self.several_issuers} patient identifiers have several issuers (IssuerOfPatientID); each is one patient. "
                "If they are different persons, give them different identifiers and register the data again."
            )
        if self.copies_within:
            found.append(f"{self.copies_within} images are copies of an image of the same patient.")
        few = sorted(label for label, count in self.patients_by_label.items() if count < FEW_PATIENTS)
        if few and not self.measured:
            found.append(f"Labels of fewer than {FEW_PATIENTS} patients: {', '.join(few)}.")
        for name, target in self.targets.items():
            found += target.warnings(name)
        found += self.declared
        quarantined = sum(self.summary.quarantined.values())
        if quarantined:
            found.append(
                f"{quarantined} files could not be used: salus dataset refused SITE {self.summary.name} lists them."
            )
        return found

    @property
    def measured(self) -> bool:
        """Whether the labels are numbers that were measured, such as the volumes of masks."""
        return are_numbers(self.patients_by_label)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object; no image and no file name."""
        plain = {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}
        plain["summary"] = {name: value for name, value in asdict(self.summary).items() if name != "root"}
        del plain["thumbnails"]
        plain["targets"] = {name: target.to_json() for name, target in self.targets.items()}
        plain["unreadable"] = dict(Counter(reason for _, reason in self.unreadable))
        return {**plain, "warnings": self.warnings}


def check(catalogue: Catalogue, name: str, tell: Callable[[int, int], None] = lambda done, of: None) -> Readiness:
    """Read every registered image again and return what was found; unreadable images are recorded as a problem of the data set.

    Args:
        tell: called with the number of images read and the total.

    Raises:
        DataError: an unknown data set, or one whose folder no longer exists.
    """
    found = Readiness(catalogue.summary(name))
    _count(found, catalogue, name)
    found.declared = _declared(catalogue, name)
    source = catalogue.source(name)
    images = catalogue.images(name)
    facts = zip(images, catalogue.facts(name), strict=True)
    found.targets = findings((image.key, fact.targets) for image, fact in facts)
    worst = {key for target in found.targets.values() for _, key in target.worst}
    step = max(1, len(images) // THUMBNAILS)
    for number, image in enumerate(images):
        tell(number, len(images))
        try:
            sample = read_registered(source, image)
        except UnreadableImage as problem:
            found.unreadable.append((image.key, problem.reason))
            continue
        if sample.columns:
            found.missing.update(
                column for column, value in zip(sample.columns, sample.values, strict=True) if math.isnan(value)
            )
            continue
        place = min(int(_brightness(sample) * HISTOGRAM_BINS), HISTOGRAM_BINS - 1)
        found.intensities[max(place, 0)] += 1
        if image.key in worst:
            found.thumbnails.append(_thumbnail("reaches beyond the image", sample))
        elif number % step == 0 and len(found.thumbnails) < THUMBNAILS:
            found.thumbnails.append(_thumbnail(image.label, sample))
    if found.unreadable:
        catalogue.troubles.put(name, unreadable(dict(found.unreadable)))
    else:
        catalogue.troubles.clear(name)
    return found


def _thumbnail(caption: str, sample: Sample) -> Thumbnail:
    return Thumbnail(caption, pictured(sample) or thumbnail(sample), structures_of(sample))


def _brightness(sample: Sample) -> float:
    """Return the mean of an image's values, 0 .. 1, without padding unless there is nothing else."""
    if sample.padding is None or sample.padding.all():
        return float(sample.values.mean())
    return float(sample.values[~sample.padding].mean())


def _declared(catalogue: Catalogue, name: str) -> list[str]:
    """Return where the declaration and the data disagree."""
    declaration = catalogue.declarations.all()[name]
    if declaration is None:
        return ["The data set is not declared, so every job on it is refused: salus dataset declare."]
    proposal = catalogue.propose(name)
    strange = outside(proposal.labels, declaration) if "class" in declaration.annotations else {}
    lines = [f"Check the declaration: {text}." for text in differences(declaration, proposal)]
    if strange:
        listed = ", ".join(f"{label} ({count})" for label, count in sorted(strange.items())[:MAX_LISTED])
        lines.append(
            f"{sum(strange.values())} images have labels that are not declared, and no job uses them: {listed}."
        )
    return lines


def _count(found: Readiness, catalogue: Catalogue, name: str) -> None:
    people: dict[str, set[str]] = defaultdict(set)
    first: dict[str, str] = {}
    issuers: dict[str, set[str]] = defaultdict(set)
    for facts in catalogue.facts(name):
        if facts.label or not facts.targets:
            people[facts.label].add(facts.patient)
        if issuer := facts.info.get(ISSUER):
            issuers[facts.patient].add(issuer)
        if facts.pixel_sha256:
            owner = first.setdefault(facts.pixel_sha256, facts.patient)
            if owner != facts.patient:
                found.copies_across += 1
            else:
                found.copies_within += 1
        _describe(found, facts)
    found.several_issuers = sum(len(known) > 1 for known in issuers.values())
    found.copies_within -= len(first)  # the first of each is not a copy
    found.patients_by_label = {label: len(patients) for label, patients in sorted(people.items())}


def _describe(found: Readiness, facts: ImageFacts) -> None:
    info: Mapping[str, Any] = facts.info
    found.sexes[str(info.get("sex", UNKNOWN))] += 1
    years = info.get("age_years")
    found.ages[_decade(years) if isinstance(years, int) else UNKNOWN] += 1
    if "rows" not in info:
        return
    modality = str(info.get("modality", OTHER))
    found.vendors[str(info.get("vendor", OTHER))] += 1
    found.modalities[modality] += 1
    sides = [info.get("slices"), info["rows"], info.get("columns")]
    found.sizes[" x ".join(str(side) for side in sides if side)] += 1
    spacing = info.get("spacing_mm")
    found.spacings[" x ".join(f"{value:.3g}" for value in spacing) if spacing else "unknown"] += 1
    low, high = info.get("intensity_range", (math.inf, -math.inf))
    before = found.ranges.get(modality, (math.inf, -math.inf))
    found.ranges[modality] = (min(before[0], low), max(before[1], high))


def _decade(years: int) -> str:
    low = years // 10 * 10
    return f"{low} or more" if low >= OLDEST_YEARS else f"{low} to {low + 9}"


def thumbnail(sample: Sample) -> str:
    """Return a thumbnail as a ``data:`` URL; of a volume, its middle slice."""
    values = sample.values
    picture = values[:, values.shape[1] // 2] if values.ndim == 4 else values
    pixels = (np.clip(np.nan_to_num(picture), 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(np.moveaxis(pixels, 0, -1)) if pixels.shape[0] == 3 else Image.fromarray(pixels[0])
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
