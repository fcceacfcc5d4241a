"""The encrypted sum: exact, with drops, and every attack on roles, lists and ciphertexts refused by name."""

import os
import resource
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.privacy.encryption.world import World

from salus.common.errors import NotOpened, ProtectionError
from salus.privacy.contribution import Contribution
from salus.privacy.encryption.coordinator import EncryptedCoordinator, Step
from salus.privacy.encryption.messages import Box, key_statement, read_parts, write_parts, write_range
from salus.privacy.encryption.packing import SLOTS
from salus.privacy.encryption.scheme import Encryptor, KeyPair, context
from salus.privacy.encryption.site import State
from salus.privacy.protocol.contributors import STATEMENT_BYTES
from salus.privacy.protocol.encoding import FixedPoint, encode
from salus.privacy.protocol.head import Head


def refused(call: Callable[[], object], text: str) -> None:
    with pytest.raises(ProtectionError) as caught:
        call()
    assert text in str(caught.value)


def test_the_sum_is_exactly_the_plain_one() -> None:
    world = World(6)
    assert world.until(Step.DONE) is None
    assert world.coordinator.result.sites == (1, 2, 3, 4, 5, 6)
    assert np.array_equal(world.coordinator.result.vector, world.expected(world.keys))


@settings(max_examples=12, deadline=None)
@given(
    n=st.integers(5, 9),
    holder=st.integers(1, 5),
    seed=st.integers(0, 1000),
    noised=st.booleans(),
    late=st.booleans(),
)
def test_random_worlds_with_drops_sum_who_uploaded(n: int, holder: int, seed: int, noised: bool, late: bool) -> None:
    world = World(n, holder=holder, seed=seed, noised=noised)
    rng = np.random.default_rng(seed)
    others = [site for site in world.keys if site != holder]
    spare = n - world.coordinator._limits.needed
    gone = rng.choice(others, size=int(rng.integers(0, spare + 1)), replace=False).tolist()
    world.until(Step.DONE, {Step.CONSENTING if late else Step.UPLOADING: gone})
    stayed = tuple(sorted(set(world.keys) - (set() if late else set(gone))))
    assert world.coordinator.result.sites == stayed  # who left after the upload is in the sum all the same
    assert np.array_equal(world.coordinator.result.vector, world.expected(stayed))


def test_long_vectors_travel_in_several_exchanges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salus.privacy.encryption.coordinator.UPLOAD_CHUNKS", 1)
    monkeypatch.setattr("salus.privacy.encryption.coordinator.DECRYPT_CIPHERTEXTS", 5)
    world = World(5, parameters=60_000)
    world.until(Step.DONE)
    assert np.array_equal(world.coordinator.result.vector, world.expected(world.keys))


def test_too_few_sites_or_no_key_holder_end_the_session_and_say_what_is_missing() -> None:
    world = World(6)
    refused(lambda: world.until(Step.DONE, {Step.KEYS: [1]}), "key holder, site 1, did not answer")
    world = World(6)
    refused(lambda: world.until(Step.DONE, {Step.UPLOADING: [4, 5]}), "uploads from at least 5 sites, got 4")
    world = World(6)
    refused(lambda: world.until(Step.DONE, {Step.CONSENTING: [1]}), "key holder, site 1, did not consent")
    world = World(6)
    refused(lambda: world.until(Step.DONE, {Step.CONSENTING: [4, 5, 6]}), "consents from at least 4")
    world = World(6)
    refused(lambda: world.until(Step.DONE, {Step.DECRYPTING: [1]}), "did not decrypt")


def uploads(world: World) -> tuple[bytes, bytes, bytes, list[bytes]]:
    """Run to the decryption and return the honest request's table, consents, hashes and chunk parts."""
    requests = world.until(Step.DECRYPTING)
    assert requests is not None
    table, consents, hashes, blob = read_parts(requests[world.holder], 4, "test")
    return table, consents, hashes, read_parts(blob, 1 + world.n, "test")


