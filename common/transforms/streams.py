"""Where the random steps of a chain get their numbers."""

import hashlib
import hmac

import numpy as np

from salus.common.canonical import canonical_json
from salus.common.transforms.base import Draw

STREAM = b"salus/augmentation/1"


def stream(secret: bytes, *parts: str | int) -> Draw:
    """Return the generator of one use of one image.

    Args:
        secret: of the site, so that nobody else can repeat the draws.
        parts: whatever distinguishes this use: job, image, copy, round or epoch.

    Guarantees: equal parts give equal draws on every machine; other parts give independent ones, as far as HMAC-SHA256 is a
    pseudo-random function.
    """
    digest = hmac.new(secret, STREAM + b"\0" + canonical_json(list(parts)), hashlib.sha256).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest)))
