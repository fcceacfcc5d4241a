"""A site's side of the masked sum, sans-IO: request in, reply out, one session, used once.

    NEW ──open──> ADVERTISED ──request 2──> SHARED ──request 3──> MASKED ──request 4──> CONSENTED ──request 5──> DONE
     any refusal or error ──> FAILED; secrets are dropped in DONE and FAILED

Order of the file: the order of the protocol (Bonawitz et al. 2017, doi 10.1145/3133956.3133982, active-adversary variant
with the full graph; the session is bound into every key and signature, which the paper leaves to the channel).
"""

import hashlib
from collections.abc import Callable
from enum import Enum

from salus.common.errors import IdentityError, ProtectionError
from salus.privacy.contribution import Contribution, DataKind, Shape
from salus.privacy.masking.adverts import check_adverts
from salus.privacy.masking.keys import ShareChannel, pair_mask_key, self_mask_key
from salus.privacy.masking.messages import BOX_BYTES, Advert, adverts_hash, consent_statement, masked_statement
from salus.privacy.masking.noise import add_discrete_noise
from salus.privacy.masking.shamir import SHARE_BYTES, split
from salus.privacy.prg import Mask, Words, add_masks
from salus.privacy.protocol.consent import SiteConsent
from salus.privacy.protocol.contributors import Statement
from salus.privacy.protocol.encoding import FixedPoint, encode
from salus.privacy.protocol.keys import agree, private_key, public_of
from salus.privacy.protocol.party import SiteParty
from salus.privacy.protocol.secret import Secret
from salus.privacy.protocol.session import Session, ids
from salus.privacy.protocol.tables import KEY_BYTES, REMEDY, SIGNATURE_BYTES, read_ids, read_table, write_table
from salus.privacy.randomness import Stream

SECRET_BYTES = 2 * SHARE_BYTES


class State(Enum):
    """The state of a site in a session; drawn in the module's docstring."""

    NEW = "new"
    ADVERTISED = "advertised"
    SHARED = "shared"
    MASKED = "masked"
    CONSENTED = "consented"
    DONE = "done"
    FAILED = "failed"


