"""One test per attack of the protocol's list: each is refused, and the error says which site and which check."""

import itertools
import os
from dataclasses import replace

import numpy as np
import pytest
from tests.builders import tiny_job
from tests.privacy.masking.world import ENCODING, World, identity, refused

from salus.common.errors import ProtectionError
from salus.common.identity import Identity
from salus.privacy.contribution import Shape
from salus.privacy.masking.messages import BOX_BYTES, Advert, consent_statement
from salus.privacy.masking.site import MaskingSite, State
from salus.privacy.masking.transcript import MaskedCheck
from salus.privacy.prg import keystream
from salus.privacy.protocol.contributors import Consent
from salus.privacy.protocol.head import Head
from salus.privacy.protocol.parameters import may_follow, thresholds
from salus.privacy.protocol.party import SiteParty
from salus.privacy.protocol.secret import Secret
from salus.privacy.protocol.session import Session, ids, manifest_hash
from salus.privacy.protocol.store import MemoryStore
from salus.privacy.protocol.tables import read_table, write_ids, write_table
from salus.privacy.protocol.transcript import verify_transcript


def table(world: World) -> dict[int, bytes]:
    return world.adverts()


def test_key_substitution(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(6)
    adverts = table(world)
    evil = Advert(os.urandom(32), os.urandom(32), adverts[2][64:])
    refused(lambda: world.sites[1].answer(write_table({**adverts, 2: evil.to_bytes()})), "advert of site 2", "forged")
    assert world.sites[1].state is State.FAILED
    refused(lambda: world.coordinator.receive(2, evil.to_bytes()), "advert of site 2")


def test_model_inconsistency_names_both_sites() -> None:
    world = World(6)
    other = Session("job-1", 1, 0, b"m" * 32, b"x" * 32, world.session.roster)
    world.sites[4] = world.site(4, other)
    adverts = table(world)
    refused(lambda: world.sites[1].answer(write_table(adverts)), "site 4 was given another model", "than site 1")


@pytest.mark.parametrize("change", ["round", "attempt", "job", "manifest", "roster"])
def test_replay_of_an_advert_from_another_session(change: str) -> None:
    world = World(6)
    s = world.session
    old = {
        "round": Session(s.job_id, 2, 0, s.manifest_hash, s.model_hash, s.roster),
        "attempt": Session(s.job_id, 1, 1, s.manifest_hash, s.model_hash, s.roster),
        "job": Session("job-2", 1, 0, s.manifest_hash, s.model_hash, s.roster),
        "manifest": Session(s.job_id, 1, 0, b"n" * 32, s.model_hash, s.roster),
        "roster": Session(s.job_id, 1, 0, s.manifest_hash, s.model_hash, (*s.roster, 7)),
    }[change]
    keys = {site: identity(site).public_key for site in old.roster}
    replayed = MaskingSite(
        old, Shape(4, 1, 1.0), ENCODING, SiteParty(3, identity(3), keys, MemoryStore(), 0, os.urandom, "data/0")
    )
    adverts = {**table(world), 3: replayed.open_words(np.zeros(6, np.uint32))}
    refused(lambda: world.sites[1].answer(write_table(adverts)), "advert of site 3")


def test_a_session_is_used_once_and_a_crash_does_not_help() -> None:
    world = World(6)
    table(world)
    again = world.site(1)
    refused(lambda: again.open_words(world.inputs[1]), "opened before")
    refused(lambda: again.answer(b""), "state 'failed'")


def test_share_swapping() -> None:
    world = World(6)
    requests = world.exchange(table(world))
    boxes = world.exchange(world.answers(requests))
    assert boxes is not None
    rows = read_table(boxes[1], BOX_BYTES, "boxes")
    swapped = {**rows, 2: rows[3], 3: rows[2]}
    refused(lambda: world.sites[1].answer(write_table(swapped)), "share from site 2 to site 1", "swapped")
    rows = read_table(boxes[4], BOX_BYTES, "boxes")
    bent = bytes([rows[5][0] ^ 1]) + rows[5][1:]
    refused(lambda: world.sites[4].answer(write_table({**rows, 5: bent})), "share from site 5 to site 4")


def test_different_adverts_for_different_sites_break_the_channel() -> None:
    world = World(7)
    adverts = table(world)
    everyone, fewer = write_table(adverts), write_table({s: a for s, a in adverts.items() if s != 7})
    replies = {site: world.sites[site].answer(fewer if site == 1 else everyone) for site in world.keys}
    box = read_table(replies[2], BOX_BYTES, "boxes")[1]
    boxes = {site: read_table(replies[site], BOX_BYTES, "boxes")[1] for site in range(2, 7)}
    refused(lambda: world.sites[1].answer(write_table({**boxes, 2: box})), "shown different keys")


def test_a_removed_member_gets_no_share() -> None:
    world = World(6)
    everyone = write_table(table(world))
    site = world.sites[1]
    site._me = replace(site._me, removed=frozenset({4}))
    refused(lambda: site.answer(everyone), "Site 4 advertised but was removed")


@pytest.mark.parametrize("kind", ["few", "stranger", "without-me", "changed-me", "double-key", "twice"])
def test_lists_of_adverts_that_do_not_hold(kind: str) -> None:
    world = World(6)
    adverts = table(world)
    text = {
        "few": "adverts of 4",
        "stranger": "not on the roster",
        "without-me": "own advert",
        "changed-me": "own advert",
        "double-key": "another site",
        "twice": "ascending",
    }[kind]
    rows = write_table(adverts)
    if kind == "few":
        rows = write_table({s: adverts[s] for s in (1, 2, 3)})
    elif kind == "stranger":
        rows = write_table({**adverts, 9: adverts[2]})
    elif kind == "without-me":
        rows = write_table({s: a for s, a in adverts.items() if s != 1})
    elif kind == "changed-me":
        rows = write_table({**adverts, 1: adverts[2]})
    elif kind == "double-key":
        rows = write_table({**adverts, 3: adverts[2]})
    else:
        rows += rows
    refused(lambda: world.sites[1].answer(rows), text)


def until_survivors(n: int) -> tuple[World, dict[int, bytes]]:
    world = World(n)
    requests = world.exchange(world.answers(world.exchange(table(world))))
    replies = world.answers(requests)
    lists = world.exchange(replies)
    assert lists is not None
    return world, dict(lists)


@pytest.mark.parametrize(
    ("survivors", "text"),
    [
        ({1, 2, 3, 4}, "at least 5 sites"),
        ({2, 3, 4, 5, 6, 7}, "this site is not among them"),
        ({1, 2, 3, 4, 5, 99}, "not the sites that shared"),
    ],
)
def test_survivors_that_are_too_few_or_wrong(survivors: set[int], text: str) -> None:
    world, _ = until_survivors(7)
    refused(lambda: world.sites[1].answer(write_ids(survivors)), text)


def test_a_sites_own_minimum_cohort_counts() -> None:
    world = World(7)
    world.sites[1] = world.site(1, cohort=7)
    requests = world.exchange(world.answers(world.exchange(table(world))))
    world.exchange(world.answers(requests))
    refused(lambda: world.sites[1].answer(write_ids(range(1, 7))), "at least 7 sites")


def test_equivocation_on_survivors_never_gathers_two_thresholds() -> None:
    world, _ = until_survivors(10)  # c = 3, t = 7
    one, two = frozenset(range(1, 11)), frozenset(range(1, 9))
    colluders, honest = (8, 7, 6), (1, 2, 3, 4, 5)
    consents = {site: world.sites[site].answer(write_ids(one if site in (1, 2, 3) else two)) for site in honest}
    for target in (one, two):
        forged = {c: identity(c).sign_raw(consent_statement(world.session.id, ids(target))) for c in colluders}
        mine = {s: consents[s] for s in honest if (s in (1, 2, 3)) == (target == one)}
        victim = 1 if target == one else 4
        refused(lambda v=victim, f=forged, m=mine: world.sites[v].answer(write_table({**f, **m})), "consents of 7")
        assert world.sites[victim].state is State.FAILED
    # Showing one site the other's consents is found out, with names.
    refused(lambda: world.sites[5].answer(write_table({1: consents[1]})), "consent of site 1", "different lists")


@pytest.mark.parametrize("n", range(3, 11))
def test_no_split_of_honest_sites_reaches_two_thresholds(n: int) -> None:
    """Exhaustively: honest sites see one of two lists, c colluders sign both."""
    limits = thresholds(n)
    honest = n - limits.colluders
    for split in itertools.product((False, True), repeat=honest):
        first = sum(split) + limits.colluders
        second = honest - sum(split) + limits.colluders
        assert not (first >= limits.threshold and second >= limits.threshold)
    assert 2 * limits.threshold > n + limits.colluders
    # The test can fail: with one consent fewer some split would do.
    weaker = limits.threshold - 1
    assert any(
        sum(s) + limits.colluders >= weaker and honest - sum(s) + limits.colluders >= weaker
        for s in itertools.product((False, True), repeat=honest)
    )


def test_a_server_made_list_in_the_last_step_is_not_believed() -> None:
    world, lists = until_survivors(7)
    consents = {site: world.sites[site].answer(request) for site, request in lists.items()}
    # The coordinator pretends that site 7 dropped, to have its mask key as well.
    pretended = identity(7).sign_raw(consent_statement(world.session.id, ids(range(1, 7))))
    refused(lambda: world.sites[1].answer(write_table({**consents, 7: pretended})), "consent of site 7")
    reply = world.sites[2].answer(write_table(consents))
    assert len(reply) == 66 * 7  # only seeds: by its own list nobody dropped


def test_two_consents_are_impossible_even_for_a_faulty_coordinator() -> None:
    world, lists = until_survivors(7)
    world.sites[1].answer(lists[1])
    store = world.stores[1]
    with pytest.raises(ProtectionError, match="consent was already given"):
        store.consent(world.session.id, Consent(frozenset(range(1, 7))))


def test_a_forged_masked_vector_and_a_second_one_are_left_out_by_name() -> None:
    world = World(6)
    replies = world.answers(world.exchange(world.answers(world.exchange(table(world)))))
    bent = replies[2][:-1] + bytes([replies[2][-1] ^ 1])
    refused(lambda: world.coordinator.receive(2, bent), "masked vector of site 2")
    world.coordinator.receive(2, replies[2])
    refused(lambda: world.coordinator.receive(2, replies[2]), "one masked vector of 6 words from site 2")


def test_a_wrong_share_of_a_dropped_sites_key_names_the_sender() -> None:
    world = World(10)  # t = 7; site 10 drops after sharing
    requests = world.exchange(world.answers(world.exchange(world.adverts())))
    lists = world.exchange(world.answers(requests, without=[10]))
    answers = world.answers(world.exchange(world.answers(lists)))
    bent = answers[3][:-1] + bytes([answers[3][-1] ^ 1])  # its last share is of site 10's mask key
    assert world.exchange({**answers, 3: bent}) is None
    assert {"kind": "wrong-share", "site": 3, "of": 10} in world.record
    assert np.array_equal(
        np.rint(world.coordinator.result.vector * 2**20).astype(np.int64).astype(np.uint32), world.expected()
    )


def test_a_wrong_share_of_a_seed_ends_the_attempt_instead_of_a_wrong_sum() -> None:
    world = World(10)
    answers = world.answers(
        world.exchange(
            world.answers(world.exchange(world.answers(world.exchange(world.answers(world.exchange(world.adverts()))))))
        )
    )
    bent = bytes(10) + answers[9][10:]
    refused(lambda: world.exchange({**answers, 9: bent}), "contradict")


def test_sums_over_other_sites_do_not_follow_each_other() -> None:
    full = frozenset(range(1, 11))
    assert may_follow([], full)
    assert may_follow([full, full], full)
    for fewer in range(1, 9):
        assert not may_follow([full], full - set(range(1, fewer + 1)))
    world = World(10)
    world.run()
    following = Session("job-1", 2, 0, b"m" * 32, b"g" * 32, world.session.roster)
    world.session = following
    world.sites = {site: world.site(site) for site in world.keys}
    world.coordinator = world.new_coordinator()
    requests = world.exchange(world.answers(world.exchange(world.adverts())))
    lists = world.exchange(world.answers(requests, without=[10]))
    assert lists is not None
    refused(lambda: world.sites[1].answer(lists[1]), "other sites than in an earlier sum")
    # Another job over the same data does not help.
    world.session = Session("another", 1, 0, b"n" * 32, b"g" * 32, world.session.roster)
    world.sites = {site: world.site(site) for site in world.keys}
    world.coordinator = world.new_coordinator()
    requests = world.exchange(world.answers(world.exchange(world.adverts())))
    lists = world.exchange(world.answers(requests, without=[10]))
    assert lists is not None
    refused(lambda: world.sites[2].answer(lists[2]), "other sites than in an earlier sum")


def test_masked_vectors_of_zeros_are_uniform_and_the_test_can_fail() -> None:
    """Chi-square over bytes at alpha = 1e-6 (255 degrees of freedom: 384)."""
    world = World(5, length=20_000)
    world.inputs = {site: np.zeros(20_000, np.uint32) for site in world.keys}
    replies = world.answers(world.exchange(world.answers(world.exchange(world.adverts()))))

    def chi_square(data: bytes) -> float:
        counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
        expected = len(data) / 256
        return float(((counts - expected) ** 2 / expected).sum())

    assert all(chi_square(reply[64:]) < 384 for reply in replies.values())
    lumpy = bytearray(replies[1][64:])
    lumpy[:4000] = bytes(4000)
    assert chi_square(bytes(lumpy)) > 384
    difference = np.frombuffer(replies[1][64:], "<u4") - np.frombuffer(replies[2][64:], "<u4")
    assert chi_square(difference.tobytes()) < 384, "two sites' masks are alike, so their difference would be plain"


def test_masks_have_no_short_seed() -> None:
    """Flower's masks come from 32 bits: all of them can be tried. Here two keys that agree in any 32 bits differ at once."""
    key = os.urandom(32)
    for word in range(0, 32, 4):
        other = os.urandom(word) + key[word : word + 4] + os.urandom(28 - word)
        assert not np.array_equal(keystream(key, 0, 4), keystream(other, 0, 4))


def test_the_transcript_is_checked_by_a_third_party() -> None:
    world = World(7)
    world.run({3: [7]})
    (line,) = verify_transcript(world.record, world.keys, MaskedCheck).sums
    assert line == {"round": 1, "attempt": 0, "kind": "train", "sites": [1, 2, 3, 4, 5, 6], "consents": 6}

    def changed(which: str, **fields: object) -> list[dict[str, object]]:
        done = False
        entries = []
        for entry in world.record:
            if entry["kind"] == which and not done:
                entries.append({**entry, **fields})
                done = True
            else:
                entries.append(entry)
        return entries

    for entries, text in (
        (changed("session", round=2), "session id"),
        (changed("advert", mask="00" * 32), "advert of site 1"),
        (changed("masked", sha256="00" * 32), "masked vector of site 1"),
        (changed("consent", signature="00" * 64), "consent of site 1"),
        (changed("sum", sites=[1, 2, 3, 4, 5]), "not over the sites that"),
        (changed("shared", sites=[1, 2, 3, 4, 5, 6]), "masked vector"),
        ([*world.record, *world.record], "repeated"),
        ([*world.record, world.record[-1]], "repeated"),
        (changed("session", roster="1234567"), "damaged"),
        (changed("sum", kind="coffee"), "unknown kind"),
        (world.record[1:], "does not begin"),
        ([e for e in world.record if e["kind"] != "consent"], "0 consents"),
        ([world.record[0], *world.record[2:]], "does not begin"),
        (changed("job", document=tiny_job(rounds=9).canonical_bytes().decode()), "another job"),
        (changed("job", document="{}"), "job is damaged"),
        (changed("session", parameters=5), "another job"),
        (changed("advert", site="x"), "damaged"),
    ):
        refused(lambda e=entries: verify_transcript(e, world.keys, MaskedCheck), text)
    stranger = {**world.keys, 1: Identity.generate().public_key}
    refused(lambda: verify_transcript(world.record, stranger, MaskedCheck), "site 1")


def test_with_noise_sums_may_be_over_other_sites_and_consents_carry_ledger_heads() -> None:
    first, second = World(6, noised=True), World(6, noised=True, round_=2)
    first.run()
    for site in second.keys:
        second.stores[site] = first.stores[site]
        second.sites[site] = second.site(site)
        second.heads[site] = Head(4, bytes([site]) * 32)
    second.run({3: [6]})
    verified = verify_transcript([*first.record, *second.record], first.keys, MaskedCheck)
    assert [len(line["sites"]) for line in verified.sums] == [6, 5]  # type: ignore[arg-type]
    assert verified.sent[6] == {"train": 2, "evaluate": 0, "measure": 0}
    backwards = [*second.record, *first.record[1:]]
    refused(
        lambda: verify_transcript(backwards, first.keys, MaskedCheck), "ledger of site 1 was rolled back in round 1"
    )


def test_a_restored_ledger_is_noticed_by_every_other_site() -> None:
    first, second = World(5, noised=True), World(5, noised=True, round_=2)
    first.run()
    for site in second.keys:
        second.stores[site] = first.stores[site]
        second.sites[site] = second.site(site)
        second.heads[site] = Head(4, bytes([site]) * 32)
    second.heads[2] = Head(3, b"another past" + bytes(20))  # as many entries as had been signed, but not the same ones
    second.stores[2] = MemoryStore()  # its whole folder was restored, so it remembers nothing itself
    second.sites[2] = second.site(2)
    requests = second.exchange(second.adverts())
    for _ in range(2):
        requests = second.exchange(second.answers(requests))
    consents = second.answers(requests)
    requests = second.exchange(consents)
    assert requests is not None
    for site in (1, 3, 4, 5):
        refused(
            lambda s=site: second.sites[s].answer(requests[s]), "ledger of site 2 was rolled back: it had 3 entries"
        )


def test_a_ledger_head_of_another_session_or_site_is_refused() -> None:
    world = World(5, noised=True)
    requests = world.exchange(world.adverts())
    for _ in range(2):
        requests = world.exchange(world.answers(requests))
    consents = world.answers(requests)
    refused(lambda: world.coordinator.receive(1, consents[1][:64]), "signed ledger head of site 1")
    refused(lambda: world.coordinator.receive(1, consents[1][:64] + consents[2][64:]), "head of site 1 is not signed")


def test_keys_of_the_share_channels_are_dropped_as_soon_as_the_shares_are_read() -> None:
    world = World(5)
    requests = world.exchange(world.adverts())
    site = world.sites[1]
    replies = world.answers(requests)
    refused_to_show(site._channel)
    assert len({agreed.reveal() for agreed in site._agreed.values()}) == 4  # one with each of the others
    world.answers(world.exchange(replies))
    for agreed in site._agreed.values():
        refused_to_show(agreed)


def test_keys_of_the_share_channels_are_dropped_when_a_later_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Secret] = []

    class Seen(Secret):
        __slots__ = ()

        def __init__(self, value: bytes) -> None:
            super().__init__(value)
            made.append(self)

    monkeypatch.setattr("salus.privacy.masking.site.Secret", Seen)
    world = World(5)
    adverts = table(world)
    accomplice = Advert(bytes(32), os.urandom(32), b"")
    signature = identity(5).sign_raw(accomplice.statement(world.session.id, 5))
    adverts[5] = Advert(accomplice.channel, accomplice.mask, signature).to_bytes()
    made.clear()
    site = world.sites[1]
    refused(lambda: site.answer(write_table(adverts)), "key of site 5 has low order")
    assert len(made) == 4, "its own share, and one with each of the sites 2, 3 and 4"
    for secret in [*made, *site._secrets]:
        refused_to_show(secret)


