"""The coordinator's side of the masked sum, sans-IO: replies in, requests out, and at the end the sum.

    ADVERTISING ──close──> SHARING ──close──> MASKING ──close──> CONSENTING ──close──> UNMASKING ──close──> DONE
     `close` with too few usable replies ──> ABANDONED: nothing has been unmasked

Each masked vector is added as it arrives and freed; memory does not grow with the number of sites.
"""

import hashlib
from collections.abc import Callable, Mapping
from enum import Enum

import numpy as np

from salus.common.errors import IdentityError, ProtectionError
from salus.common.identity import verify_raw
from salus.privacy.contribution import Shape, Sum
from salus.privacy.masking.keys import pair_mask_key, self_mask_key
from salus.privacy.masking.messages import BOX_BYTES, SIGNATURE_BYTES, Advert, consent_statement, masked_statement
from salus.privacy.masking.shamir import SHARE_BYTES, combine
from salus.privacy.prg import Mask, Words, add_masks
from salus.privacy.protocol.encoding import FixedPoint, decode
from salus.privacy.protocol.head import open_head
from salus.privacy.protocol.keys import agree, public_of
from salus.privacy.protocol.parameters import thresholds
from salus.privacy.protocol.session import Session, ids
from salus.privacy.protocol.tables import read_table, write_ids, write_table
from salus.privacy.protocol.transcript import Recorder

LEFT_OUT = "It is left out of this round."


class Step(Enum):
    """Which replies the coordinator is collecting; drawn in the module's docstring."""

    ADVERTISING = 1
    SHARING = 2
    MASKING = 3
    CONSENTING = 4
    UNMASKING = 5
    DONE = 6
    ABANDONED = 7


