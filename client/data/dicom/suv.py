"""Standardised uptake values of PET by body weight (SUVbw), where an image states what they are computed from.

    SUV = activity concentration [Bq/ml] * weight [g] / (injected dose [Bq] * 2 ** (-time / half-life))

The time is that from the injection to the moment to which the image is corrected for decay: the start of the series
(DecayCorrection START), or the injection itself (ADMIN). Source: QIBA, "SUV vendor-neutral pseudo-code" (qibawiki.rsna.org,
FDG-PET/CT), with DICOM PS3.3 C.8.9.1; Philips' images in counts carry the factor in the private element (7053,1000). A real world
value mapping with the unit ``{SUVbw}g/ml`` states the result itself; an import writes one, and drops weight, dose and times.
"""

import math
from datetime import datetime, timedelta

from pydicom.dataset import Dataset

from salus.client.data.dicom.numbers import items_of, number_of, rounded, safely, word_of, words_of
from salus.common.errors import UnreadableImage

UNIT = "{SUVbw}g/ml"
LEAST_BQ = 1e5  # a smaller dose was written in another unit, such as MBq
MOST_KG = 500.0
DAY = timedelta(days=1)
MAPPING, INFORMATION = "RealWorldValueMappingSequence", "RadiopharmaceuticalInformationSequence"


def no_suv(why: str) -> UnreadableImage:
    """Return the error for a PET image without what an SUV is computed from."""
    return UnreadableImage("no-suv", why)


def suv_factor(dataset: Dataset) -> float:
    """Return the number by which an image's values, rescaled, are multiplied to get SUVbw in g/ml.

    Raises:
        UnreadableImage: ``no-suv``, with the name of the element that is missing or does not fit.
    """
    if word_of(dataset, "Modality") != "PT":
        raise no_suv("Modality is not PT")
    stated = _mapped(dataset)
    if stated is not None:
        return stated
    units = word_of(dataset, "Units")
    if units == "GML":
        if word_of(dataset, "SUVType") not in ("", "BW"):
            raise no_suv("SUVType is not BW")
        return 1.0
    if units == "CNTS":
        factor = safely(lambda: float(dataset.private_block(0x7053, "Philips PET Private Group")[0x00].value), 0.0)
        if factor <= 0:
            raise no_suv("Units is CNTS, and there is no Philips factor (7053,1000)")
        return rounded(factor)
    if units != "BQML":
        raise no_suv(f"Units is {units if units.isalnum() else 'missing'}, not BQML, GML or CNTS")
    return _computed(dataset)


def suv_or_why(dataset: Dataset) -> tuple[float | None, str]:
    """Return the factor, or None and the reason why there is none."""
    try:
        return suv_factor(dataset), ""
    except UnreadableImage as problem:
        return None, problem.detail


def write_suv(clean: Dataset, dataset: Dataset) -> None:
    """Write into a de-identified PET image the mapping to SUVbw, if it can be computed; its values stay as they are."""
    try:
        factor = suv_factor(dataset)
    except UnreadableImage:
        return
    slope = float(clean.get("RescaleSlope", 1) or 1)
    intercept = float(clean.get("RescaleIntercept", 0) or 0)
    clean.RescaleSlope, clean.RescaleIntercept = (
        rounded(slope),
        rounded(intercept),
    )  # so that the mapping replaces nothing
    unit, mapping = Dataset(), Dataset()
    unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = (
        UNIT,
        "UCUM",
        "Standardized Uptake Value body weight",
    )
    mapping.MeasurementUnitsCodeSequence = [unit]
    mapping.RealWorldValueSlope = slope * factor
    mapping.RealWorldValueIntercept = intercept * factor
    clean.RealWorldValueMappingSequence = [mapping]


def _mapped(dataset: Dataset) -> float | None:
    for mapping in items_of(dataset, MAPPING):
        units = [str(safely(lambda unit=unit: unit.CodeValue, "")) for unit in items_of(mapping, "MeasurementUnitsCodeSequence")]  # type: ignore[misc]  # fmt: skip
        slope, own = number_of(mapping, "RealWorldValueSlope"), number_of(dataset, "RescaleSlope")
        if UNIT.lower() in (unit.lower() for unit in units) and slope and slope > 0:
            return rounded(slope / (own or 1.0))
    return None


