import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salus.common.canonical import canonical_json, hash_parts, u32

VECTOR = "e6765cb13d944ee3dcd1ab82d461bc59beae702d5c379c38e2ba60fb30c22872"


def test_hash_of_the_protocol_vector() -> None:
    assert hash_parts(b"", b"\x00", b"abc").hex() == VECTOR


@given(st.lists(st.binary(max_size=8), max_size=4), st.lists(st.binary(max_size=8), max_size=4))
def test_different_parts_have_different_hashes(a: list[bytes], b: list[bytes]) -> None:
    assert (hash_parts(*a) == hash_parts(*b)) == (a == b)


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.booleans(), max_size=5))
def test_canonical_json_does_not_depend_on_order(value: dict[str, object]) -> None:
    backwards = dict(reversed(list(value.items())))
    assert canonical_json(value) == canonical_json(backwards)
    assert json.loads(canonical_json(value)) == value


def test_canonical_json_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": float("nan")})


def test_u32_refuses_what_does_not_fit() -> None:
    with pytest.raises(OverflowError):
        u32(2**32)
