"""A value measured under noise, with its standard error, and how it is printed."""

import math
from collections.abc import Mapping

from salus.common.strict import Strict

TOO_NOISY = 0.25  # two standard errors to either side then cover the whole range from 0 to 1
UNKNOWN = "too noisy to say"


class Estimate(Strict):
    """A quantity between 0 and 1 that was computed from noised sums.

    Args:
        value: the estimate, never clipped, so it may lie outside 0 .. 1; None if it cannot be computed.
        standard_error: standard error of `value`, from the noise and the random choice of patients together.
        noise_error: the part of it due to the noise alone.
    """

    value: float | None
    standard_error: float | None
    noise_error: float | None

    @property
    def too_noisy(self) -> bool:
        """Whether the estimate is useless: two standard errors to either side cover the whole range from 0 to 1."""
        return self.value is None or self.standard_error is None or self.standard_error > TOO_NOISY


NOTHING = Estimate(value=None, standard_error=None, noise_error=None)
Metric = float | Estimate
Metrics = Mapping[str, Metric]


def metric_text(metric: Metric) -> str:
    """Return a metric as text: ``0.953``, ``0.71 +- 0.20``, ``1.02 +- 0.03 (above 1: noise)``, ``too noisy to say``."""
    if not isinstance(metric, Estimate):
        return f"{metric:.3f}"
    if metric.too_noisy or metric.value is None or metric.standard_error is None:
        return UNKNOWN
    digits = 2 if metric.standard_error >= 0.01 else 3
    outside = " (above 1: noise)" if metric.value > 1 else " (below 0: noise)" if metric.value < 0 else ""
    return f"{metric.value:.{digits}f} +- {metric.standard_error:.{digits}f}{outside}"


def to_plain(metrics: Metrics) -> dict[str, object]:
    """Return metrics as they are written to events, cards and JSON; a number that is not finite is left out."""
    return {
        name: metric.model_dump(mode="json") if isinstance(metric, Estimate) else metric
        for name, metric in metrics.items()
        if isinstance(metric, Estimate) or math.isfinite(metric)
    }


def from_plain(values: object) -> dict[str, Metric]:
    """Return metrics that `to_plain` wrote; invalid metrics are left out, and unknown keys of newer versions are ignored."""
    found: dict[str, Metric] = {}
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, int | float):
            found[str(name)] = float(value)
        elif isinstance(value, Mapping) and {"value", "standard_error", "noise_error"} <= value.keys():
            found[str(name)] = Estimate(**{key: _number(value[key]) for key in Estimate.model_fields})
    return found


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
