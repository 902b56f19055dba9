"""Layouts of C structures, read from an object's BTF, so that a structure is written once, in C.

The format is described in the kernel's Documentation/bpf/btf.rst. Only little-endian BTF is read: the supported
machines (x86-64, arm64) are.
"""

import struct
from dataclasses import dataclass

_MAGIC = 0xEB9F
_INT, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 3, 4, 5, 6
_TYPEDEF, _VOLATILE, _CONST, _RESTRICT = 8, 9, 10, 11
_FUNC_PROTO, _VAR, _DATASEC, _DECL_TAG, _ENUM64 = 13, 14, 15, 17, 19
_MODIFIERS = {_TYPEDEF, _VOLATILE, _CONST, _RESTRICT}
_WORDS = {_INT: 1, _ARRAY: 3, _VAR: 1, _DECL_TAG: 1}
"""32-bit words that follow a type's head."""
_WORDS_OF_MEMBER = {_STRUCT: 3, _UNION: 3, _ENUM: 2, _FUNC_PROTO: 2, _DATASEC: 3, _ENUM64: 3}
_FORMATS = {(struct.calcsize(f"<{code}"), code.islower()): code for code in "BHIQbhiq"}
"""Of module struct, by size and sign."""


class BtfError(ValueError):
    """The bytes are not BTF, or a layout cannot hold a type in them (a bitfield, a union, a hole in a key)."""

    def __init__(self, text: str) -> None:
        # It contains names, or arbitrary bytes if the input is not BTF.
        super().__init__("".join(letter if letter.isprintable() else "?" for letter in text))


@dataclass(frozen=True)
class Field:
    """A number, or an array of numbers, and its place."""

    name: str
    """Dotted for a member of a member: `wait.buckets`."""
    count: int
    offset: int
    size: int
    """Place and length in the structure, in bytes."""


class Layout:
    """How to unpack a structure: `unpack` returns a flat tuple, `fields` has the place of each field."""

    def __init__(self, size: int, parts: list[tuple[str, int, str, int]], *, unnamed_holes: bool) -> None:
        """`parts`: name, byte offset, struct format, count; in the order of the offsets."""
        self.size = size
        self.fields: dict[str, Field] = {}
        formats, at = ["<"], 0
        for name, offset, code, count in parts:
            if offset < at or name in self.fields:
                raise BtfError(f"{name} overlaps the field before it, or is declared twice")
            if offset > at:
                if not unnamed_holes:
                    raise BtfError(f"a hole of {offset - at} bytes before {name}: name it, for the comparison of keys")
                formats.append(f"{offset - at}x")
            formats.append(f"{count}{code}")
            at = offset + count * struct.calcsize(f"<{code}")
            self.fields[name] = Field(name, count, offset, at - offset)
        if at > size:
            raise BtfError(f"fields of {at} bytes in a structure of {size}")
        if at < size:
            if not unnamed_holes:
                raise BtfError(f"a hole of {size - at} bytes at the end: name it, for the comparison of keys")
            formats.append(f"{size - at}x")
        try:
            self._struct = struct.Struct("".join(formats))
        except struct.error as error:
            raise BtfError(f"a structure of {size} bytes: {error}") from None
        self.unpack = self._struct.unpack
        self.iter_unpack = self._struct.iter_unpack
        self.pack = self._struct.pack


