"""Layouts read from the BTF that clang writes, against what C itself says of the same structures."""

import ctypes
import shutil
import struct
import subprocess
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpod_metrics.kernel.btf import BtfError, Field, Types

SOURCE = r"""
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u64 const counted;
enum colour { RED, GREEN = 7 };

struct inner { u64 sum; u32 buckets[3]; u32 last; };
struct outer {
	counted created;
	struct inner wait;
	signed char small;
	short pair[2];
	enum colour colour;
	int matrix[2][3];
	_Bool flag;
	volatile long long below;
};
struct key { u64 id; u32 nr; u32 abi; };
struct holed { u32 nr; u64 id; };
struct tailed { u64 id; u32 nr; };
struct deep { u32 a; struct tailed inside; };
struct bits { u32 low : 3; u32 high : 29; };
union either { u32 a; u64 b; };
struct with_union { u64 id; union either either; };
struct with_pointer { u64 id; void *at; };
struct with_array { struct inner each[2]; };
struct with_float { double much; };
struct one { u32 only; };

struct outer v_outer; struct key v_key; struct holed v_holed; struct tailed v_tailed; struct deep v_deep;
struct bits v_bits; struct with_union v_union; struct with_pointer v_pointer; struct with_array v_array;
struct with_float v_float; struct one v_one;
const volatile u32 knob __attribute__((section(".rodata"))) = 5;
const volatile u64 other __attribute__((section(".rodata"))) = 6;
u32 tagged __attribute__((btf_decl_tag("copy of other")));
__attribute__((btf_decl_tag("end of tagged"))) int function(void) { return tagged; }
"""

STRUCT = 4


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("btf")
    source, object_file, section = folder / "types.c", folder / "types.o", folder / "btf"
    source.write_text(SOURCE)
    objcopy = shutil.which("llvm-objcopy") or "llvm-objcopy"
    for command in (
        ["clang", "-target", "bpf", "-g", "-O2", "-c", str(source), "-o", str(object_file)],
        [objcopy, f"--dump-section=.BTF={section}", str(object_file), str(folder / "rest.o")],
    ):
        subprocess.run(command, check=True)
    return section.read_bytes()


@pytest.fixture(scope="module")
def types(raw: bytes) -> Types:
    return Types(raw)


def id_of(types: Types, name: str) -> int:
    """The type id of a structure."""
    [found] = [at for at, (kind, own, *_) in enumerate(types._types) if kind == STRUCT and own == name]
    return found


class Inner(ctypes.Structure):
    _fields_ = (("sum", ctypes.c_uint64), ("buckets", ctypes.c_uint32 * 3), ("last", ctypes.c_uint32))


class Outer(ctypes.Structure):
    _fields_ = (
        ("created", ctypes.c_uint64),
        ("wait", Inner),
        ("small", ctypes.c_int8),
        ("pair", ctypes.c_int16 * 2),
        ("colour", ctypes.c_uint32),
        ("matrix", ctypes.c_int32 * 3 * 2),
        ("flag", ctypes.c_bool),
        ("below", ctypes.c_int64),
    )


def test_values_of_a_nested_structure(types: Types) -> None:
    layout = types.layout(id_of(types, "outer"))
    assert layout.size == ctypes.sizeof(Outer)
    row = ctypes.c_int32 * 3
    matrix = (row * 2)(row(1, -2, 3), row(4, 5, -6))
    value = Outer(2**64 - 1, Inner(2**63, (1, 2, 2**32 - 1), 9), -5, (-300, 300), 7, matrix, True, -(2**63))
    numbers = layout.unpack(bytes(value))
    fields = layout.fields
    rest = iter(numbers)
    by_name: dict[str, Any] = {name: tuple(islice(rest, field.count)) for name, field in fields.items()}
    assert by_name == {
        "created": (2**64 - 1,),
        "wait.sum": (2**63,),
        "wait.buckets": (1, 2, 2**32 - 1),
        "wait.last": (9,),
        "small": (-5,),
        "pair": (-300, 300),
        "colour": (7,),
        "matrix": (1, -2, 3, 4, 5, -6),
        "flag": (1,),
        "below": (-(2**63),),
    }
    assert fields["wait.buckets"] == Field("wait.buckets", 3, 16, 12)
    assert layout.pack(*numbers) == bytes(value)


def test_key_is_packed_as_in_c(types: Types) -> None:
    layout = types.layout(id_of(types, "key"), unnamed_holes=False)
    assert layout.pack(1, 2, 3) == struct.pack("<QII", 1, 2, 3)
    assert list(layout.fields) == ["id", "nr", "abi"]


@given(st.binary(min_size=16, max_size=16))
def test_key_comes_back(raw: bytes, key: bytes) -> None:
    layout = Types(raw).layout(id_of(Types(raw), "key"), unnamed_holes=False)
    assert layout.pack(*layout.unpack(key)) == key


def test_integer_is_a_layout_too(types: Types) -> None:
    """A per-CPU counter's value is a bare u64."""
    [u32] = [at for at, (_, own, *_) in enumerate(types._types) if own == "u32"]
    layout = types.layout(u32)
    assert (layout.size, layout.unpack(b"\x01\x02\x00\x00")) == (4, (513,))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("holed", "a hole of 4 bytes before id: name it"),
        ("tailed", "a hole of 4 bytes at the end: name it"),
        ("deep", "a hole of 4 bytes before inside.id: name it"),
    ],
)
def test_hole_in_a_key_is_refused(types: Types, name: str, said: str) -> None:
    with pytest.raises(BtfError, match=said):
        types.layout(id_of(types, name), unnamed_holes=False)