def _computed(dataset: Dataset) -> float:
    corrected = words_of(dataset, "CorrectedImage")
    for word in ("ATTN", "DECY"):
        if word not in corrected:
            raise no_suv(f"CorrectedImage lacks {word}")
    weight = number_of(dataset, "PatientWeight")
    if not weight or not 0 < weight <= MOST_KG:
        raise no_suv("PatientWeight is missing or not a weight in kilograms")
    items = items_of(dataset, INFORMATION)
    if len(items) != 1:
        raise no_suv(f"{INFORMATION} has {len(items)} items, not one")
    dose, half_life = _large(items[0], "RadionuclideTotalDose"), _large(items[0], "RadionuclideHalfLife")
    if not dose or dose < LEAST_BQ:
        raise no_suv("RadionuclideTotalDose is missing or not in becquerel")
    if not half_life or half_life <= 0:
        raise no_suv("RadionuclideHalfLife is missing")
    correction = word_of(dataset, "DecayCorrection")
    if correction == "ADMIN":
        left = dose
    elif correction == "START":
        left = dose * 2.0 ** (-_waited(dataset, items[0]).total_seconds() / half_life)
    else:
        raise no_suv("DecayCorrection is neither START nor ADMIN")
    if left <= 0:
        raise no_suv("RadionuclideHalfLife is too short for the time of the scan")
    return rounded(1000.0 * weight / left)


def _large(item: Dataset, keyword: str) -> float | None:
    """Return a number that may be larger than those that describe pixels."""
    value = safely(lambda: float(item.get(keyword)), None)
    return value if value is not None and math.isfinite(value) else None


def _waited(dataset: Dataset, item: Dataset) -> timedelta:
    """Return the time from the injection to the start of the series."""
    start = _moment(dataset, "SeriesDate", "SeriesTime")
    acquired = _moment(dataset, "AcquisitionDate", "AcquisitionTime")
    if start is None or (acquired is not None and start > acquired):
        # A series that was made afterwards has a later time; devices state when the scan began elsewhere.
        raise no_suv("SeriesTime is missing, or later than AcquisitionTime")
    stated = _text(item, "RadiopharmaceuticalStartDateTime")
    whole = _parsed(stated[:14])
    if whole is not None:
        _check_zone(dataset, item, stated)
        waited = start - whole
    else:
        injected = _parsed(start.strftime("%Y%m%d") + _text(item, "RadiopharmaceuticalStartTime")[:6])
        if injected is None:
            raise no_suv("RadiopharmaceuticalStartDateTime and RadiopharmaceuticalStartTime are missing")
        waited = start - injected if start >= injected else start - injected + DAY  # injected before midnight
    if not timedelta(0) <= waited <= DAY:
        raise no_suv("RadiopharmaceuticalStartDateTime is not within a day before SeriesTime")
    return waited


def _check_zone(dataset: Dataset, item: Dataset, stated: str) -> None:
    """Raise UnreadableImage for an injection time in another zone than the series: an hour is 46 % of the activity of F-18."""
    zone = stated[-5:] if stated[-5:-4] in ("+", "-") else ""
    if not zone or zone == _text(dataset, "TimezoneOffsetFromUTC"):
        return
    if stated[8:14] != _text(item, "RadiopharmaceuticalStartTime")[:6]:  # which is in the zone of the series
        raise no_suv(
            "RadiopharmaceuticalStartDateTime is in another time zone than SeriesTime, or the zone is not stated"
        )


def _moment(dataset: Dataset, date: str, time: str) -> datetime | None:
    return _parsed(_text(dataset, date)[:8] + _text(dataset, time)[:6])


def _text(dataset: Dataset, keyword: str) -> str:
    return str(safely(lambda: dataset.get(keyword), "") or "").strip()


def _parsed(text: str) -> datetime | None:
    if not (text.isascii() and text.isdigit() and len(text) in (12, 14)):
        return None
    try:
        return datetime.strptime(text.ljust(14, "0"), "%Y%m%d%H%M%S")
    except ValueError:
        return None
