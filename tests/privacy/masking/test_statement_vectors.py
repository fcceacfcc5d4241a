"""The vectors of the hash of adverts, the box and the statement in it, as ``docs/masked-sum.md`` defines them."""

import json
from pathlib import Path
from typing import Any

import pytest

from salus.privacy.contribution import DataKind
from salus.privacy.masking.keys import ShareChannel
from salus.privacy.masking.messages import BOX_BYTES, Advert, adverts_hash
from salus.privacy.protocol.contributors import Statement
from salus.privacy.protocol.keys import agree, private_key, public_of
from salus.privacy.protocol.secret import Secret

FILE = Path(__file__).parent / "vectors" / "statements.json"


@pytest.fixture(scope="module")
def v() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(FILE.read_text())
    return loaded


def test_the_file_is_what_its_generator_makes(v: dict[str, Any]) -> None:
    from tests.privacy.masking.vectors.generate import make

    assert make() == v


def test_adverts_hash_begins_with_its_name(v: dict[str, Any]) -> None:
    adverts = {
        int(site): Advert(bytes.fromhex(keys["channel_public"]), bytes.fromhex(keys["mask_public"]), bytes(64))
        for site, keys in v["sites"].items()
    }
    assert adverts_hash(adverts).hex() == v["adverts_hash"]
    for site, keys in v["sites"].items():
        assert public_of(bytes.fromhex(keys["channel_private"])) == adverts[int(site)].channel


def agreed(own: dict[str, str], other: dict[str, str]) -> Secret:
    private = private_key(bytes.fromhex(own["channel_private"]))
    return Secret(agree(private, bytes.fromhex(other["channel_public"]), who="the other"))


def test_a_box_with_its_associated_data_and_statement(v: dict[str, Any]) -> None:
    box = v["box"]
    channel = ShareChannel(
        bytes.fromhex(v["session"]), box["sender"], box["receiver"], bytes.fromhex(v["adverts_hash"])
    )
    assert channel._associated().hex() == box["associated_data"]
    sender, receiver = v["sites"][str(box["sender"])], v["sites"][str(box["receiver"])]
    said = Statement(DataKind.TRAINING | DataKind.VALIDATION, box["statement"]["minimum"])
    assert said.to_bytes().hex() == box["statement"]["bytes"]
    plain = bytes.fromhex(box["seed_share"] + box["mask_share"]) + said.to_bytes()
    sealed = channel.seal(agreed(sender, receiver), plain)
    assert sealed.hex() == box["sealed"]
    assert len(sealed) == BOX_BYTES
    opened = channel.open(agreed(receiver, sender), sealed)
    assert Statement.from_bytes(opened[132:], box["sender"]) == said