def test_the_key_holder_is_no_oracle() -> None:
    row = 4 + 32 + 32 + 64

    def ask(change: Callable[[World, bytes, bytes, bytes, list[bytes]], bytes], text: str) -> None:
        world = World(6)
        table, consents, hashes, parts = uploads(world)
        request = change(world, table, consents, hashes, parts)
        refused(lambda: world.sites[world.holder].answer(request), text)
        assert world.sites[world.holder].state is State.FAILED

    def whole(table: bytes, consents: bytes, hashes: bytes, parts: list[bytes]) -> bytes:
        return write_parts([table, consents, hashes, write_parts(parts)])

    # One site's upload alone, or one left out after the consents: the list is not what was consented to.
    ask(lambda w, t, c, h, p: whole(t[:row], c, h[:32], [p[0], p[1]]), "at least 5 sites, got 1")
    ask(lambda w, t, c, h, p: whole(t[:-row], c[: 5 * 68], h[:-32], p[:-1]), "consent of site 1 does not verify")
    # One site's ciphertext in every place, a changed one, or another site's.
    ask(
        lambda w, t, c, h, p: whole(t, c, h, [p[0], *[p[2]] * 6]),
        "Chunk 0 of site 1 is not the one that the site signed",
    )
    ask(lambda w, t, c, h, p: whole(t, c, h, [*p[:-1], p[-1][:-1] + b"x"]), "Chunk 0 of site 6 is not the one")
    ask(lambda w, t, c, h, p: whole(t, c, h[32:] + h[:32], p), "chunks of site 1 are not those that the site signed")
    # Too few consents, a stranger's, one of another session.
    ask(lambda w, t, c, h, p: whole(t, c[: 3 * 68], h, p), "consents of 4 sites, got 3")
    other = World(6, round_=2)
    _, foreign, _, _ = uploads(other)
    ask(lambda w, t, c, h, p: whole(t, foreign, h, p), "consent of site 1 does not verify")
    # A part of the chunks again, or others than the next.
    ask(lambda w, t, c, h, p: whole(t, c, h, [write_range(range(1, 2)), *p[1:]]), "chunks within 0 to 1")


def test_the_same_sum_is_decrypted_once_even_by_a_restarted_key_holder() -> None:
    world = World(6)
    requests = world.until(Step.DECRYPTING)
    assert requests is not None
    holder = world.sites[1]
    once = holder.answer(requests[1])
    assert holder.answer(requests[1]) == once
    refused(lambda: holder.answer(requests[1] + b"x"), "state 'done'")
    again = World(6)
    again.stores[1] = world.stores[1]
    again.sites[1] = again.site(1)
    refused(lambda: again.sites[1].open(again.inputs[1]), "opened before")


def test_a_public_key_that_the_holder_did_not_sign_is_refused() -> None:
    world = World(6)
    requests = world.exchange(world.open())
    assert requests is not None
    keys, asked = read_parts(requests[2], 2, "test")
    forged = keys[:96] + KeyPair().public_key  # the coordinator's own key, so that it could read
    refused(lambda: world.sites[2].answer(write_parts([forged, asked])), "public key of site 1 does not verify")
    other = World(6, round_=2)
    replayed = other.exchange(other.open())
    assert replayed is not None
    refused(lambda: world.sites[3].answer(replayed[3]), "public key of site 1 does not verify")


def test_a_site_encrypts_each_chunk_once_and_consents_once() -> None:
    world = World(6)
    requests = world.exchange(world.open())
    assert requests is not None
    site = world.sites[2]
    first = site.answer(requests[2])
    assert site.answer(requests[2]) == first  # a reply that was lost is given again, not made again
    for other in (b"", write_range(range(0, 1))):
        refused(lambda o=other: site.answer(o), "")
    refused(lambda: site.answer(requests[2]), "state 'failed'")


def test_sums_without_noise_are_over_the_same_sites_and_noised_ones_need_not() -> None:
    for noised in (False, True):
        first, second = World(6, noised=noised), World(6, round_=2, noised=noised)
        first.until(Step.DONE)
        for site in second.keys:
            second.stores[site] = first.stores[site]
            second.sites[site] = second.site(site)
        requests = second.until(Step.CONSENTING, {Step.UPLOADING: [6]})
        assert requests is not None
        if noised:
            second.sites[2].answer(requests[2])
        else:
            refused(lambda: second.sites[2].answer(requests[2]), "other sites than in an earlier sum")  # noqa: B023


def test_a_restored_ledger_is_noticed_by_the_key_holder() -> None:
    first, second = World(5, noised=True), World(5, noised=True, round_=2)
    first.until(Step.DONE)
    second.stores[1] = first.stores[1]
    second.stores[1].ledger_seen(3, Head(9, bytes(32)))
    second.sites[1] = second.site(1)
    refused(lambda: second.until(Step.DONE), "ledger of site 3 was rolled back: it had 9 entries")


