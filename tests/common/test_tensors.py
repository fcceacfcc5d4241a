import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from salus.common.errors import WireError
from salus.common.tensors import DTYPES, TensorSpec, decode_tensors, encode_tensors

ARRAYS = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: hnp.arrays(np.dtype(name), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)


@given(st.dictionaries(st.text(max_size=20), ARRAYS, max_size=4))
def test_round_trip(tensors: dict[str, np.ndarray]) -> None:
    decoded = decode_tensors(encode_tensors(tensors))
    assert list(decoded) == list(tensors)
    for name, array in tensors.items():
        assert decoded[name].dtype == array.dtype
        assert decoded[name].shape == array.shape
        assert decoded[name].tobytes() == array.tobytes()


@settings(max_examples=400)
@given(st.data())
def test_damaged_bytes_are_refused_or_equal_never_anything_else(data: st.DataObject) -> None:
    good = encode_tensors({"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.int64)})
    position = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    for candidate in (bytes(bad), good[:cut], good + good[:cut]):
        try:
            decoded = decode_tensors(candidate, (TensorSpec("w", "float32", (2, 3)), TensorSpec("b", "int64", (2,))))
        except WireError:
            continue
        assert [a.shape for a in decoded.values()] == [(2, 3), (2,)]


@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_but_wire_error(data: bytes) -> None:
    for candidate in (data, b"SALT\x00\x00\x00\x01" + data):
        with pytest.raises(WireError):
            decode_tensors(candidate)


@pytest.mark.parametrize(
    "header",
    [
        b'[["x","float32",[1099511627775,1099511627775]]]',
        b'[["x","float32",[-1]]]',
        b'[["x","float32",[1.0]]]',
        b'[["x","float32",[true]]]',
        b'[["x","object",[1]]]',
        b'[["x","float32",[1]],["x","float32",[1]]]',
        b'{"x":1}',
        b"[" * 50_000,
    ],
)
def test_lying_headers_are_refused_before_allocation(header: bytes) -> None:
    data = b"SALT" + (1).to_bytes(4, "big") + len(header).to_bytes(4, "big") + header + b"\0" * 8
    with pytest.raises(WireError):
        decode_tensors(data)


def test_object_arrays_do_not_travel() -> None:
    with pytest.raises(WireError, match="dtype"):
        encode_tensors({"x": np.array([{}], dtype=object)})


def test_another_model_is_refused() -> None:
    data = encode_tensors({"w": np.zeros(3, np.float32)})
    with pytest.raises(WireError, match="agreed model"):
        decode_tensors(data, [TensorSpec("w", "float32", (4,))])