def test_hole_in_a_value_is_skipped(types: Types) -> None:
    layout = types.layout(id_of(types, "deep"))
    assert layout.size == 24
    assert layout.unpack(struct.pack("<I4xQI4x", 1, 2, 3)) == (1, 2, 3)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bits", r"bits\.low: a bitfield"),
        ("with_union", "either: a layout holds .* not kind 5"),
        ("with_pointer", "at: a layout holds .* not kind 2"),
        ("with_array", "each: an array of structures"),
        ("with_float", "much: a layout holds"),
    ],
)
@pytest.mark.parametrize("unnamed_holes", [True, False])
def test_what_a_layout_cannot_hold_is_refused(types: Types, name: str, said: str, unnamed_holes: bool) -> None:
    with pytest.raises(BtfError, match=said):
        types.layout(id_of(types, name), unnamed_holes=unnamed_holes)


def test_variables(types: Types) -> None:
    places = [types.variable(".rodata", name) for name in ("knob", "other")]
    assert sorted(size for _, size in places) == [4, 8]
    for section, name in ((".rodata", "nothing"), (".data", "knob")):
        with pytest.raises(KeyError, match=name):
            types.variable(section, name)


def test_tags_of_variables_and_functions(types: Types) -> None:
    assert types.tags == {"tagged": "copy of other", "function": "end of tagged"}


@pytest.mark.parametrize("content", [b"", b"\x9f", bytes(24), b"\x7fELF" + bytes(60)])
def test_no_btf_is_refused(content: bytes) -> None:
    with pytest.raises(BtfError):
        Types(content)


@given(st.data())
def test_truncated_btf_is_refused(raw: bytes, data: st.DataObject) -> None:
    with pytest.raises(BtfError):
        Types(raw[: data.draw(st.integers(0, len(raw) - 1))])


def try_all(content: bytes) -> None:
    """Whatever is wrong with BTF, it is a BtfError, and a layout that comes out can be used."""
    try:
        types = Types(content)
    except BtfError:
        return
    for at in range(len(types._types) + 2):
        try:
            layout = types.layout(at)
        except BtfError:
            continue
        if layout.size < 1 << 20:
            assert len(layout.unpack(bytes(layout.size))) == sum(field.count for field in layout.fields.values())
    try:
        types.variable(".rodata", "knob")
    except (BtfError, KeyError):
        return


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255) | st.just(0xFF)), min_size=1, max_size=8))
def test_mutated_btf_is_refused_or_read(raw: bytes, changes: list[tuple[int, int]]) -> None:
    content = bytearray(raw)
    for at, byte in changes:
        content[at % len(content)] = byte
    try_all(bytes(content))


@given(st.data())
def test_mutated_types_are_refused_or_read(raw: bytes, data: st.DataObject) -> None:
    """As above, only in the words of the types: the names are most of the bytes."""
    header, types_at, types_len = struct.unpack_from("<4xIII", raw)
    content = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 6))):
        word = data.draw(st.integers(0, types_len // 4 - 1))
        value = data.draw(st.integers(0, 40) | st.integers(0, 2**32 - 1) | st.integers(1, 19).map(lambda k: k << 24))
        struct.pack_into("<I", content, header + types_at + 4 * word, value)
    try_all(bytes(content))


def test_type_that_refers_to_itself_is_refused(raw: bytes) -> None:
    types = Types(raw)
    at = next(at for at, (_, own, *_) in enumerate(types._types) if own == "u32")
    kind, name, _, flag, extra = types._types[at]
    types._types[at] = (kind, name, at, flag, extra)
    with pytest.raises(BtfError, match="refers to itself"):
        types.layout(at)


def test_objects_of_the_agent_have_layouts() -> None:
    """The rule for keys holds for what is shipped."""
    from kpod_metrics.kernel.libbpf import Object
    from kpod_metrics.kernel.programs import OBJECTS

    objects = sorted(Path(OBJECTS).glob("*.bpf.o"))
    assert objects
    for path in objects:
        with closing(Object(str(path))) as opened:
            for map_ in opened.maps.values():
                if "." not in map_.name and map_.key_size:  # a data section and a ring have no key
                    assert map_.key_layout.size == map_.key_size
                    assert map_.value_layout.size == map_.value_size


def test_tags_of_the_agents_objects_name_what_is_there() -> None:
    """A `counts`, `hash` or `table` of a map or state; an `end` of a state; a `copy` of a program."""
    from kpod_metrics.kernel.libbpf import Object
    from kpod_metrics.kernel.programs import OBJECTS

    roles = set()
    for path in sorted(Path(OBJECTS).glob("*.bpf.o")):
        with closing(Object(str(path))) as opened:
            for item in (*opened.maps.values(), *opened.programs.values()):
                if item.role:
                    roles.add(item.role)
                    assert item.of in (opened.programs if item.role == "copy" else opened.maps), item.name
    assert roles == {"counts", "hash", "table", "end", "copy"}
