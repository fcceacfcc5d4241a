"""What may vary between images of one place: echo, b-value, time, phase, kind of picture; read from a header, kept by an import.

Standard elements are used; a diffusion weighting is also read from the private elements of Siemens, GE and Philips, and an import
writes it into the standard one (Chen, Burns: "dcm2niix", private attributes). A value that cannot be read is treated as absent:
it then cannot tell two images apart, and if nothing else does, they are refused.
"""

import hashlib
import hmac
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field
from pydicom.dataset import Dataset

from salus.client.data.dicom.numbers import numbers_of, safely
from salus.common.errors import DataError

Value = Annotated[float, Field(allow_inf_nan=False)] | Annotated[str, Field(max_length=80)]
Dimensions = Annotated[dict[Annotated[str, Field(pattern=r"^[a-z-]{1,20}$")], Value], Field(max_length=24)]
LARGEST, LARGEST_KEPT = 1e10, 1e7  # of a number as read, and of one that an import keeps
MAX_TEXT = 64
LONGEST = 1.1  # of a direction, a unit vector
GE_OFFSET = 1e9  # GE adds this to a b-value
# The elements of each numeric dimension, the first one present being used. Classic objects use the first keyword, frames of
# enhanced objects the others.
PROPERTIES = {
    "echo": ("EchoTime", "EffectiveEchoTime"),
    "echo-number": ("EchoNumbers",),
    "inversion-time": ("InversionTime",),
    "b-value": ("DiffusionBValue",),
    "flip-angle": ("FlipAngle",),
    "repetition-time": ("RepetitionTime",),
    "tube-voltage": ("KVP",),
    "thickness": ("SliceThickness",),
}
TIMES = {
    "time": ("TemporalPositionIdentifier", "TemporalPositionIndex"),
    "phase": ("NominalPercentageOfCardiacPhase",),
    "trigger-time": ("TriggerTime", "NominalCardiacTriggerDelayTime", "CardiacTriggerDelayTime"),
    "frame-time": ("FrameReferenceTime",),
    "acquisition": ("AcquisitionNumber", "FrameAcquisitionNumber"),
}
WORDS = ("kind", "direction", "kernel", "contrast")
NAMES = (*PROPERTIES, *WORDS, *TIMES)
KEPT = tuple(keyword for keywords in (PROPERTIES | TIMES).values() for keyword in keywords[:2])
NOTHING = {"", "NO", "NONE", "N/A", "WITHOUT"}  # what devices write where no contrast agent was given
KINDS = {
    "ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "M", "P", "R", "I", "M_FFE", "P_FFE", "R_FFE", "I_FFE", "M_SE", "R_IR", "M_IR",
    "MAGNITUDE", "PHASE", "PHASE MAP", "REAL", "IMAGINARY", "MIXED", "IN_PHASE", "OUT_PHASE", "IP", "OP", "W", "F", "WATER",
    "FAT", "FAT_FRACTION", "T1", "T2", "T2_STAR", "T1_MAP", "T2_MAP", "PD", "ADC", "TRACE", "TRACEW", "FA", "ISOTROPIC",
    "DIFFUSION", "VELOCITY", "VELOCITY_MAP", "PCA", "MIP", "MINIP", "AVERAGE", "SUBTRACTION", "AXIAL", "LOCALIZER", "MPR", "NORM",
    "OTHER", "PERFUSION", "CBF", "CBV", "MTT", "TTP", "TMAX", "RCBV", "RCBF", "STATIC", "DYNAMIC", "GATED", "TOMO", "RECON TOMO",
    "EMISSION", "TRANSMISSION", "ATTENUATION", "UNIFORMITY", "VOLUME", "ENERGY_PROP_WT", "VMI", "MAT_SPECIFIC", "IODINE", "VNC",
    "T2 MAP", "T1 MAP", "WHOLE BODY", "REFORMATTED", "CSA MPR", "CSA 3D EDITOR", "FIELD_MAP", "SWI", "FLOW_ENCODED",
}  # fmt: skip

PRIVATE_GROUPS = {0x0019, 0x0043, 0x2001, 0x2005}  # of the elements that vendors use for diffusion


def dimensions_of(*parts: Dataset) -> dict[str, float | str]:
    """Return the dimensions of one image, by name.

    Args:
        parts: where an element may be, the most specific first: for a frame of an enhanced object the items of its own and of the
            shared functional groups, then the object itself.
    """
    found: dict[str, float | str] = {}
    for name, keywords in (PROPERTIES | TIMES).items():
        value = next((number for keyword in keywords for part in parts for number in _standard(part, keyword)), None)
        if value is not None:
            found[name] = value
    weighting, direction = _diffusion(parts)
    if weighting is not None:
        found["b-value"] = weighting
    words = [word for word in _words(_first(parts, "FrameType") or _first(parts, "ImageType")) if word in KINDS]
    component = [word for word in _words(_first(parts, "ComplexImageComponent")) if word in KINDS]
    texts = {
        "kind": "/".join(dict.fromkeys([*words, *component]))[:MAX_TEXT],
        "direction": direction,
        "kernel": "/".join(_words(_first(parts, "ConvolutionKernel")))[:MAX_TEXT],
        "contrast": "" if "/".join(_words(_first(parts, "ContrastBolusAgent"))) in NOTHING else "yes",
    }
    return found | {name: text for name, text in texts.items() if text}


