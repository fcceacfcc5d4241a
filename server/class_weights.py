"""Class weights of a training job from the label counts of statistics: constants that every site uses alike.

They come from counts over all sites that were themselves protected and, with noise, charged to the patients' budget, so a
site never weighs by its own counts. Each class's weight is the inverse of its share, scaled so that the mean over all items
is 1 (as "balanced" in scikit-learn).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import tomli_w

from salus.common.errors import JobError

CERTAIN = 3.0  # a noised count must be this many standard deviations above zero
LARGEST_WEIGHT = 1e4
REMEDY = "Measure more data or with less noise, merge the class with another, or set class_weights by hand."


def weights_section(classes: Sequence[str], result: Mapping[str, Any]) -> str:
    """Return the key ``class_weights`` of a training job's section ``[task]``, as TOML.

    The keys ``class_counts`` and ``class_shares`` of other losses follow as comments.

    Args:
        classes: of the statistics job; a training job lists the same ones in the same order.
        result: of statistics of the kind `summary`.

    Raises:
        JobError: no counts of labels, or a class that was suppressed or is too noisy to say.
    """
    labels = result.get("blocks", {}).get("labels")
    if not labels:
        raise JobError(
            "Expected counts of labels in the statistics, found none.", remedy='Use statistics of kind = "summary".'
        )
    counts = [float(labels.get(name, 0.0)) for name in classes]
    least = max(1.0, CERTAIN * float(result.get("noise_sd") or 0.0))
    rare = [name for name, count in zip(classes, counts, strict=True) if count < least]
    if rare:
        raise JobError(f"The class {rare[0]!r} has too few items to know its share.", remedy=REMEDY)
    weights = [round(sum(counts) / (len(counts) * count), 4) for count in counts]
    if max(weights) > LARGEST_WEIGHT:
        raise JobError(f"A class is so rare that its weight would exceed {LARGEST_WEIGHT:g}.", remedy=REMEDY)
    total = sum(counts)
    others = {
        "class_counts": [round(count, 1) for count in counts],
        "class_shares": [round(count / total, 6) for count in counts],
    }
    # Only some losses know these keys, so they are comments.
    comments = "".join(f"# {key} = {values}\n" for key, values in others.items())
    return tomli_w.dumps({"task": {"class_weights": weights}}) + comments