class MaskingCoordinator:
    """The coordinator in one session.

    Args:
        keys: Ed25519 public keys of the roster, by site id.
        record: takes every step of the transcript.
        noised: whether the vectors have differential privacy; then consents include ledger heads.
    """

    def __init__(
        self,
        session: Session,
        shape: Shape,
        encoding: FixedPoint,
        keys: Mapping[int, bytes],
        record: Recorder,
        *,
        noised: bool = False,
    ) -> None:
        self._noised = noised
        self._session, self._shape, self._encoding, self._keys = session, shape, encoding, keys
        self._limits = thresholds(len(session.roster), noised=noised)
        self._record = record
        self._step = Step.ADVERTISING
        self._adverts: dict[int, Advert] = {}
        self._boxes: dict[int, dict[int, bytes]] = {}
        self._sum: Words = np.zeros(shape.length, dtype=np.uint32)
        self._survivors: set[int] = set()
        self._consents: dict[int, bytes] = {}
        self._seed_shares: dict[int, dict[int, bytes]] = {}
        self._mask_shares: dict[int, dict[int, bytes]] = {}
        self._result: Sum | None = None
        self._receivers: dict[Step, Callable[[int, bytes], None]] = {
            Step.ADVERTISING: self._take_advert,
            Step.SHARING: self._take_boxes,
            Step.MASKING: self._take_masked,
            Step.CONSENTING: self._take_consent,
            Step.UNMASKING: self._take_shares,
        }
        record("session", session=session.id.hex(), job=session.job_id, round=session.round, attempt=session.attempt,
               manifest=session.manifest_hash.hex(), model=session.model_hash.hex(), roster=sorted(session.roster),
               parameters=shape.parameters, statistics=shape.statistics)  # fmt: skip

    @property
    def step(self) -> Step:
        """Which replies are being collected."""
        return self._step

    @property
    def result(self) -> Sum:
        """The sum, after `close` has returned None."""
        if self._result is None:
            raise ProtectionError("The sum is not known yet.", remedy="Close every step first.")
        return self._result

    def receive(self, site: int, reply: bytes) -> None:
        """Accept one site's reply to the current step; raises ProtectionError, naming the site and the check."""
        receiver = self._receivers.get(self._step)
        if receiver is None or site not in self._keys:
            raise ProtectionError(f"Expected no reply from site {site} now.", remedy=LEFT_OUT)
        receiver(site, reply)

    def close(self) -> Mapping[int, bytes] | None:
        """End the current step with the sites that have answered; see `CoordinatorEnd.close`."""
        closers: dict[Step, Callable[[], Mapping[int, bytes] | None]] = {
            Step.ADVERTISING: self._ask_shares,
            Step.SHARING: self._ask_masked,
            Step.MASKING: self._ask_consent,
            Step.CONSENTING: self._ask_unmask,
            Step.UNMASKING: self._finish,
        }
        closer = closers.get(self._step)
        if closer is None:
            raise ProtectionError("The session has ended.", remedy="Start a new attempt.")
        try:
            requests = closer()
        except ProtectionError:
            self._step = Step.ABANDONED
            self._sum = np.zeros(0, dtype=np.uint32)
            raise
        self._step = Step(self._step.value + 1)
        return requests

    # 1. advertise

    def _take_advert(self, site: int, reply: bytes) -> None:
        advert = Advert.from_bytes(reply)
        statement = advert.statement(self._session.id, site)
        self._verify(
            site, advert.signature, statement, "advert", "it is forged, or this site received another model or job"
        )
        agree(bytes(range(1, 33)), advert.channel, who=f"site {site}")  # raises for keys of low order
        agree(bytes(range(1, 33)), advert.mask, who=f"site {site}")
        others = {key for owner, known in self._adverts.items() if owner != site for key in (known.channel, known.mask)}
        if advert.channel in others or advert.mask in others or advert.channel == advert.mask:
            raise ProtectionError(f"Site {site} advertised a key that is already in use.", remedy=LEFT_OUT)
        if self._adverts.setdefault(site, advert) != advert:
            raise ProtectionError(f"Site {site} advertised twice.", remedy=LEFT_OUT)
        self._record(
            "advert", site=site, channel=advert.channel.hex(), mask=advert.mask.hex(), signature=advert.signature.hex()
        )

    def _ask_shares(self) -> Mapping[int, bytes]:
        self._need(len(self._adverts), self._limits.needed, "adverts")
        request = write_table({site: advert.to_bytes() for site, advert in self._adverts.items()})
        return dict.fromkeys(self._adverts, request)

    # 2. share

    def _take_boxes(self, site: int, reply: bytes) -> None:
        boxes = read_table(reply, BOX_BYTES, f"the shares of site {site}")
        if site not in self._adverts or set(boxes) != set(self._adverts) - {site}:
            raise ProtectionError(f"Site {site} did not send one share for every other site.", remedy=LEFT_OUT)
        self._boxes.setdefault(site, boxes)

    def _ask_masked(self) -> Mapping[int, bytes]:
        self._need(len(self._boxes), self._limits.needed, "shares")
        self._shared = frozenset(self._boxes)
        self._record("shared", sites=sorted(self._shared))
        requests = {
            site: write_table({peer: boxes[site] for peer, boxes in self._boxes.items() if peer != site})
            for site in self._shared
        }
        self._boxes = {}
        return requests

    # 3. masked

    def _take_masked(self, site: int, reply: bytes) -> None:
        signature, data = reply[:SIGNATURE_BYTES], memoryview(reply)[SIGNATURE_BYTES:]
        if site not in self._shared or site in self._survivors or len(data) != 4 * self._shape.length:
            raise ProtectionError(
                f"Expected one masked vector of {self._shape.length} words from site {site}.", remedy=LEFT_OUT
            )
        digest = hashlib.sha256(data).digest()
        statement = masked_statement(self._session.id, site, ids(self._shared), digest)
        self._verify(site, signature, statement, "masked vector", "it is forged, or this site was shown other peers")
        self._sum += np.frombuffer(data, dtype="<u4")  # added and freed; only the sum is kept
        self._survivors.add(site)
        self._record("masked", site=site, sha256=digest.hex(), signature=signature.hex())

    def _ask_consent(self) -> Mapping[int, bytes]:
        self._need(len(self._survivors), self._limits.needed, "masked vectors")
        self._record("survivors", sites=sorted(self._survivors))
        return dict.fromkeys(self._survivors, write_ids(self._survivors))

    # 4. consent

    def _take_consent(self, site: int, reply: bytes) -> None:
        if site not in self._survivors:
            raise ProtectionError(f"Site {site} is not among the survivors.", remedy=LEFT_OUT)
        statement = consent_statement(self._session.id, ids(self._survivors))
        signature, head = reply[:SIGNATURE_BYTES], reply[SIGNATURE_BYTES:]
        self._verify(site, signature, statement, "consent", "it is forged or for other survivors")
        if self._noised:
            open_head(head, self._keys[site], self._session.id, site)
        elif head:
            raise ProtectionError(f"Site {site} sent more than a consent.", remedy=LEFT_OUT)
        self._consents[site] = reply
        self._record("consent", site=site, signature=signature.hex(), **({"ledger": head.hex()} if head else {}))

    def _ask_unmask(self) -> Mapping[int, bytes]:
        self._need(len(self._consents), self._limits.threshold, "consents")
        # Every survivor that consented can answer; the others' shares are not needed beyond t.
        return dict.fromkeys(self._consents, write_table(self._consents))

    # 5. unmask

    def _take_shares(self, site: int, reply: bytes) -> None:
        survivors, dropped = sorted(self._survivors), sorted(self._shared - self._survivors)
        if site not in self._consents or len(reply) != SHARE_BYTES * (len(survivors) + len(dropped)):
            raise ProtectionError(f"Site {site} did not send one share for every site.", remedy=LEFT_OUT)
        pieces = [reply[start : start + SHARE_BYTES] for start in range(0, len(reply), SHARE_BYTES)]
        for owner, piece in zip(survivors, pieces, strict=False):
            self._seed_shares.setdefault(owner, {})[site] = piece
        for owner, piece in zip(dropped, pieces[len(survivors) :], strict=True):
            self._mask_shares.setdefault(owner, {})[site] = piece

    def _finish(self) -> None:
        answered = len(next(iter(self._seed_shares.values()), {}))
        self._need(answered, self._limits.threshold, "answers to unmask")
        session = self._session.id
        masks = [
            Mask(self_mask_key(session, self._seed_of(site), site), minus=True) for site in sorted(self._survivors)
        ]
        for dropped in sorted(self._shared - self._survivors):
            private = self._mask_key_of(dropped)
            for site in sorted(self._survivors):
                key = pair_mask_key(session, private, self._adverts[site].mask, dropped, site)
                # Survivor `site` added this mask if its id is smaller; take the same sign away again.
                masks.append(Mask(key, minus=site < dropped))
        add_masks(self._sum, masks)
        vector = decode(self._sum, self._encoding)
        self._record("sum", sites=sorted(self._survivors), sha256=hashlib.sha256(self._sum.tobytes()).hexdigest())
        self._sum = np.zeros(0, dtype=np.uint32)
        self._result = Sum(vector, tuple(sorted(self._survivors)))

    def _seed_of(self, site: int) -> bytes:
        """Return a survivor's seed. No public value commits to it, so only shares beyond the threshold can reveal a wrong one."""
        shares, threshold = self._seed_shares[site], self._limits.threshold
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

    def _mask_key_of(self, site: int) -> bytes:
        """Return a dropped site's mask key; raises ProtectionError naming the site whose share is wrong."""
        shares, threshold = self._mask_shares[site], self._limits.threshold
        wanted = self._adverts[site].mask
        if _opens(shares, threshold, wanted):
            return combine(shares, threshold)
        for suspect in sorted(shares):  # without the wrong share, the others must reconstruct the key
            rest = {holder: share for holder, share in shares.items() if holder != suspect}
            if len(rest) >= threshold and _opens(rest, threshold, wanted):
                self._record("wrong-share", site=suspect, of=site)
                return combine(rest, threshold)
        raise ProtectionError(
            f"The shares of site {site}'s mask key do not give its advertised key; one of {sorted(shares)} sent a wrong one.",
            remedy="Start a new attempt.",
        )

    def _verify(self, site: int, signature: bytes, statement: bytes, what: str, why: str) -> None:
        try:
            verify_raw(self._keys[site], signature, statement, what=what, who=f"site {site}")
        except IdentityError:
            raise ProtectionError(f"The {what} of site {site} does not verify: {why}.", remedy=LEFT_OUT) from None

    def _need(self, count: int, needed: int, what: str) -> None:
        if count < needed:
            raise ProtectionError(
                f"Expected {what} from at least {needed} sites, got {count}; nothing was unmasked.",
                remedy="Start a new attempt.",
            )


def _opens(shares: Mapping[int, bytes], threshold: int, public: bytes) -> bool:
    try:
        return public_of(combine(shares, threshold)) == public
    except ProtectionError:
        return False
