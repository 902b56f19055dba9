"""Makes bad input of good: a seeded generator of byte strings, the same for the same seed on every machine."""

import random
from collections.abc import Sequence

_NUMBERS = [
    *(str(2**bits + near).encode() for bits in (7, 8, 15, 16, 31, 32, 63, 64, 128) for near in (-1, 0, 1)),
    *(b"-1", b"0", b"00", b"1e9", b"0x10", b"1.5", b"nan", b"inf", b"1_000", b"+5", b"9" * 5000),
    "٣".encode(),  # a digit, to Python's str
]
_BYTES = [
    *(
        b"\0",
        b"\n",
        b"\r\n",
        b" ",
        b"\t",
        b"\\",
        b'"',
        b"'",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b"=",
        b",",
        b"#",
        b"/",
        b"..",
    ),
    *(b"\\040", b"\\000", b"\\777", b"\\u0000", b"\\ud800", b"&a *a", b"!!python/object:os.system", b"<<: *a"),
    *(b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", "\u2028".encode(), "\u0085".encode(), "😀".encode()),
    *(b"null", b"true", b"[]", b"{}", b'""'),
]
LONG = 64 << 10


class Mutator:
    """Yields inputs made of some that are good."""

    def __init__(self, seeds: Sequence[bytes], seed: int) -> None:
        self._seeds = list(seeds)
        self._random = random.Random(seed)

    def next(self) -> bytes:
        """One more: some seeds as they are, most with one to eight changes."""
        chance = self._random
        data = chance.choice(self._seeds)
        for _ in range(min(int(chance.expovariate(0.5)), 8)):
            data = self._change(data)
        return data

    def _change(self, data: bytes) -> bytes:
        chance = self._random
        at = chance.randint(0, len(data))
        end = min(len(data), at + int(chance.expovariate(0.1)))
        kind = chance.randrange(10)
        if kind == 0:
            return data[:at] + data[end:]
        if kind == 1:
            return data[:at]
        if kind == 2:
            return data[:at] + data[at:end] * chance.randint(2, 5) + data[end:]
        if kind == 3:
            return data[:at] + chance.randbytes(end - at) + data[end:]
        if kind == 4:
            return data[:at] + chance.choice(_BYTES) + data[at:]
        if kind == 5:
            return data[:at] + chance.choice(_BYTES) + data[end:]
        if kind == 6:
            other = chance.choice(self._seeds)
            return data[:at] + other[chance.randint(0, len(other)) :]
        if kind == 7 and not chance.randrange(50):
            return data[:at] + chance.choice(_BYTES) * (LONG // 2) + data[at:]
        if kind in {7, 8}:
            return self._number(data, at)
        # One bit.
        return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :] if at < len(data) else data

    def _number(self, data: bytes, at: int) -> bytes:
        """Put another number in the place of the next one."""
        while at < len(data) and not 48 <= data[at] <= 57:
            at += 1
        end = at
        while end < len(data) and 48 <= data[end] <= 57:
            end += 1
        return data[:at] + self._random.choice(_NUMBERS) + data[end:]
