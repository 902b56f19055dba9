"""The part of the protobuf wire format that the agent writes and reads (protobuf.dev/programming-guides/encoding).

It is written by hand: there are three kinds of fields, and a library would cost memory in every agent.
"""

from collections.abc import Iterator
from functools import cache
from struct import Struct

_BYTES = [bytes([number]) for number in range(128)]
_DOUBLE = Struct("<d").pack
_FIXED = Struct("<Q").pack
_SIGNED_FIXED = Struct("<q").pack

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
"""Wire types."""
_FLOATS = {_FIXED64: Struct("<d"), _FIXED32: Struct("<f")}
"""Formats of the fields of fixed length."""

Field = int | float | bytes
"""A decoded value; bytes are a message, a string, or packed numbers."""


def varint(number: int) -> bytes:
    """Encode an unsigned number: seven bits per byte, the low ones first."""
    if number < 128:
        return _BYTES[number]
    if number < 1 << 14:
        return bytes((number & 127 | 128, number >> 7))
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def signed(number: int) -> bytes:
    """Encode a number of type `sint32` or `sint64`: numbers near zero are short, whatever their sign."""
    zigzag = 2 * number if number >= 0 else -2 * number - 1
    return _BYTES[zigzag] if zigzag < 128 else varint(zigzag)


@cache
def tag(field: int, kind: int) -> bytes:
    """Encode the number and type of a field."""
    return varint(field << 3 | kind)


def message(field: int, body: bytes) -> bytes:
    """Encode a field of bytes: a message, a string, or packed numbers."""
    return tag(field, _LENGTH) + varint(len(body)) + body


def string(field: int, text: str) -> bytes:
    """Encode a field of text. A lone surrogate, which UTF-8 cannot encode, becomes a question mark."""
    return message(field, text.encode("utf-8", "replace"))


def uint(field: int, value: int) -> bytes:
    """Encode a field of an unsigned number."""
    return tag(field, _VARINT) + varint(value)


def sint(field: int, value: int) -> bytes:
    """Encode a field of type `sint32` or `sint64`."""
    return tag(field, _VARINT) + signed(value)


def double(field: int, value: float) -> bytes:
    """Encode a field of type `double`."""
    return tag(field, _FIXED64) + _DOUBLE(value)


def fixed(field: int, value: int) -> bytes:
    """Encode a field of type `fixed64`."""
    return tag(field, _FIXED64) + _FIXED(value)


def signed_fixed(field: int, value: int) -> bytes:
    """Encode a field of type `sfixed64`."""
    return tag(field, _FIXED64) + _SIGNED_FIXED(value)


def fields(data: bytes) -> Iterator[tuple[int, Field]]:
    """Yield the number and value of each field of a message; raises ValueError if the bytes are not a message.

    Fields of fixed length are read as floating-point numbers: no caller needs an integer of fixed length.
    """
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        kind = key & 7
        value: Field
        if kind == _VARINT:
            value, at = read_varint(data, at)
        elif kind == _LENGTH:
            length, at = read_varint(data, at)
            value = part(data, at, length)
            at += length
        elif kind in _FLOATS:
            form = _FLOATS[kind]
            (value,) = form.unpack(part(data, at, form.size))
            at += form.size
        else:
            raise ValueError(f"unknown wire type {kind}")
        yield key >> 3, value


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at an offset, and the offset behind it; raises ValueError."""
    decoded = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        decoded |= (byte & 127) << shift
        if byte < 128:
            return decoded, at
    raise ValueError("truncated number")


def part(data: bytes, at: int, length: int) -> bytes:
    """Return bytes from an offset; raises ValueError if there are fewer."""
    if at + length > len(data):
        raise ValueError("truncated field")
    return data[at : at + length]


def unzigzag(number: int) -> int:
    """Return the number of a `sint32` or `sint64`, as `signed` encodes it."""
    return number >> 1 ^ -(number & 1)