def refused_to_show(secret: Secret) -> None:
    with pytest.raises(ValueError, match="dropped"):
        secret.reveal()


def test_secrets_do_not_print_themselves_and_are_dropped() -> None:
    world = World(5)
    world.run()
    for site in world.sites.values():
        for secret in site._secrets:
            assert repr(secret) == "Secret(...)"
            with pytest.raises(ValueError, match="dropped"):
                secret.reveal()
            with pytest.raises(TypeError):
                secret == secret  # noqa: B015
            with pytest.raises(TypeError):
                hash(secret)


def test_a_transcript_cannot_hide_a_sum_or_swap_its_survivors() -> None:
    first = World(8)
    first.run()
    second = World(8, round_=2)
    second.run({3: [8]})
    without_sum = [entry for entry in first.record if entry["kind"] != "sum"]
    refused(
        lambda: verify_transcript([*without_sum, *second.record], first.keys, MaskedCheck),
        "other sites than an earlier sum",
    )
    other = World(8, job_id="job-2")
    other.run()
    refused(lambda: verify_transcript([*first.record, *other.record], first.keys, MaskedCheck), "several jobs")
    swapped = [e for e in first.record if e["kind"] not in ("sum",) and not (e["kind"] == "masked" and e["site"] == 8)]
    swapped += [
        {"kind": "survivors", "sites": list(range(1, 8))},
        {"kind": "sum", "sites": list(range(1, 8)), "sha256": ""},
    ]
    refused(lambda: verify_transcript(swapped, first.keys, MaskedCheck), "repeated or out of order")


