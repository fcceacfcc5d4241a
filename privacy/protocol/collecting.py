"""What the coordinators of both secure sums share: the record, the checks of counts and signatures, and the consents."""

from collections.abc import Collection, Mapping

from salus.common.errors import ProtectionError
from salus.privacy.contribution import Shape, Sum
from salus.privacy.protocol.head import open_head
from salus.privacy.protocol.keys import agree, private_key
from salus.privacy.protocol.parameters import thresholds
from salus.privacy.protocol.session import Session
from salus.privacy.protocol.signed import check_signed
from salus.privacy.protocol.tables import SIGNATURE_BYTES, write_table
from salus.privacy.protocol.transcript import Recorder

LEFT_OUT = "It is left out of this round."
_ANY = private_key(bytes(range(1, 33)))  # any one agrees on zeros with a key of low order


class Collecting:
    """The coordinator's part of a session that does not depend on how the vectors are protected.

    Args:
        keys: Ed25519 public keys of the roster, by site id.
        record: takes every step of the transcript.
        noised: whether the vectors have differential privacy; then consents include ledger heads.
    """

    def __init__(
        self, session: Session, shape: Shape, keys: Mapping[int, bytes], record: Recorder, *, noised: bool
    ) -> None:
        self._session, self._shape, self._keys, self._record, self._noised = session, shape, keys, record, noised
        self._limits = thresholds(len(session.roster), noised=noised)
        self._consents: dict[int, bytes] = {}
        self._result: Sum | None = None
        record("session", session=session.id.hex(), job=session.job_id, round=session.round, attempt=session.attempt,
               manifest=session.manifest_hash.hex(), model=session.model_hash.hex(), roster=sorted(session.roster),
               parameters=shape.parameters, statistics=shape.statistics)  # fmt: skip

    @property
    def result(self) -> Sum:
        """The sum, after `close` has returned None."""
        if self._result is None:
            raise ProtectionError("The sum is not known yet.", remedy="Close every step first.")
        return self._result

    def _take_consent(self, site: int, reply: bytes, survivors: Collection[int], covered: bytes) -> None:
        """Accept one site's consent to a sum over `survivors`; `covered` is what its signature must cover."""
        if site not in survivors:
            raise ProtectionError(f"Site {site} is not among the survivors.", remedy=LEFT_OUT)
        signature, head = reply[:SIGNATURE_BYTES], reply[SIGNATURE_BYTES:]
        self._verify(site, signature, covered, "consent", "it is forged or for other survivors")
        if self._noised:
            open_head(head, self._keys[site], self._session.id, site)
        elif head:
            raise ProtectionError(f"Site {site} sent more than a consent.", remedy=LEFT_OUT)
        self._consents[site] = reply
        self._record("consent", site=site, signature=signature.hex(), **({"ledger": head.hex()} if head else {}))

    def _enough_consents(self) -> bytes:
        """Return all consents as a table; raises ProtectionError if they are too few."""
        self._need(len(self._consents), self._limits.threshold, "consents")
        return write_table(self._consents)

    def _verify(self, site: int, signature: bytes, statement: bytes, what: str, why: str) -> None:
        check_signed(self._keys[site], signature, statement, site=site, what=what, why=why, remedy=LEFT_OUT)

    def _need(self, count: int, needed: int, what: str) -> None:
        if count < needed:
            raise ProtectionError(
                f"Expected {what} from at least {needed} sites, got {count}; nothing was opened.",
                remedy="Start a new attempt.",
            )


def check_order(public: bytes, site: int) -> None:
    """Raise ProtectionError, naming the site, for an X25519 public key of low order, whose agreements are all known."""
    agree(_ANY, public, who=f"site {site}")
