"""Secrets from the sites' shares, with the checks that a wrong share does not pass unnoticed."""

from collections.abc import Mapping

from salus.common.errors import ProtectionError
from salus.privacy.masking.shamir import combine
from salus.privacy.protocol.keys import public_of


def seed_of(site: int, shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return a survivor's seed. No public value commits to it, so only shares beyond the threshold can reveal a wrong one.

    Args:
        shares: of the seed, by the site that held each.

    Raises:
        ProtectionError: the shares contradict each other; the message names the sites that hold them.
    """
    last = {holder: shares[holder] for holder in sorted(shares)[-threshold:]}
    try:
        seed = combine(shares, threshold)
        agreed = combine(last, threshold) == seed
    except ProtectionError:
        agreed = False
    if not agreed:
        raise ProtectionError(
            f"The shares of site {site}'s seed contradict each other; a site among {sorted(shares)} sent a wrong one.",
            remedy="Start a new attempt.",
        )
    return seed


def mask_key_of(site: int, shares: Mapping[int, bytes], threshold: int, wanted: bytes) -> tuple[bytes, int | None]:
    """Return a dropped site's mask key, and the site whose share was wrong, or None.

    Args:
        shares: of the key, by the site that held each.
        wanted: the public key that the dropped site advertised.

    Raises:
        ProtectionError: the shares do not give the advertised key, even without any one of them.
    """
    if _opens(shares, threshold, wanted):
        return combine(shares, threshold), None
    for suspect in sorted(shares):  # without the wrong share, the others must reconstruct the key
        rest = {holder: share for holder, share in shares.items() if holder != suspect}
        if len(rest) >= threshold and _opens(rest, threshold, wanted):
            return combine(rest, threshold), suspect
    raise ProtectionError(
        f"The shares of site {site}'s mask key do not give its advertised key; one of {sorted(shares)} sent a wrong one.",
        remedy="Start a new attempt.",
    )


def _opens(shares: Mapping[int, bytes], threshold: int, public: bytes) -> bool:
    try:
        return public_of(combine(shares, threshold)) == public
    except ProtectionError:
        return False