class MaskingSite:
    """One site in one session.

    Guarantees: without the shares of t sites, the masked vector is uniform given everything else that this object returns. It
    never releases both secrets of one site. It consents at most once, and without noise only to a sum to which enough sites
    contributed data. Every refusal names the site and the check.
    """

    def __init__(
        self,
        session: Session,
        shape: Shape,
        encoding: FixedPoint,
        party: SiteParty,
        *,
        job_minimum: int = 0,
        noise_sigma: float = 0.0,
    ) -> None:
        """Begin a session.

        Args:
            job_minimum: fewest sites that must contribute data, from the job.
            noise_sigma: standard deviation, in grid steps, of this site's share of distributed noise.
        """
        self._session, self._shape, self._encoding, self._me = session, shape, encoding, party
        self._agreement = SiteConsent(session, party, "masking", job_minimum)
        self._noise_sigma = noise_sigma
        self._statement = Statement()
        self._state = State.NEW
        self._words: Words | None = None
        self._secrets: list[Secret] = []
        self._steps: dict[State, tuple[Callable[[bytes], bytes], State]] = {
            State.ADVERTISED: (self._share, State.SHARED),
            State.SHARED: (self._mask, State.MASKED),
            State.MASKED: (self._consent, State.CONSENTED),
            State.CONSENTED: (self._unmask, State.DONE),
        }

    @property
    def state(self) -> State:
        """The current state."""
        return self._state

    @property
    def finished(self) -> bool:
        """Whether the last request was answered, or one failed."""
        return self._state in (State.DONE, State.FAILED)

    def open(self, contribution: Contribution) -> bytes:
        """Encode the contribution, remember the session on disk, and return the advert (reply 1)."""
        words = encode(contribution, self._shape, self._encoding, self._me.random)
        if self._noise_sigma:
            add_discrete_noise(words[: self._shape.parameters], self._noise_sigma, Stream(self._me.random))
        return self.open_words(words, contribution.data)

    def open_words(self, words: Words, data: DataKind = DataKind.TRAINING) -> bytes:
        """Like `open`, for already encoded words that were computed from `data`; they are masked in place later."""
        if self._state is not State.NEW:
            raise ProtectionError("Expected a new session.", remedy="A session is used once.")
        self._state = State.FAILED  # until the session is on disk, nothing may be released
        self._me.store.open_session(self._session.id, self._me.scope)
        self._words = words
        self._statement = self._agreement.statement(data)
        self._channel, self._mask_key, self._seed = (Secret(self._me.random(KEY_BYTES)) for _ in range(3))
        self._secrets = [self._channel, self._mask_key, self._seed]
        advert = Advert(public_of(self._channel.reveal()), public_of(self._mask_key.reveal()), b"")
        signature = self._me.identity.sign_raw(advert.statement(self._session.id, self._me.site))
        self._advert = Advert(advert.channel, advert.mask, signature)
        self._state = State.ADVERTISED
        return self._advert.to_bytes()

    def answer(self, request: bytes) -> bytes:
        """Return the reply to request 2, 3, 4 or 5, in this order; raises ProtectionError and ends the session otherwise."""
        step = self._steps.get(self._state)
        if step is None:
            raise ProtectionError(f"Expected no request in state {self._state.value!r}.", remedy="Start a new attempt.")
        self._state = State.FAILED
        try:
            reply = step[0](request)
        except IdentityError as problem:
            self._drop()
            raise ProtectionError(problem.problem, remedy=problem.remedy) from None
        except BaseException:
            self._drop()
            raise
        self._state = step[1]
        if self._state is State.DONE:
            self._drop()
        return reply

    def _drop(self) -> None:
        for secret in self._secrets:
            secret.drop()
        self._words = None

    # 2. share

    def _share(self, request: bytes) -> bytes:
        rows = read_table(request, 2 * KEY_BYTES + SIGNATURE_BYTES, "the list of adverts")
        adverts = {site: Advert.from_bytes(row) for site, row in rows.items()}
        check_adverts(adverts, self._advert, self._session.id, self._me, self._agreement.limits.threshold)
        self._adverts, self._adverts_hash = adverts, adverts_hash(adverts)
        threshold, everyone = self._agreement.limits.threshold, sorted(adverts)
        seeds = split(self._seed.reveal(), threshold, everyone, self._me.random)
        masks = split(self._mask_key.reveal(), threshold, everyone, self._me.random)
        self._own_seed_share = Secret(seeds[self._me.site])
        self._secrets.append(self._own_seed_share)
        said, private = self._statement.to_bytes(), private_key(self._channel.reveal())
        self._agreed: dict[int, Secret] = {}
        for peer in everyone:
            if peer != self._me.site:
                self._agreed[peer] = Secret(agree(private, adverts[peer].channel, who=f"site {peer}"))
                self._secrets.append(self._agreed[peer])  # at once: the next key may be refused
        self._channel.drop()
        return write_table(
            {
                peer: self._to(peer).seal(agreed, seeds[peer] + masks[peer] + said)
                for peer, agreed in self._agreed.items()
            }
        )

    def _to(self, peer: int) -> ShareChannel:
        return ShareChannel(self._session.id, self._me.site, peer, self._adverts_hash)

    def _from(self, peer: int) -> ShareChannel:
        return ShareChannel(self._session.id, peer, self._me.site, self._adverts_hash)

    # 3. mask

    def _mask(self, request: bytes) -> bytes:
        boxes = read_table(request, BOX_BYTES, "the boxes of shares")
        shared = frozenset(boxes) | {self._me.site}
        if self._me.site in boxes or not shared <= set(self._adverts):
            raise ProtectionError("Received shares from a site that had not advertised.", remedy=REMEDY)
        if len(shared) < self._agreement.limits.threshold:
            raise ProtectionError(
                f"Expected shares of {self._agreement.limits.threshold} sites, got {len(shared)}.",
                remedy="Wait for more sites.",
            )
        self._shares: dict[int, tuple[Secret, Secret]] = {}
        self._statements = {self._me.site: self._statement}
        for peer, box in boxes.items():
            plain = self._from(peer).open(self._agreed[peer], box)
            pair = Secret(plain[:SHARE_BYTES]), Secret(plain[SHARE_BYTES:SECRET_BYTES])
            self._statements[peer] = Statement.from_bytes(plain[SECRET_BYTES:], peer)
            self._shares[peer] = pair
            self._secrets.extend(pair)
            self._agreed[peer].drop()
        self._shared = shared
        words = self._words
        assert words is not None  # Safe because `open_words` set them and `_drop` ends the session.
        add_masks(words, self._masks(sorted(boxes)))
        self._words = None
        data = words.astype("<u4", copy=False).data.cast("B")
        digest = hashlib.sha256(data).digest()
        statement = masked_statement(self._session.id, self._me.site, ids(shared), digest)
        return b"".join((self._me.identity.sign_raw(statement), data))

    def _masks(self, peers: list[int]) -> list[Mask]:
        session, me = self._session.id, self._me.site
        private = private_key(self._mask_key.reveal())
        return [
            Mask(self_mask_key(session, self._seed.reveal(), me)),
            *(Mask(pair_mask_key(session, private, self._adverts[p].mask, me, p), minus=me > p) for p in peers),
        ]

    # 4. consent

    def _consent(self, request: bytes) -> bytes:
        survivors = read_ids(request, "the list of survivors")
        if not survivors <= self._shared or self._me.site not in survivors:
            raise ProtectionError(
                "The survivors are not the sites that shared, or this site is not among them.", remedy=REMEDY
            )
        self._agreement.check_survivors(survivors)
        found = self._agreement.contributors({site: self._statements[site] for site in survivors})
        self._survivors = survivors
        return self._agreement.give(survivors, self._covered(), found)

    def _covered(self) -> bytes:
        return consent_statement(self._session.id, ids(self._survivors))

    # 5. unmask

    def _unmask(self, request: bytes) -> bytes:
        self._agreement.check_given(request, self._survivors, self._covered())
        # Both lists are derived from this site's own survivors, never from the coordinator.
        seeds = [self._seed_share(site) for site in sorted(self._survivors)]
        masks = [self._shares[site][1].reveal() for site in sorted(self._shared - self._survivors)]
        return b"".join([*seeds, *masks])

    def _seed_share(self, site: int) -> bytes:
        return self._own_seed_share.reveal() if site == self._me.site else self._shares[site][0].reveal()