def keep_dimensions(clean: Dataset, dataset: Dataset, secret: bytes) -> None:
    """Write into a de-identified image what tells its place's images apart, as `dimensions_of` reads it.

    Numbers are written again, words come from a fixed list, and a reconstruction kernel, which is free text, becomes a token
    under the site's secret: equal kernels stay equal.
    """
    for keyword in KEPT:
        value = next(iter(_standard(dataset, keyword)), None)
        if value is not None and keyword not in clean and abs(value) <= LARGEST_KEPT:
            setattr(clean, keyword, int(value) if value == int(value) else value)
    found = dimensions_of(dataset)
    if "b-value" in found:
        clean.DiffusionBValue = float(found["b-value"])
    if "direction" in found:
        clean.DiffusionGradientOrientation = [float(part) for part in str(found["direction"]).split(",")]
    if "kernel" in found:
        digest = hmac.new(secret, b"kernel\0" + str(found["kernel"]).encode(), hashlib.sha256)
        clean.ConvolutionKernel = f"K{digest.hexdigest()[:12].upper()}"
    if "contrast" in found:
        clean.ContrastBolusAgent = "YES"
    component = [word for word in _words(dataset.get("ComplexImageComponent")) if word in KINDS]
    if component:
        clean.ComplexImageComponent = component[0]


def checked_name(name: str) -> str:
    """Return the name of a dimension, or nothing; raises DataError for a word that names none."""
    if name and name not in NAMES:
        raise DataError(f"Expected one of {', '.join(NAMES)}, got {name!r}.", remedy="Correct --channels.")
    return name


def _first(parts: Sequence[Dataset], keyword: str) -> Any:
    return next((value for part in parts if (value := _get(part, keyword)) not in (None, "")), None)


def _get(part: Dataset, keyword: str) -> Any:
    return safely(lambda: part.get(keyword), None)


def _standard(part: Dataset, keyword: str) -> tuple[float, ...]:
    """Return the numbers of a standard element as `numbers` understands them; none for what it does not understand."""
    found: tuple[float, ...] = safely(lambda: numbers_of(part, keyword), ())
    return found if all(abs(number) <= LARGEST for number in found) else ()


def _numbers(value: Any) -> Iterator[float]:
    """Yield the numbers of an element up to the first that is not one."""
    several = value is not None and hasattr(value, "__iter__") and not isinstance(value, str | bytes)
    for part in list(value)[:8] if several else [value]:
        try:
            number = float(part)
        except (TypeError, ValueError):
            return
        if not math.isfinite(number) or abs(number) > LARGEST:
            return
        yield number


def _words(value: Any) -> list[str]:
    if value is None:
        return []
    several = [value] if isinstance(value, str) else list(value)[:16] if hasattr(value, "__iter__") else [value]
    return ["".join(c for c in str(word).strip().upper() if c.isprintable())[:MAX_TEXT] for word in several]


def _diffusion(parts: Sequence[Dataset]) -> tuple[float | None, str]:
    """Return the b-value in s/mm2 and the direction ``x,y,z``; empty for none, or for an image that is not weighted."""
    weightings: list[Any] = []
    directions: list[Any] = []
    for part in parts:
        nested = _get(part, "DiffusionGradientDirectionSequence") or [part]
        private = not PRIVATE_GROUPS.isdisjoint(tag >> 16 for tag in tuple(part.keys()))  # looking for each takes long
        weightings += [_standard(part, "DiffusionBValue"), *(_private_weightings(part) if private else ())]
        directions += [_get(nested[0], "DiffusionGradientOrientation"), *(_private_directions(part) if private else ())]
    weighting = next((number for value in weightings for number in _numbers(value)), -1.0)
    if weighting < 0:
        return None, ""
    axis: list[float] = next((found for value in directions if len(found := list(_numbers(value))) == 3), [])
    if not weighting or not any(axis) or max(map(abs, axis)) > LONGEST:
        return weighting, ""
    return weighting, ",".join(f"{part:.3f}" for part in axis)


def _private_weightings(part: Dataset) -> list[Any]:
    found = [
        _private(part, 0x0019, "SIEMENS MR HEADER", 0x0C),
        _private(part, 0x2001, "Philips Imaging DD 001", 0x03),
    ]
    ge = next(_numbers(_private(part, 0x0043, "GEMS_PARM_01", 0x39)), None)
    return found if ge is None else [*found, ge % GE_OFFSET]


def _private_directions(part: Dataset) -> list[Any]:
    return [
        _private(part, 0x0019, "SIEMENS MR HEADER", 0x0E),
        [_private(part, 0x2005, "Philips MR Imaging DD 001", element) for element in (0xB0, 0xB1, 0xB2)],
        [_private(part, 0x0019, "GEMS_ACQU_01", element) for element in (0xBB, 0xBC, 0xBD)],
    ]


def _private(part: Dataset, group: int, creator: str, element: int) -> Any:
    """Return a private element's value; None where it is absent."""
    try:
        value = part.private_block(group, creator)[element].value
        return value.decode("ascii").strip("\0 ").split("\\") if isinstance(value, bytes) else value
    except Exception:  # as in `_get`
        return None
