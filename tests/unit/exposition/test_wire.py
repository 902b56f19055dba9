"""The protobuf wire format: what is encoded, what comes back of it, and what is refused."""

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kpod_metrics.exposition import wire


@given(st.integers(0, 2**64 - 1))
def test_varint(number: int) -> None:
    encoded = wire.varint(number)
    assert sum((byte & 127) << 7 * at for at, byte in enumerate(encoded)) == number
    assert [byte > 127 for byte in encoded] == [True] * (len(encoded) - 1) + [False]


@pytest.mark.parametrize(
    ("number", "encoded"), [(0, 0), (-1, 1), (1, 2), (-2, 3), (-64, 127), (64, 128), (2**31 - 1, 2**32 - 2)]
)
def test_signed(number: int, encoded: int) -> None:
    assert wire.signed(number) == wire.varint(encoded)


def test_fixed() -> None:
    assert wire.fixed(1, 2**63) == b"\x09" + struct.pack("<Q", 2**63)
    assert wire.signed_fixed(2, -(2**63)) == b"\x11" + struct.pack("<q", -(2**63))


@pytest.mark.parametrize("number", [0, 127, 128, (1 << 14) - 1, 1 << 14, (1 << 21) - 1, 1 << 63])
def test_varints_at_the_bounds_of_their_lengths(number: int) -> None:
    encoded = wire.varint(number)
    assert sum((byte & 127) << 7 * at for at, byte in enumerate(encoded)) == number
    assert [byte >> 7 for byte in encoded] == [1] * (len(encoded) - 1) + [0]
    assert len(encoded) == max(1, -(-number.bit_length() // 7))


@given(st.integers(0, 2**63 - 1), st.integers(-(2**63), 2**63 - 1), st.text(max_size=200), st.floats(allow_nan=False))
@example(0, 0, "", 0.0)
@example(2**63 - 1, -(2**63), "x" * 200, float("inf"))
def test_fields_come_back(number: int, signed: int, text: str, double: float) -> None:
    body = wire.uint(1, number) + wire.sint(2, signed) + wire.string(300, text) + wire.double(4, double)
    (first, whole), (second, zigzag), *others = wire.fields(body)
    assert (first, whole) == (1, number)
    assert isinstance(zigzag, int)
    assert (second, wire.unzigzag(zigzag)) == (2, signed)
    assert others == [(300, text.encode()), (4, double)]


def test_a_number_of_single_precision_is_read() -> None:
    assert list(wire.fields(b"\x1d" + struct.pack("<f", -2.5))) == [(3, -2.5)]


def test_numbers_have_ten_bytes_at_most() -> None:
    assert wire.read_varint(b"_" + b"\xff" * 9 + b"\x01_", 1) == (2**64 - 1, 11)
    with pytest.raises(ValueError, match="truncated number"):
        wire.read_varint(b"\xff" * 10 + b"\x01", 0)


def test_the_last_byte_of_a_number_may_be_missing() -> None:
    with pytest.raises(ValueError, match="truncated number"):
        wire.read_varint(b"\xff", 0)


@pytest.mark.parametrize("body", [b"\x0a\x02a", b"\x09" + bytes(7), b"\x0d" + bytes(3)])
def test_a_field_that_ends_after_its_message(body: bytes) -> None:
    with pytest.raises(ValueError, match="truncated field"):
        list(wire.fields(body))


@pytest.mark.parametrize("kind", [3, 4, 6, 7])
def test_other_wire_types_are_refused(kind: int) -> None:
    with pytest.raises(ValueError, match=f"unknown wire type {kind}"):
        list(wire.fields(bytes([1 << 3 | kind])))