def test_training_and_evaluation_never_share_a_session() -> None:
    """Masks of a shorter vector are a prefix of a longer one's: one site training among evaluating ones would be open."""
    document = b"{}"
    kinds = {manifest_hash(document, kind, d, m) for kind in ("train", "evaluate") for d in (0, 5) for m in (1, 2)}
    assert len(kinds) == 8
    world = World(6)
    other = Session("job-1", 1, 0, manifest_hash(document, "evaluate", 0, 1), b"g" * 32, world.session.roster)
    world.sites[4] = world.site(4, other)
    adverts = table(world)
    refused(lambda: world.sites[1].answer(write_table(adverts)), "advert of site 4")


def test_keys_of_low_order_and_keys_in_use_are_refused_at_once() -> None:
    world = World(6)
    adverts = table(world)
    me = identity(2)

    def signed(channel: bytes, mask: bytes) -> bytes:
        unsigned = Advert(channel, mask, b"")
        return Advert(channel, mask, me.sign_raw(unsigned.statement(world.session.id, 2))).to_bytes()

    good = adverts[2][:32]
    world.coordinator.receive(1, adverts[1])
    refused(lambda: world.coordinator.receive(2, signed(bytes(32), good)), "site 2")
    refused(lambda: world.coordinator.receive(2, signed(good, good)), "Site 2", "in use")
    refused(lambda: world.coordinator.receive(2, signed(adverts[1][:32], good)), "Site 2", "in use")
