"""The coordinator's side of the masked sum, sans-IO: replies in, requests out, and at the end the sum.

    ADVERTISING ──close──> SHARING ──close──> MASKING ──close──> CONSENTING ──close──> UNMASKING ──close──> DONE
     `close` with too few usable replies ──> ABANDONED: nothing has been unmasked

Each masked vector is added as it arrives and freed; memory does not grow with the number of sites.
"""

import hashlib
from collections.abc import Callable, Mapping
from enum import Enum

import numpy as np

from salus.common.errors import ProtectionError
from salus.privacy.contribution import Shape, Sum
from salus.privacy.masking.keys import pair_mask_key, self_mask_key
from salus.privacy.masking.messages import BOX_BYTES, Advert, consent_statement, masked_statement
from salus.privacy.masking.recovery import mask_key_of, seed_of
from salus.privacy.masking.shamir import SHARE_BYTES
from salus.privacy.prg import Mask, Words, add_masks
from salus.privacy.protocol.collecting import LEFT_OUT, Collecting, check_order
from salus.privacy.protocol.encoding import FixedPoint, decode
from salus.privacy.protocol.keys import private_key
from salus.privacy.protocol.session import Session, ids
from salus.privacy.protocol.tables import SIGNATURE_BYTES, read_table, write_ids, write_table
from salus.privacy.protocol.transcript import Recorder


class Step(Enum):
    """Which replies the coordinator is collecting; drawn in the module's docstring."""

    ADVERTISING = 1
    SHARING = 2
    MASKING = 3
    CONSENTING = 4
    UNMASKING = 5
    DONE = 6
    ABANDONED = 7


class MaskingCoordinator(Collecting):
    """The coordinator in one session; arguments as in `Collecting`."""

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
        super().__init__(session, shape, keys, record, noised=noised)
        self._encoding = encoding
        self._step = Step.ADVERTISING
        self._adverts: dict[int, Advert] = {}
        self._boxes: dict[int, dict[int, bytes]] = {}
        self._sum: Words = np.zeros(shape.length, dtype=np.uint32)
        self._survivors: set[int] = set()
        self._seed_shares: dict[int, dict[int, bytes]] = {}
        self._mask_shares: dict[int, dict[int, bytes]] = {}
        self._receivers: dict[Step, Callable[[int, bytes], None]] = {
            Step.ADVERTISING: self._take_advert,
            Step.SHARING: self._take_boxes,
            Step.MASKING: self._take_masked,
            Step.CONSENTING: self._take_consent_of,
            Step.UNMASKING: self._take_shares,
        }

    @property
    def step(self) -> Step:
        """Which replies are being collected."""
        return self._step

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
        check_order(advert.channel, site)
        check_order(advert.mask, site)
        others = {key for owner, known in self._adverts.items() if owner != site for key in (known.channel, known.mask)}
        if advert.channel in others or advert.mask in others or advert.channel == advert.mask:
            raise ProtectionError(f"Site {site} advertised a key that is already in use.", remedy=LEFT_OUT)
        if self._adverts.setdefault(site, advert) != advert:
            raise ProtectionError(f"Site {site} advertised twice.", remedy=LEFT_OUT)
        self._record(
            "advert", site=site, channel=advert.channel.hex(), mask=advert.mask.hex(), signature=advert.signature.hex()
        )

    def _ask_shares(self) -> Mapping[int, bytes]:
        self._need(len(self._adverts), self._limits.needed, "the first messages of the sum")
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

    def _take_consent_of(self, site: int, reply: bytes) -> None:
        self._take_consent(site, reply, self._survivors, consent_statement(self._session.id, ids(self._survivors)))

    def _ask_unmask(self) -> Mapping[int, bytes]:
        # Every survivor that consented can answer; the others' shares are not needed beyond t.
        return dict.fromkeys(self._consents, self._enough_consents())

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
        survivors = sorted(self._survivors)
        add_masks(self._sum, [*self._self_masks(survivors), *self._pair_masks(survivors)])
        vector = decode(self._sum, self._encoding)
        self._record("sum", sites=survivors, sha256=hashlib.sha256(self._sum.tobytes()).hexdigest())
        self._sum = np.zeros(0, dtype=np.uint32)
        self._result = Sum(vector, tuple(survivors))

    def _self_masks(self, survivors: list[int]) -> list[Mask]:
        """Return what removes the survivors' own masks."""
        session, masks = self._session.id, []
        for site in survivors:
            seed = seed_of(site, self._seed_shares[site], self._limits.threshold)
            masks.append(Mask(self_mask_key(session, seed, site), minus=True))
        return masks

    def _pair_masks(self, survivors: list[int]) -> list[Mask]:
        """Return what removes the masks that survivors share with dropped sites."""
        session, masks = self._session.id, []
        for dropped in sorted(self._shared - self._survivors):
            wanted = self._adverts[dropped].mask
            private, liar = mask_key_of(dropped, self._mask_shares[dropped], self._limits.threshold, wanted)
            if liar is not None:
                self._record("wrong-share", site=liar, of=dropped)
            key_of_dropped = private_key(private)
            for site in survivors:
                key = pair_mask_key(session, key_of_dropped, self._adverts[site].mask, dropped, site)
                # Survivor `site` added this mask if its id is smaller; take the same sign away again.
                masks.append(Mask(key, minus=site < dropped))
        return masks
