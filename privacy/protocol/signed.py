"""The check of a signature in a session, with an error that names the site."""

from salus.common.errors import IdentityError, ProtectionError
from salus.common.identity import verify_raw
from salus.privacy.protocol.tables import REMEDY


def check_signed(
    key: bytes, signature: bytes, statement: bytes, *, site: int, what: str, why: str, remedy: str = REMEDY
) -> None:
    """Raise ProtectionError unless the site signed the statement.

    Args:
        key: Ed25519 public key of the site.
        what: what was signed, such as ``consent``, for the message.
        why: what the cause can be, for the message.
    """
    try:
        verify_raw(key, signature, statement, what=what, who=f"site {site}")
    except IdentityError:
        raise ProtectionError(f"The {what} of site {site} does not verify: {why}.", remedy=remedy) from None
