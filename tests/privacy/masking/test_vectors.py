"""Every value of the protocol's test vectors, a dropped site included."""

import hashlib
from typing import Any

import numpy as np
import pytest
from tests.privacy.masking.world import VECTORS, scripted, vectors

from salus.common.canonical import hash_parts
from salus.common.identity import Identity
from salus.privacy.contribution import Shape
from salus.privacy.masking.coordinator import MaskingCoordinator
from salus.privacy.masking.keys import pair_mask_key, self_mask_key
from salus.privacy.masking.messages import Advert
from salus.privacy.masking.shamir import combine
from salus.privacy.masking.site import MaskingSite
from salus.privacy.prg import keystream
from salus.privacy.protocol.encoding import FixedPoint
from salus.privacy.protocol.keys import private_key, public_of
from salus.privacy.protocol.parameters import thresholds
from salus.privacy.protocol.party import SiteParty
from salus.privacy.protocol.session import Session
from salus.privacy.protocol.store import MemoryStore
from salus.privacy.protocol.transcript import no_record

pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not VECTORS.exists(), reason="needs the vectors in ../shared/vectors"),
]


@pytest.fixture(scope="module")
def v() -> dict[str, Any]:
    return vectors()


def session_of(v: dict[str, Any]) -> Session:
    manifest = hashlib.sha256(bytes.fromhex(v["manifest_hex"])).digest()
    model = hashlib.sha256(bytes.fromhex(v["model_hex"])).digest()
    assert (manifest.hex(), model.hex()) == (v["manifest_sha256"], v["model_sha256"])
    return Session(v["job_id"], v["round"], v["attempt"], manifest, model, tuple(v["roster_ids"]))


def test_hash_session_and_thresholds(v: dict[str, Any]) -> None:
    assert hash_parts(*(bytes.fromhex(part) for part in v["hash"]["parts_hex"])).hex() == v["hash"]["H"]
    assert session_of(v).id.hex() == v["session_id"]
    for n, wanted in v["thresholds"].items():
        limits = thresholds(int(n))
        assert (limits.colluders, limits.threshold) == (wanted["c"], wanted["t"])
    assert (thresholds(5).threshold, thresholds(5).colluders) == (v["threshold"], v["corruptions"])


def test_keystream(v: dict[str, Any]) -> None:
    key = bytes.fromhex(v["prg"]["key"])
    for segment in (0, 1):
        words = v["prg"][f"segment_{segment}_first_words"]
        assert keystream(key, segment, len(words)).tolist() == words


def test_shares(v: dict[str, Any]) -> None:
    shares = {int(i): int(share, 16).to_bytes(66, "big") for i, share in v["shamir"]["shares"].items()}
    for chosen in ((1, 2, 3), (3, 4, 5), (1, 3, 5)):
        assert combine({i: shares[i] for i in chosen}, v["shamir"]["threshold"]).hex() == v["shamir"]["secret"]


def test_keys(v: dict[str, Any]) -> None:
    session = bytes.fromhex(v["session_id"])
    for number, site in v["sites"].items():
        assert Identity.from_seed(bytes.fromhex(site["ed25519_seed"])).public_key.hex() == site["ed25519_public"]
        assert public_of(bytes.fromhex(site["x25519_channel_private"])).hex() == site["x25519_channel_public"]
        assert public_of(bytes.fromhex(site["x25519_mask_private"])).hex() == site["x25519_mask_public"]
        assert self_mask_key(session, bytes.fromhex(site["self_seed"]), int(number)).hex() == site["self_mask_key"]
    for pair, key in v["pair_mask_keys"].items():
        i, j = (int(part) for part in pair.split("-"))
        for a, b in ((i, j), (j, i)):
            private = private_key(bytes.fromhex(v["sites"][str(a)]["x25519_mask_private"]))
            public = bytes.fromhex(v["sites"][str(b)]["x25519_mask_public"])
            assert pair_mask_key(session, private, public, a, b).hex() == key


def test_a_whole_session_with_a_dropped_site(v: dict[str, Any]) -> None:
    session = session_of(v)
    keys = {int(n): bytes.fromhex(site["ed25519_public"]) for n, site in v["sites"].items()}
    length = len(v["sites"]["1"]["input"])
    shape, encoding = Shape(length - 1, 0, 1.0), FixedPoint(20)
    sites = {}
    for number, site in v["sites"].items():
        secrets = [bytes.fromhex(site[name]) for name in ("x25519_channel_private", "x25519_mask_private", "self_seed")]
        signer = Identity.from_seed(bytes.fromhex(site["ed25519_seed"]))
        party = SiteParty(int(number), signer, keys, MemoryStore(), 0, scripted(secrets), "data/0")
        sites[int(number)] = MaskingSite(session, shape, encoding, party)
    coordinator = MaskingCoordinator(session, shape, encoding, keys, no_record)
    # The vectors' cohort of four is smaller than the protocol's own minimum; only this test lowers it.
    lowered = type("Lowered", (), {"colluders": 1, "threshold": 4, "needed": 4, "minimum_cohort": 4, "sites": 5})()
    for end in sites.values():
        end._agreement.limits = lowered
    coordinator._limits = lowered
    for number, end in sites.items():
        advert = end.open_words(np.array(v["sites"][str(number)]["input"], np.uint32))
        assert Advert.from_bytes(advert).signature.hex() == v["sites"][str(number)]["advertise_signature"]
        coordinator.receive(number, advert)
    requests = coordinator.close()
    assert requests is not None
    for number, request in requests.items():
        coordinator.receive(number, sites[number].answer(request))
    requests = coordinator.close()
    assert requests is not None
    for number, request in requests.items():
        reply = sites[number].answer(request)
        assert reply[:64].hex() == v["sites"][str(number)]["masked_signature"]
        assert np.frombuffer(reply[64:], "<u4").tolist() == v["sites"][str(number)]["masked"]
        if number in v["survivors"]:
            coordinator.receive(number, reply)
    requests = coordinator.close()
    assert requests is not None
    assert sorted(requests) == v["survivors"]
    for number, request in requests.items():
        reply = sites[number].answer(request)
        assert reply.hex() == v["consent_signatures"][str(number)]
        coordinator.receive(number, reply)
    requests = coordinator.close()
    assert requests is not None
    for number, request in requests.items():
        coordinator.receive(number, sites[number].answer(request))
    assert coordinator.close() is None
    summed = np.rint(coordinator.result.vector * encoding.scale).astype(np.int64)
    assert summed.tolist() == v["sum_over_survivors"]