@pytest.mark.parametrize("data", [b"", b"garbage" * 100, bytes(220_000), os.urandom(220_000), bytes(400_000)])
def test_foreign_ciphertexts_are_refused_by_their_sites_name(data: bytes) -> None:
    refused(lambda: KeyPair().decrypt_sum([(4, data)]), "a ciphertext of site 4")
    refused(lambda: Encryptor(data), "a public key")


def test_truncated_ciphertexts_and_other_parameters_are_refused() -> None:
    pair = KeyPair()
    good = Encryptor(pair.public_key).encrypt(np.arange(SLOTS, dtype=np.uint64))
    assert np.array_equal(pair.decrypt_sum([(1, good), (2, good)]), 2 * np.arange(SLOTS, dtype=np.uint64))
    for cut in (10, 1000, len(good) // 2, len(good) - 1):
        refused(lambda c=cut: pair.decrypt_sum([(1, good), (2, good[:c])]), "a ciphertext of site 2")
    refused(lambda: KeyPair().decrypt_sum([(1, good)]), "site 1 is not a fresh encryption under this session's key")


def test_a_small_ciphertext_cannot_take_much_memory() -> None:
    """Found by a review: with a forged size SEAL inflated 97 kB to 3 GB before it said no."""
    import zstandard

    good = Encryptor(KeyPair().public_key).encrypt(np.zeros(SLOTS, dtype=np.uint64))
    raw = bytearray(zstandard.ZstdDecompressor().decompress(good[16:], max_output_size=10**6))
    raw[33:41] = bytes(8)  # the number of polynomials
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for count in (2**20, 2**27):
        forged = bytearray(raw)
        forged[89:97] = count.to_bytes(8, "little")
        bomb = good[:16] + zstandard.ZstdCompressor().compress(bytes(forged) + bytes(8 * 2**20))
        refused(lambda b=bomb: KeyPair().decrypt_sum([(4, b)]), "a ciphertext of site 4")
        refused(lambda b=bomb: Encryptor(b), "a public key")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_a_site_with_a_key_of_low_order_or_oversized_chunks_is_left_out_by_name() -> None:
    world = World(6)
    replies = world.open()
    identity_ = world.sites[4]._me.identity
    signature = identity_.sign_raw(key_statement(world.session.id, 4, bytes(32), b""))
    refused(lambda: world.coordinator.receive(4, bytes(32) + signature), "key of site 4")
    requests = world.exchange({site: reply for site, reply in replies.items() if site != 4})
    assert requests is not None
    big = write_parts([bytes(400_000), bytes(64)])
    refused(lambda: world.coordinator.receive(3, big), "A chunk of site 3 has 400000 bytes")


def test_a_malicious_site_that_sends_somebody_elses_key_spoils_nothing_in_silence() -> None:
    pair, other = KeyPair(), KeyPair()
    slots = np.arange(SLOTS, dtype=np.uint64)
    mixed = [(1, Encryptor(pair.public_key).encrypt(slots)), (2, Encryptor(other.public_key).encrypt(slots))]
    refused(lambda: pair.decrypt_sum(mixed), "site 2 is not a fresh encryption")


def decryptors_of(*owned: object) -> list["seal.Decryptor"]:
    """Return every SEAL decryptor, that is every secret key, that can be reached from what somebody owns."""
    found: list[seal.Decryptor] = []
    todo, seen = list(owned), set()
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, seal.Decryptor):
            found.append(item)
        todo.extend(vars(item).values() if hasattr(item, "__dict__") else [])
        todo.extend(item if isinstance(item, list | tuple) else [])
    return found


def reads(owned: list[object], wire: list[bytes], expected: np.ndarray, folder: str) -> bool:
    """Return whether somebody who owns these objects and has seen this traffic can read a vector."""
    made = context()
    for decryptor in decryptors_of(*owned):
        for data in wire:
            path = os.path.join(folder, "c")
            with open(path, "wb") as file:
                file.write(data)
            cipher, plain = seal.Ciphertext(made), seal.Plaintext()
            try:
                cipher.load(made, path)
            except (RuntimeError, ValueError):  # random bytes fail in either way
                continue
            decryptor.decrypt(cipher, plain)
            if np.array_equal(np.array(seal.BatchEncoder(made).decode_uint64(plain), dtype=np.uint64), expected):
                return True
    return False


