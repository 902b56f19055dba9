"""The protobuf wire format, as much of it as is written here.

Encoded by hand: it is three kinds of field, and a library for it costs memory in every agent, for the scrapers that ask
for it (protobuf.dev/programming-guides/encoding).
"""

from functools import cache
from struct import Struct

_BYTES = [bytes([number]) for number in range(128)]
_DOUBLE = Struct("<d").pack
_FIXED = Struct("<Q").pack
_SIGNED_FIXED = Struct("<q").pack

_VARINT, _FIXED64, _LENGTH = 0, 1, 2
"""Wire types."""


def varint(number: int) -> bytes:
    """Encode a number that is not negative: seven bits a byte, the low ones first."""
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
    """Encode a number of a `sint32` or `sint64`: those near zero are short, whatever their sign."""
    zigzag = 2 * number if number >= 0 else -2 * number - 1
    return _BYTES[zigzag] if zigzag < 128 else varint(zigzag)


@cache
def tag(field: int, kind: int) -> bytes:
    """Encode what comes before a field's value."""
    return varint(field << 3 | kind)


def message(field: int, body: bytes) -> bytes:
    """Encode a field of bytes: a message, a string, packed numbers."""
    return tag(field, _LENGTH) + varint(len(body)) + body


def string(field: int, text: str) -> bytes:
    """Encode a field of text; a lone surrogate, which UTF-8 has not, becomes a question mark."""
    return message(field, text.encode("utf-8", "replace"))


def number(field: int, value: int) -> bytes:
    """Encode a field of a number that is not negative."""
    return tag(field, _VARINT) + varint(value)


def signed_number(field: int, value: int) -> bytes:
    """Encode a field of type `sint32` or `sint64`."""
    return tag(field, _VARINT) + signed(value)


def double(field: int, value: float) -> bytes:
    """Encode a field of a floating-point number."""
    return tag(field, _FIXED64) + _DOUBLE(value)


def fixed(field: int, value: int) -> bytes:
    """Encode a field of type `fixed64`."""
    return tag(field, _FIXED64) + _FIXED(value)


def signed_fixed(field: int, value: int) -> bytes:
    """Encode a field of type `sfixed64`."""
    return tag(field, _FIXED64) + _SIGNED_FIXED(value)