class Types:
    """All types of one BTF section."""

    def __init__(self, raw: bytes) -> None:
        """Parse `raw`; raises BtfError."""
        try:
            self._parse(raw)
        except (struct.error, IndexError) as error:
            raise BtfError(f"BTF ends too early: {error}") from None

    def _parse(self, raw: bytes) -> None:
        magic, _version, _flags, header, types_at, types_len, names_at, names_len = struct.unpack_from("<HBBIIIII", raw)
        if magic != _MAGIC:
            raise BtfError(f"not BTF: magic {magic:#x}")
        if len(raw) < header + max(types_at + types_len, names_at + names_len):
            raise BtfError(f"BTF ends too early: after {len(raw)} bytes")
        self._names = raw[header + names_at : header + names_at + names_len]
        body = raw[header + types_at : header + types_at + types_len]
        # Type ids begin at 1; 0 is void.
        self._types: list[tuple[int, str, int, int, tuple[int, ...]]] = [(0, "void", 0, 0, ())]
        at = 0
        while at < len(body):
            name, info, size = struct.unpack_from("<III", body, at)
            at += 12
            kind, members, flag = info >> 24 & 0x1F, info & 0xFFFF, info >> 31
            if not _INT <= kind <= _ENUM64:
                raise BtfError(f"types of kind {kind} are unknown, and so is their length")
            words = _WORDS.get(kind, 0) + _WORDS_OF_MEMBER.get(kind, 0) * members
            extra = struct.unpack_from(f"<{words}I", body, at)
            at += 4 * words
            self._types.append((kind, self._name(name), size, flag, extra))
        self.tags = {self._types[target][1]: tag for kind, tag, target, _, _ in self._types if kind == _DECL_TAG}
        """The tag (btf_decl_tag) of each map and program that has one, by its name."""

    def _name(self, offset: int) -> str:
        end = self._names.find(b"\0", offset)
        return self._names[offset:end].decode("utf-8", "replace")

    def _plain(self, type_id: int) -> int:
        """Follow typedef, const and the like; `size` holds the type they modify."""
        for _ in range(len(self._types)):
            kind, _, target, _, _ = self._types[type_id]
            if kind not in _MODIFIERS:
                return type_id
            type_id = target
        raise BtfError(f"type {type_id} refers to itself")

    def _size(self, type_id: int) -> int:
        kind, _, size, _, extra = self._types[self._plain(type_id)]
        if kind == _ARRAY:
            return extra[2] * self._size(extra[0])
        return size

    def layout(self, type_id: int, *, unnamed_holes: bool = True) -> Layout:
        """Return the layout of a structure; raises BtfError for types that it cannot hold."""
        try:
            parts = self._flatten(type_id, "", 0)
            return Layout(self._size(type_id), parts, unnamed_holes=unnamed_holes)
        except (IndexError, RecursionError) as error:
            raise BtfError(f"broken reference among types: {error}") from None

    def _flatten(self, type_id: int, path: str, offset: int) -> list[tuple[str, int, str, int]]:
        kind, name, size, flag, extra = self._types[self._plain(type_id)]
        if kind in {_INT, _ENUM}:
            signed = bool(flag)
            if kind == _INT:
                encoding = extra[0]
                if encoding >> 16 & 0xFF or encoding & 0xFF != size * 8:
                    raise BtfError(f"{path or name}: a bitfield")
                signed = bool(encoding >> 24 & 1)
            if (size, signed) not in _FORMATS:
                raise BtfError(f"{path}: an integer of {size} bytes")
            return [(path, offset, _FORMATS[size, signed], 1)]
        if kind == _ARRAY:
            if self._types[self._plain(extra[0])][0] in {_STRUCT, _UNION}:
                raise BtfError(f"{path}: an array of structures")
            [(_, _, code, count)] = self._flatten(extra[0], path, offset)
            return [(path, offset, code, count * extra[2])]
        if kind != _STRUCT:
            raise BtfError(f"{path or name}: a layout holds integers, arrays of them and structures, not kind {kind}")
        parts = []
        for at in range(0, len(extra), 3):
            member, target, bits = self._name(extra[at]), extra[at + 1], extra[at + 2]
            if (flag and bits >> 24) or bits & 7:
                raise BtfError(f"{name}.{member}: a bitfield")
            start = offset + ((bits & 0xFFFFFF) if flag else bits) // 8
            parts += self._flatten(target, f"{path}.{member}" if path else member, start)
        return parts

    def variable(self, section: str, name: str) -> tuple[int, int]:
        """Return offset and size of a variable in a data section; raises KeyError."""
        for kind, section_name, _, _, extra in self._types:
            if kind == _DATASEC and section_name == section:
                for at in range(0, len(extra), 3):
                    if extra[at] >= len(self._types):
                        raise BtfError(f"broken reference among types: {section} holds type {extra[at]}")
                    if self._types[extra[at]][1] == name:
                        return extra[at + 1], extra[at + 2]
        raise KeyError(f"no variable {name} in {section}")
