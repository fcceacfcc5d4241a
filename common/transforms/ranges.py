"""Ranges of grey values that do not fit pictures: in a range from 0 to 255, a picture with values from 0 to 1 is flat."""

from salus.common.transforms.chain import Chain

LEAST_SHARE = 0.05  # of a range; with less, a picture has but a few of 256 grey values
REMEDY = "Write the range of values from 0 to 1, such as low = 0 and high = 1 (intensity_low and intensity_high)."


def flat_step(chain: Chain) -> str:
    """Return which range of a chain makes images with values from 0 to 1 flat, as the beginning of a sentence; or nothing.

    Only the first step with a scale counts: it decides what the later ones get.
    """
    for place, (kind, step) in enumerate(zip(chain.kinds, chain.steps, strict=True)):
        if step.rescales:
            return ""
        found = step.grey_range
        if found is not None:
            return flat_words(f"transforms[{place}] {kind}", *found)
    return ""


def flat_words(name: str, low: float, high: float) -> str:
    """Return that something takes grey values from a range, if values from 0 to 1 are flat in it; or nothing."""
    shared = min(high, 1.0) - max(low, 0.0)
    if shared > LEAST_SHARE * (high - low):
        return ""
    return f"{name}: the grey values are taken from {low:g} to {high:g}"