def test_a_site_with_all_traffic_reads_nothing_where_the_shared_key_design_reads_everything(tmp_path: object) -> None:
    folder = str(tmp_path)
    world = World(6)
    requests = world.exchange(world.open())
    replies = world.answers(requests)
    wire = [read_parts(reply, 2, "test")[0] for reply in replies.values()]
    words = encode(world.inputs[3], world.shape, FixedPoint(world.packing.fraction_bits), os.urandom)
    secret = world.packing.pack(words)
    for attacker in set(world.keys) - {3, world.holder}:
        assert not reads([world.sites[attacker]], wire, secret, folder)
    assert not reads([world.coordinator], wire, secret, folder)
    # The same attack succeeds for the key holder once it has opened its boxes, and for any site of a design that puts one
    # secret key into every kit and bare ciphertexts on the wire.
    holder = world.sites[world.holder]
    box = Box(world.session.id, 3, holder._channel.reveal(), world.coordinator._channels[3])
    assert not reads([holder], wire, secret, folder)
    assert reads([holder], [box.open(0, wire[2])[STATEMENT_BYTES:]], secret, folder)
    shared = KeyPair()
    assert reads([world.sites[5], shared], [Encryptor(shared.public_key).encrypt(secret)], secret, folder)


def test_what_is_on_the_wire_is_random_and_holds_no_plain_value() -> None:
    world = World(6)
    replies = world.answers(world.exchange(world.open()))
    sealed = read_parts(replies[3], 2, "test")[0]
    counts = np.bincount(np.frombuffer(sealed, dtype=np.uint8), minlength=256)
    expected = len(sealed) / 256
    assert float(((counts - expected) ** 2 / expected).sum()) < 400  # chi-square with 255 degrees of freedom, 1e-8
    assert replace(world.inputs[3]).update.tobytes() not in sealed


def test_the_coordinator_holds_nothing_after_the_end() -> None:
    world = World(5)
    world.until(Step.DONE)
    assert isinstance(world.coordinator, EncryptedCoordinator)
    assert world.coordinator._spool is None
    refused(world.coordinator.close, "has ended")
    refused(lambda: world.coordinator.receive(1, b""), "has ended")


def test_the_key_holder_decrypts_no_sum_to_which_too_few_sites_contribute() -> None:
    world = World(6)
    for site in (2, 4, 5, 6):
        world.inputs[site] = Contribution(np.zeros(10, np.float32), 0.0, np.zeros(1))
    requests = world.until(Step.DECRYPTING)
    assert requests is not None
    with pytest.raises(NotOpened) as caught:
        world.sites[1].answer(requests[1])
    assert "2 sites contributed training data: [1, 3]; 5 are needed" in caught.value.detail
    assert "[1, 3]" not in str(caught.value)
    assert world.sites[1].state is State.FAILED
    refused(world.coordinator.close, "did not decrypt")


@pytest.mark.parametrize("change", ["lost", "gained"])
def test_the_key_holder_decrypts_no_second_sum_with_other_contributors(change: str) -> None:
    first, second = World(6), World(6, round_=2)
    nothing = Contribution(np.zeros(10, np.float32), 0.0, np.zeros(1))
    (first if change == "gained" else second).inputs[6] = nothing
    first.until(Step.DONE)
    second.stores = first.stores
    second.sites = {site: second.site(site) for site in second.keys}
    requests = second.until(Step.DECRYPTING)
    assert requests is not None
    with pytest.raises(NotOpened, match="or other sites than"):
        second.sites[1].answer(requests[1])


def test_only_the_key_holder_can_read_a_statement() -> None:
    world = World(6)
    world.inputs[3] = Contribution(np.zeros(10, np.float32), 0.0, np.zeros(1))
    replies = world.answers(world.exchange(world.open()))
    starts = {read_parts(reply, 2, "test")[0][:STATEMENT_BYTES] for reply in replies.values()}
    assert len(starts) == 6
    assert bytes(STATEMENT_BYTES) not in starts


def test_sums_opened_by_another_key_holder_do_not_follow_each_other() -> None:
    """Only a key holder knows who contributed; a second one could not see that a site fell out in between."""
    first, second = World(6), World(6, round_=2, holder=2)
    first.until(Step.DONE)
    second.stores = first.stores
    second.sites = {site: second.site(site) for site in second.keys}
    requests = second.until(Step.CONSENTING)
    assert requests is not None
    refused(lambda: second.sites[3].answer(requests[3]), "opened by 'encryption/1', but this one by 'encryption/2'")
