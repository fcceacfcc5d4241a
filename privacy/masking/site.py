"""A site's side of the masked sum, sans-IO: request in, reply out, one session, used once.

    NEW ──open──> ADVERTISED ──request 2──> SHARED ──request 3──> MASKED ──request 4──> CONSENTED ──request 5──> DONE
     any refusal or error ──> FAILED; secrets are dropped in DONE and FAILED

Order of the file: the order of the protocol (Bonawitz et al. 2017, doi 10.1145/3133956.3133982, active-adversary variant
with the full graph; the session is bound into every key and signature, which the paper leaves to the channel).
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from salus.common.errors import IdentityError, ProtectionError
from salus.common.identity import Identity, verify_raw
from salus.privacy.contribution import Contribution, DataKind, Shape
from salus.privacy.masking.keys import ShareChannel, pair_mask_key, self_mask_key
from salus.privacy.masking.messages import (
    BOX_BYTES,
    KEY_BYTES,
    SIGNATURE_BYTES,
    Advert,
    adverts_hash,
    consent_statement,
    masked_statement,
)
from salus.privacy.masking.noise import add_discrete_noise
from salus.privacy.masking.shamir import SHARE_BYTES, split
from salus.privacy.prg import Mask, Words, add_masks
from salus.privacy.protocol.contributors import Consent, Statement, check_contributors, check_survivors
from salus.privacy.protocol.encoding import FixedPoint, encode
from salus.privacy.protocol.head import SIGNED_HEAD_BYTES, Head, open_head, sign_head
from salus.privacy.protocol.keys import public_of
from salus.privacy.protocol.parameters import thresholds
from salus.privacy.protocol.secret import Secret
from salus.privacy.protocol.session import Session, ids
from salus.privacy.protocol.store import SessionStore
from salus.privacy.protocol.tables import REMEDY, read_ids, read_table, write_table
from salus.privacy.randomness import Random, Stream

WAY = "masking"
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


@dataclass(frozen=True)
class Member:
    """A site's identity and minimum requirements.

    Args:
        keys: Ed25519 public keys of the whole roster, by site id, from the roster pinned at this site.
        minimum_cohort: fewest sites that this site's policy allows; the protocol has its own minimum as well.
        scope: scope of the cohort rule: the site's data set and the epoch that its operator allows.
        head: the head of this site's privacy ledger, for sums under differential privacy; None for others.
        random: source of cryptographic randomness, such as `os.urandom`.
        job_minimum: fewest sites that must contribute data, from the job.
    """

    site: int
    identity: Identity
    keys: Mapping[int, bytes]
    store: SessionStore
    minimum_cohort: int
    random: Random
    scope: str
    head: Callable[[], Head] | None = None
    job_minimum: int = 0


class MaskingSite:
    """One site in one session.

    Guarantees: without the shares of t sites, the masked vector is uniform given everything else that this object returns. It
    never releases both secrets of one site. It consents at most once, and without noise only to a sum to which enough sites
    contributed data. Every refusal names the site and the check.
    """

    def __init__(
        self, session: Session, shape: Shape, encoding: FixedPoint, member: Member, noise_sigma: float = 0.0
    ) -> None:
        """Begin a session.

        Args:
            noise_sigma: standard deviation, in grid steps, of this site's share of distributed noise.
        """
        if set(session.roster) != set(member.keys) or member.site not in member.keys:
            raise ProtectionError(
                "Expected a session over the whole pinned roster.", remedy="Install the newest roster."
            )
        self._session, self._shape, self._encoding, self._me = session, shape, encoding, member
        self._noise_sigma = noise_sigma
        self._limits = thresholds(len(session.roster), noised=member.head is not None)
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
        if self._me.head is None:  # with noise, no one needs to know whether a site has data
            self._statement = Statement(data, self._me.minimum_cohort)
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
        self._check_adverts(adverts)
        self._adverts, self._adverts_hash = adverts, adverts_hash(adverts)
        threshold, everyone = self._limits.threshold, sorted(adverts)
        seeds = split(self._seed.reveal(), threshold, everyone, self._me.random)
        masks = split(self._mask_key.reveal(), threshold, everyone, self._me.random)
        self._own_seed_share = Secret(seeds[self._me.site])
        self._secrets.append(self._own_seed_share)
        said = self._statement.to_bytes()
        return write_table(
            {
                peer: self._to(peer).seal(self._channel, adverts[peer].channel, seeds[peer] + masks[peer] + said)
                for peer in everyone
                if peer != self._me.site
            }
        )

    def _check_adverts(self, adverts: Mapping[int, Advert]) -> None:
        strangers = [site for site in adverts if site not in self._me.keys]
        if strangers:
            raise ProtectionError(f"Site {strangers[0]} advertised but is not on the roster.", remedy=REMEDY)
        if len(adverts) < self._limits.threshold:
            raise ProtectionError(
                f"Expected adverts of {self._limits.threshold} sites, got {len(adverts)}.",
                remedy="Wait for more sites.",
            )
        if adverts.get(self._me.site) != self._advert:
            raise ProtectionError("This site's own advert is missing or changed.", remedy=REMEDY)
        used: set[bytes] = set()
        for site, advert in adverts.items():
            if advert.channel in used or advert.mask in used or advert.channel == advert.mask:
                raise ProtectionError(f"Site {site} advertised a key that another site also advertised.", remedy=REMEDY)
            used |= {advert.channel, advert.mask}
        for site, advert in adverts.items():
            try:
                verify_raw(
                    self._me.keys[site], advert.signature, advert.statement(self._session.id, site), what="", who=""
                )
            except IdentityError:
                raise ProtectionError(
                    f"The advert of site {site} does not verify at site {self._me.site}: it is forged, or site {site} was given "
                    f"another model, job, round, attempt or roster than site {self._me.site}.",
                    remedy=REMEDY,
                ) from None

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
        if len(shared) < self._limits.threshold:
            raise ProtectionError(
                f"Expected shares of {self._limits.threshold} sites, got {len(shared)}.", remedy="Wait for more sites."
            )
        self._shares: dict[int, tuple[Secret, Secret]] = {}
        self._statements = {self._me.site: self._statement}
        for peer, box in boxes.items():
            plain = self._from(peer).open(self._channel, self._adverts[peer].channel, box)
            pair = Secret(plain[:SHARE_BYTES]), Secret(plain[SHARE_BYTES:SECRET_BYTES])
            self._statements[peer] = Statement.from_bytes(plain[SECRET_BYTES:], peer)
            self._shares[peer] = pair
            self._secrets.extend(pair)
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
        private = self._mask_key.reveal()
        return [
            Mask(self_mask_key(session, self._seed.reveal(), me)),
            *(Mask(pair_mask_key(session, private, self._adverts[p].mask, me, p), minus=me > p) for p in peers),
        ]

    # 4. consent

    def _consent(self, request: bytes) -> bytes:
        survivors = read_ids(request, "the list of survivors")
        needed = max(self._limits.needed, self._me.minimum_cohort)
        if not survivors <= self._shared or self._me.site not in survivors:
            raise ProtectionError(
                "The survivors are not the sites that shared, or this site is not among them.", remedy=REMEDY
            )
        if len(survivors) < needed:
            raise ProtectionError(
                f"Expected at least {needed} survivors, got {len(survivors)}.", remedy="Wait for more sites."
            )
        agreed = Consent(survivors, WAY)
        if self._me.head is None:
            agreed = self._checked_without_noise(survivors)
        self._me.store.consent(self._session.id, agreed)  # on disk before the signature exists
        self._survivors = survivors
        consent = self._me.identity.sign_raw(consent_statement(self._session.id, ids(survivors)))
        if self._me.head is None:
            return consent
        head = self._me.head()
        self._me.store.ledger_seen(self._me.site, head)
        return consent + sign_head(self._me.identity, self._session.id, self._me.site, head)

    def _checked_without_noise(self, survivors: frozenset[int]) -> Consent:
        """Return the consent to a sum without noise, after checking it against every earlier sum over the same data."""
        earlier = self._me.store.consents(self._me.scope)
        check_survivors(survivors, WAY, earlier)
        said = {site: self._statements[site] for site in survivors}
        required = max(self._limits.minimum_cohort, self._me.minimum_cohort, self._me.job_minimum)
        return Consent(survivors, WAY, check_contributors(said, required, self._limits.colluders, earlier))

    # 5. unmask

    def _unmask(self, request: bytes) -> bytes:
        noised = self._me.head is not None
        consents = read_table(request, SIGNATURE_BYTES + (SIGNED_HEAD_BYTES if noised else 0), "the consents")
        statement = consent_statement(self._session.id, ids(self._survivors))
        valid = 0
        for site, row in consents.items():
            signature = row[:SIGNATURE_BYTES]
            if site not in self._survivors:
                raise ProtectionError(f"Site {site} consented but is not among the survivors.", remedy=REMEDY)
            try:
                verify_raw(self._me.keys[site], signature, statement, what="consent", who=f"site {site}")
            except IdentityError:
                raise ProtectionError(
                    f"The consent of site {site} is not for the survivors that site {self._me.site} was shown: the coordinator "
                    "showed them different lists, or the consent is forged.",
                    remedy=REMEDY,
                ) from None
            if noised and site != self._me.site:
                head = open_head(row[SIGNATURE_BYTES:], self._me.keys[site], self._session.id, site)
                self._me.store.ledger_seen(site, head)
            valid += 1
        if valid < self._limits.threshold:
            raise ProtectionError(
                f"Expected consents of {self._limits.threshold} sites, got {valid}.", remedy="Wait for more sites."
            )
        # Both lists are derived from this site's own survivors, never from the coordinator.
        seeds = [self._seed_share(site) for site in sorted(self._survivors)]
        masks = [self._shares[site][1].reveal() for site in sorted(self._shared - self._survivors)]
        return b"".join([*seeds, *masks])

    def _seed_share(self, site: int) -> bytes:
        return self._own_seed_share.reveal() if site == self._me.site else self._shares[site][0].reveal()
