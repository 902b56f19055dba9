"""libbpf by ctypes: open an object, set it up, load it, attach its programs, read its maps.

Only what the agent calls is declared (libbpf 1.0 API: errors are returned as -errno, pointers are NULL with errno
set). Every error has libbpf's own messages, with the end of the verifier's log.
"""

import ctypes
import errno
import mmap
import os
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from typing import Any

from kpod_metrics.errors import UnavailableError
from kpod_metrics.files import read_bytes
from kpod_metrics.kernel import btf

_RAW = "raw_tp/"
# include/uapi/linux/bpf.h
_HASH, SK_STORAGE, TASK_STORAGE = 1, 24, 29
_GROWING = frozenset({_HASH, SK_STORAGE, TASK_STORAGE})  # our hashes are not preallocated
_PROG_TYPE_TRACING = 26
_TRACE_RAW_TP = 23

_LOG_LINES = 6
"""Number of libbpf's last lines in an error; the verifier writes the reason at the end of its log."""

_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)

_P, _I, _S = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
_Z, _U32, _U64 = ctypes.c_size_t, ctypes.c_uint32, ctypes.c_uint64
_SAMPLE = ctypes.CFUNCTYPE(_I, _P, _P, _Z)
"""ring_buffer_sample_fn: libbpf calls it with each record of a ring."""

_ITERATOR_BYTES = 1 << 15
"""Bytes that the kernel returns in one read at most (kernel/bpf/bpf_iter.c, eight pages)."""

_NO_TAKE = {-errno.EINVAL, -errno.EOPNOTSUPP, -524}
"""Results of kernels that cannot look up and delete in one step in this type of map (524 is ENOTSUPP)."""

_RUN_STATISTICS = slice(192, 216)
"""Place of run_time_ns, run_cnt and recursion_misses in struct bpf_prog_info (include/uapi/linux/bpf.h)."""
_XLATED_LENGTH = slice(20, 24)
"""Place of xlated_prog_len in it, bytes."""
_INSTRUCTION = 8
"""Bytes: struct bpf_insn."""

_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "bpf_object__open_file": (_P, (_S, _P)),
    "bpf_object__load": (_I, (_P,)),
    "bpf_obj_get_info_by_fd": (_I, (_I, _P, _P)),
    "bpf_object__close": (None, (_P,)),
    "bpf_object__btf": (_P, (_P,)),
    "bpf_object__next_map": (_P, (_P, _P)),
    "bpf_object__next_program": (_P, (_P, _P)),
    "btf__raw_data": (_P, (_P, ctypes.POINTER(_U32))),
    "bpf_map__name": (_S, (_P,)),
    "bpf_map__fd": (_I, (_P,)),
    "bpf_map__type": (_I, (_P,)),
    "bpf_map__max_entries": (_U32, (_P,)),
    "bpf_map__set_max_entries": (_I, (_P, _U32)),
    "bpf_map__key_size": (_U32, (_P,)),
    "bpf_map__value_size": (_U32, (_P,)),
    "bpf_map__set_autocreate": (_I, (_P, ctypes.c_bool)),
    "bpf_map__reuse_fd": (_I, (_P, _I)),
    "bpf_map__initial_value": (_P, (_P, ctypes.POINTER(_Z))),
    "bpf_map__btf_key_type_id": (_U32, (_P,)),
    "bpf_map__btf_value_type_id": (_U32, (_P,)),
    "bpf_map_lookup_elem": (_I, (_I, _P, _P)),
    "bpf_map_update_elem": (_I, (_I, _P, _P, _U64)),
    "bpf_map_delete_elem": (_I, (_I, _P)),
    "bpf_map_lookup_and_delete_elem": (_I, (_I, _P, _P)),
    "bpf_map_get_next_key": (_I, (_I, _P, _P)),
    "bpf_map_lookup_batch": (_I, (_I, _P, _P, _P, _P, ctypes.POINTER(_U32), _P)),
    "bpf_program__name": (_S, (_P,)),
    "bpf_program__section_name": (_S, (_P,)),
    "bpf_program__fd": (_I, (_P,)),
    "bpf_program__set_autoload": (_I, (_P, ctypes.c_bool)),
    "bpf_program__set_type": (_I, (_P, _I)),
    "bpf_program__set_expected_attach_type": (_I, (_P, _I)),
    "bpf_program__set_attach_target": (_I, (_P, _I, _S)),
    "bpf_program__attach_trace": (_P, (_P,)),
    "bpf_program__attach": (_P, (_P,)),
    "bpf_program__attach_perf_event": (_P, (_P, _I)),
    "bpf_program__attach_iter": (_P, (_P, _P)),
    "bpf_link__destroy": (_I, (_P,)),
    "bpf_link__fd": (_I, (_P,)),
    "bpf_iter_create": (_I, (_I,)),
    "ring_buffer__new": (_P, (_I, _SAMPLE, _P, _P)),
    "ring_buffer__consume": (_I, (_P,)),
    "ring_buffer__free": (None, (_P,)),
    "libbpf_num_possible_cpus": (_I, ()),
    "libbpf_set_print": (_P, (_PRINT,)),
}


_LIBBPF_ERRORS = {4000: "LIBELF", 4001: "FORMAT", 4002: "KVERSION", 4003: "ENDIAN", 4004: "INTERNAL", 4005: "RELOC"}
"""libbpf's own error numbers: enum libbpf_errno of bpf/libbpf.h."""


class _IteratorOptions(ctypes.Structure):
    """struct bpf_iter_attach_opts of bpf/libbpf.h; `link_info` is a union bpf_iter_link_info: here a map's fd."""

    _fields_ = (("sz", _Z), ("link_info", _P), ("link_info_len", _U32))


class KernelError(UnavailableError):
    """The kernel or libbpf refused a call; `log` has libbpf's last lines."""

    def __init__(self, what: str, number: int, log: list[str]) -> None:
        name = errno.errorcode.get(number) or _LIBBPF_ERRORS.get(number, str(number))
        self.errno = number
        self.log = log
        text = " | ".join(line.strip() for line in log if line.strip())
        meaning = f" ({os.strerror(number)})" if number in errno.errorcode else ""
        super().__init__(f"{what}: {name}{meaning}" + (f": {text}" if text else ""))


class _Library:
    """The loaded library, and the lines that it printed on the calling thread."""

    def __init__(self) -> None:
        try:
            self.so = ctypes.CDLL("libbpf.so.1", use_errno=True)
            self._libc = ctypes.CDLL(None)
        except OSError as error:
            raise UnavailableError(f"libbpf.so.1 cannot be loaded ({error}); Debian: apt-get install libbpf1") from None
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(self.so, name)
            function.restype, function.argtypes = result, list(arguments)
        self._local = threading.local()
        self._callback = _PRINT(self._print)
        self.so.libbpf_set_print(self._callback)

    def _print(self, level: int, template: bytes, arguments: int) -> int:
        """Libbpf's printer: keeps warnings (level 0) and information (1), drops debug messages (2)."""
        if level > 1:
            return 0
        buffer = ctypes.create_string_buffer(1 << 16)
        # In the calling conventions of x86-64 and arm64 a va_list is a pointer.
        self._libc.vsnprintf(buffer, ctypes.c_size_t(len(buffer)), template, ctypes.c_void_p(arguments))
        self.printed.extend(buffer.value.decode("utf-8", "replace").splitlines())
        return 0

    @property
    def printed(self) -> list[str]:
        lines: list[str] | None = getattr(self._local, "lines", None)
        if lines is None:
            lines = self._local.lines = []
        return lines

    def error(self, what: str, result: int = 0) -> KernelError:
        """Return the error of the call that just failed; `result` is its -errno, or 0 if it set errno."""
        lines = [line for line in self.printed if not _NOISE.search(line)]
        self.printed.clear()
        return KernelError(what, -result or ctypes.get_errno(), lines[-_LOG_LINES:])


_NOISE = re.compile(r"-- (BEGIN|END) PROG LOAD LOG --|^processed \d+ insns|failed to load object|^$")

_library: _Library | None = None
_library_lock = threading.Lock()


def library() -> _Library:
    """Load libbpf once; raises UnavailableError with the package to install."""
    global _library  # noqa: PLW0603 - one shared library a process, like ctypes' own
    with _library_lock:
        if _library is None:
            _library = _Library()
        return _library


def possible_cpus() -> int:
    """Return how many CPUs may ever be online: a per-CPU value has a copy for each."""
    lib = library()
    count: int = lib.so.libbpf_num_possible_cpus()
    if count < 0:
        raise lib.error("possible CPUs", count)
    return count


def is_refused() -> bool:
    """Whether bpf() itself is refused, even with all capabilities: seccomp returns EPERM or ENOSYS.

    For a lookup in a map that does not exist the kernel returns EBADF.
    """
    result: int = library().so.bpf_map_lookup_elem(-1, b"", b"")
    return result != 0 and ctypes.get_errno() in {errno.EPERM, errno.ENOSYS}


class _Tagged:
    """A map or a program, and its role for another one, which KPOD_IS (bpf/kpod.bpf.h) declares."""

    def __init__(self, name: str, types: btf.Types) -> None:
        self.name = name
        self.role, _, self.of = types.tags.get(name, "").partition(" of ")


class Map(_Tagged):
    """A map of an object; it has a descriptor after the object is loaded."""

    def __init__(self, lib: _Library, pointer: int, types: btf.Types) -> None:
        so = lib.so
        super().__init__(so.bpf_map__name(pointer).decode(), types)
        self._lib, self._pointer, self._types = lib, pointer, types
        self.type: int = so.bpf_map__type(pointer)
        self.key_size: int = so.bpf_map__key_size(pointer)
        self.value_size: int = so.bpf_map__value_size(pointer)
        self._memory: int | None = None
        self._positions: mmap.mmap | None = None
        """The first two pages of a ring, after the first read."""

    @property
    def max_entries(self) -> int:
        """Capacity, as set."""
        entries: int = self._lib.so.bpf_map__max_entries(self._pointer)
        return entries

    @max_entries.setter
    def max_entries(self, entries: int) -> None:
        self._check(self._lib.so.bpf_map__set_max_entries(self._pointer, entries), f"map {self.name}: size {entries}")

    def disable_autocreate(self) -> None:
        """Do not create this map at load; programs that use it must be dead code, or not be loaded either."""
        self._check(self._lib.so.bpf_map__set_autocreate(self._pointer, False), f"map {self.name}")

    def reuse(self, other: "Map") -> None:
        """Be the same map as one of another object, which is loaded; before load."""
        self._check(self._lib.so.bpf_map__reuse_fd(self._pointer, other.fd), f"map {self.name}: reuse")

    @property
    def key_layout(self) -> btf.Layout:
        """The key's fields, from the object's BTF."""
        return self._types.layout(self._lib.so.bpf_map__btf_key_type_id(self._pointer), unnamed_holes=False)

    @property
    def value_layout(self) -> btf.Layout:
        """The value's fields, from the object's BTF."""
        return self._types.layout(self._lib.so.bpf_map__btf_value_type_id(self._pointer))

    @property
    def fd(self) -> int:
        """Descriptor; raises KernelError before load."""
        descriptor: int = self._lib.so.bpf_map__fd(self._pointer)
        if descriptor < 0:
            raise self._lib.error(f"map {self.name}: not created", descriptor)
        return descriptor

    @property
    def created(self) -> bool:
        """Whether the loaded object has this map."""
        return bool(self._lib.so.bpf_map__fd(self._pointer) >= 0)

    def memory_bytes(self) -> int | None:
        """Kernel memory of the map, from its fdinfo (exact since 6.4, before that an estimate from its sizes).

        Read once, except for maps that allocate while they fill. None if this process may not read it.
        """
        if self._memory is None or self.type in _GROWING:
            self._memory = _fdinfo(self.fd).get(b"memlock")
        return self._memory

    def initial_value(self) -> "ctypes.Array[ctypes.c_char]":
        """The memory that becomes the map's value at load (.rodata): write to it before."""
        size = ctypes.c_size_t()
        address = self._lib.so.bpf_map__initial_value(self._pointer, ctypes.byref(size))
        if not address:
            raise self._lib.error(f"map {self.name}: initial value")
        return (ctypes.c_char * size.value).from_address(address)

    def lookup(self, key: bytes, size: int | None = None) -> bytes | None:
        """Return the value of a key, `size` bytes of it (per-CPU values are longer), None if there is none."""
        buffer = ctypes.create_string_buffer(size or self.value_size)
        result = self._lib.so.bpf_map_lookup_elem(self.fd, key, buffer)
        if result == -errno.ENOENT:
            return None
        self._check(result, f"map {self.name}: lookup")
        return buffer.raw

    def lookup_per_cpu(self, key: bytes) -> list[bytes]:
        """Return one value for each possible CPU; their stride is the value's size rounded up to 8."""
        stride = (self.value_size + 7) & ~7
        raw = self.lookup(key, stride * possible_cpus()) or b""
        return [raw[at : at + self.value_size] for at in range(0, len(raw), stride)]

    def update(self, key: bytes, value: bytes) -> None:
        """Set a key's value."""
        self._check(self._lib.so.bpf_map_update_elem(self.fd, key, value, 0), f"map {self.name}: update")

    def delete(self, key: bytes) -> bool:
        """Delete a key; false if it was not there."""
        result = self._lib.so.bpf_map_delete_elem(self.fd, key)
        if result == -errno.ENOENT:
            return False
        self._check(result, f"map {self.name}: delete")
        return True

    def take(self, key: bytes) -> bytes | None:
        """Delete a key; return its last value, None if it was not there.

        One step since 5.14 (3e87f192b405, "bpf: Add lookup_and_delete_elem support to hashtab"), two before.
        """
        buffer = ctypes.create_string_buffer(self.value_size)
        result = self._lib.so.bpf_map_lookup_and_delete_elem(self.fd, key, buffer)
        if result == -errno.ENOENT:
            return None
        if result in _NO_TAKE:
            value = self.lookup(key)
            return value if self.delete(key) else None
        self._check(result, f"map {self.name}: lookup and delete")
        return buffer.raw

    def iterate(self) -> Iterator[bytes]:
        """Iterate over the keys one by one, for kernels without batch operations (before 5.6)."""
        buffer = ctypes.create_string_buffer(self.key_size)
        before = None
        while (result := self._lib.so.bpf_map_get_next_key(self.fd, before, buffer)) == 0:
            before = buffer.raw
            yield before
        if result != -errno.ENOENT:
            self._check(result, f"map {self.name}: next key")

    def lookup_batch(self, room: int) -> list[tuple[bytes, bytes]]:
        """Read all entries with one call, without disturbing them: their keys and values.

        `room` is the number of entries to allocate at first. The kernel's last call returns ENOENT with a valid count.
        ENOSPC means that one hash bucket did not fit: the call is repeated from there with twice the room. Raises
        KernelError, with EINVAL or ENOTSUPP if the map has no batch operations.
        """
        so, fd = self._lib.so, self.fd
        key, value = self.key_size, self.value_size
        place = ctypes.create_string_buffer(max(key, 4))
        found: list[tuple[bytes, bytes]] = []
        result, begin = 0, None
        while result != -errno.ENOENT:
            keys, values = ctypes.create_string_buffer(key * room), ctypes.create_string_buffer(value * room)
            count = ctypes.c_uint32(room)
            result = so.bpf_map_lookup_batch(fd, begin, place, keys, values, ctypes.byref(count), None)
            if result == -errno.ENOSPC:
                room *= 2
                continue
            if result not in {0, -errno.ENOENT}:
                raise self._lib.error(f"map {self.name}: batch lookup", result)
            of_keys, of_values = memoryview(keys), memoryview(values)
            found += [
                (bytes(of_keys[at * key : at * key + key]), bytes(of_values[at * value : at * value + value]))
                for at in range(count.value)
            ]
            begin = place
        return found

    def take_records(self) -> list[bytes]:
        """Take all records out of a ring buffer (BPF_MAP_TYPE_RINGBUF, Linux 5.8), the oldest first; does not wait.

        The ring is mapped only during the call: libbpf maps its data twice, and each mapping counts as resident memory,
        1 MB for a ring of 512 KiB, which costs more than the call. An empty ring is not mapped.
        """
        records: list[bytes] = []
        if not self._has_records():
            return records

        def take(context: int | None, data: int, size: int) -> int:
            records.append(ctypes.string_at(data, size))
            return 0

        callback = _SAMPLE(take)  # keep a reference until the end: libbpf has none
        ring = self._lib.so.ring_buffer__new(self.fd, callback, None, None)
        if not ring:
            raise self._lib.error(f"ring {self.name}")
        try:
            self._check(self._lib.so.ring_buffer__consume(ring), f"ring {self.name}")
        finally:
            self._lib.so.ring_buffer__free(ring)
        return records

    def _has_records(self) -> bool:
        """Whether a ring has records, by its two positions: a page each before the data (kernel/bpf/ringbuf.c).

        They stay mapped: this runs every second, and mapping them each time took a third of an idle agent's CPU time.
        """
        pages = self._positions
        if pages is None:
            try:
                pages = self._positions = mmap.mmap(self.fd, 2 * mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ)
            except OSError as error:
                raise self._lib.error(f"ring {self.name}", -(error.errno or 0)) from error
        return pages[:8] != pages[mmap.PAGESIZE : mmap.PAGESIZE + 8]

    def unmap(self) -> None:
        """Unmap a ring: while a page is mapped the kernel keeps it."""
        if self._positions is not None:
            self._positions.close()
            self._positions = None

    def _check(self, result: int, what: str) -> None:
        if result < 0:
            raise self._lib.error(what, result)


class Program(_Tagged):
    """A program of an object."""

    def __init__(self, lib: _Library, pointer: int, types: btf.Types) -> None:
        super().__init__(lib.so.bpf_program__name(pointer).decode(), types)
        self._lib, self._pointer = lib, pointer
        self.section: str = lib.so.bpf_program__section_name(pointer).decode()
        self._typed = False

    @property
    def hook(self) -> str:
        """The hook that it is attached to, as `check` reports it."""
        return self.section.replace(_RAW, "tp_btf/", 1) if self._typed else self.section

    @property
    def is_iterator(self) -> bool:
        """Whether it runs on request, for each object of a kind."""
        return self.section.startswith("iter/")

    @property
    def is_raw_tracepoint(self) -> bool:
        """Whether it is compiled for a raw tracepoint."""
        return self.section.startswith(_RAW)

    def load_as_tp_btf(self) -> None:
        """Give a raw tracepoint's program typed arguments; raises KernelError if the kernel has no BTF for it."""
        so, self._typed = self._lib.so, True
        so.bpf_program__set_type(self._pointer, _PROG_TYPE_TRACING)
        so.bpf_program__set_expected_attach_type(self._pointer, _TRACE_RAW_TP)
        result = so.bpf_program__set_attach_target(self._pointer, 0, self.section.removeprefix(_RAW).encode())
        if result:
            raise self._lib.error(self.hook, result)

    def disable_autoload(self) -> None:
        """Do not load this program with the object."""
        self._lib.so.bpf_program__set_autoload(self._pointer, False)

    @property
    def fd(self) -> int:
        """Descriptor of the loaded program; raises KernelError if it was not loaded."""
        descriptor: int = self._lib.so.bpf_program__fd(self._pointer)
        if descriptor < 0:
            raise self._lib.error(f"program {self.name}: not loaded", descriptor)
        return descriptor

    @property
    def loaded(self) -> bool:
        """Whether the loaded object has this program."""
        return bool(self._lib.so.bpf_program__fd(self._pointer) >= 0)

    def attach(self) -> "Link":
        """Attach to the hook that the section names; raises KernelError with that name."""
        attach = self._lib.so.bpf_program__attach_trace if self._typed else self._lib.so.bpf_program__attach
        return self._link(attach(self._pointer), self.hook)

    def attach_perf_event(self, perf_fd: int, what: str) -> "Link":
        """Attach to a perf event; the link owns the event's descriptor from then on."""
        return self._link(self._lib.so.bpf_program__attach_perf_event(self._pointer, perf_fd), what)

    def attach_iterator_over(self, map_: Map) -> "Link":
        """Attach an iterator over the elements of a map that is loaded."""
        target = ctypes.c_uint32(map_.fd)
        options = _IteratorOptions(ctypes.sizeof(_IteratorOptions), ctypes.addressof(target), ctypes.sizeof(target))
        return self._link(self._lib.so.bpf_program__attach_iter(self._pointer, ctypes.byref(options)), self.hook)

    def _link(self, pointer: int | None, what: str) -> "Link":
        if not pointer:
            raise self._lib.error(f"{what}: attach {self.name}")
        return Link(self._lib, pointer, what)

    def statistics(self) -> tuple[int, int, int | None]:
        """Nanoseconds, runs, and skipped runs since load.

        The first two stay 0 while kernel.bpf_stats_enabled is off. The kernel skips a run if the program runs on that
        CPU already (recursion_misses, since 5.12; 0 before).
        """
        time, runs, missed = struct.unpack("=QQQ", self._info()[_RUN_STATISTICS])
        return time, runs, missed

    def instructions(self) -> int:
        """Instructions left after dead-code elimination, once loaded; 0 if not permitted to read."""
        (length,) = struct.unpack("=I", self._info()[_XLATED_LENGTH])
        return int(length) // _INSTRUCTION

    def _info(self) -> bytes:
        info = ctypes.create_string_buffer(_RUN_STATISTICS.stop)
        size = ctypes.c_uint32(len(info))
        result = self._lib.so.bpf_obj_get_info_by_fd(self.fd, info, ctypes.byref(size))
        if result:
            raise self._lib.error(f"{self.name}: program information", result)
        return info.raw


def _fdinfo(fd: int) -> dict[bytes, int]:
    """Return the numbers in the fdinfo of a map's descriptor; none if this process may not read it.

    On 5.10 only root may read the folder of a process that cannot be traced, after a change of user or by an
    executable's own capabilities; newer kernels let a process read its own.
    """
    try:
        lines = read_bytes(f"/proc/self/fdinfo/{fd}").splitlines()
    except PermissionError:
        return {}
    pairs = (line.partition(b":\t") for line in lines)
    return {name: int(value) for name, _, value in pairs if value.isdigit()}


class Link:
    """An attachment; it ends with `close`, or with the process: nothing is pinned."""

    def __init__(self, lib: _Library, pointer: int, what: str) -> None:
        self._lib, self._what = lib, what
        self._pointer: int | None = pointer

    def run_iterator(self, at_a_time: int = _ITERATOR_BYTES) -> bytes:
        """Run an iterator program to its end (the link is to one); return the bytes that it wrote.

        The kernel pauses after `at_a_time` bytes, and continues with the next read. Raises KernelError.
        """
        assert self._pointer is not None
        fd = self._lib.so.bpf_iter_create(self._lib.so.bpf_link__fd(self._pointer))
        if fd < 0:
            raise self._lib.error(f"{self._what}: run", fd)
        written: list[bytes] = []
        try:
            while True:
                try:
                    more = os.read(fd, at_a_time)
                except BlockingIOError:
                    continue  # a million objects without output (kernel/bpf/bpf_iter.c): the next read continues
                if not more:
                    return b"".join(written)
                written.append(more)
        except OSError as error:
            raise self._lib.error(f"{self._what}: run", -(error.errno or 0)) from error
        finally:
            os.close(fd)

    def close(self) -> None:
        """Detach; a second call does nothing."""
        if self._pointer is not None:
            self._lib.so.bpf_link__destroy(self._pointer)
            self._pointer = None


class Object:
    """A compiled object: the constructor opens it, `load` loads it, `close` frees it."""

    def __init__(self, path: str) -> None:
        """Open the object file; raises UnavailableError if it is damaged, KernelError if libbpf refuses it.

        The build adds the checksum (hatch_build.py): libbpf 1.1 crashed on one of 20,000 damaged objects.
        """
        try:
            content = read_bytes(path)
        except OSError as error:
            raise UnavailableError(f"{path}: {error.strerror}") from None
        if zlib.crc32(content[:-4]).to_bytes(4, "little") != content[-4:]:
            raise UnavailableError(f"{path}: damaged or cut short: its checksum is wrong")
        self._lib = lib = library()
        lib.printed.clear()
        self._pointer: int | None = lib.so.bpf_object__open_file(os.fsencode(path), None)
        if not self._pointer:
            raise lib.error(f"{path}: not a BPF object")
        self._name = os.path.basename(path)
        self.maps: dict[str, Map] = {}
        self.programs: dict[str, Program] = {}
        try:
            self.types = btf.Types(self._raw_btf())
            for pointer in self._each(lib.so.bpf_object__next_map):
                map_ = Map(lib, pointer, self.types)
                self.maps[map_.name] = map_
            for pointer in self._each(lib.so.bpf_object__next_program):
                program = Program(lib, pointer, self.types)
                self.programs[program.name] = program
        except (btf.BtfError, UnicodeDecodeError) as error:
            self.close()
            raise UnavailableError(f"{path}: not an object of this agent: {error}") from None
        except UnavailableError:
            self.close()
            raise

    def _each(self, following: Any) -> Iterator[int]:
        at = None
        while at := following(self._pointer, at):
            yield at

    def _raw_btf(self) -> bytes:
        size = ctypes.c_uint32()
        address = self._lib.so.btf__raw_data(self._lib.so.bpf_object__btf(self._pointer), ctypes.byref(size))
        if not address:
            raise self._lib.error("object without BTF")
        return ctypes.string_at(address, size.value)

    def set_rodata(self, variable: str, value: bytes) -> None:
        """Set a `const volatile` variable before load; raises KeyError if there is none with that name."""
        offset, size = self.types.variable(".rodata", variable)
        if len(value) != size:
            raise ValueError(f"{variable} has {size} bytes, not {len(value)}")
        name = next(name for name in self.maps if name.endswith(".rodata"))
        ctypes.memmove(ctypes.addressof(self.maps[name].initial_value()) + offset, value, size)

    def load(self) -> None:
        """Verify the programs and create the maps; raises KernelError with the end of the verifier's log."""
        self._lib.printed.clear()
        result = self._lib.so.bpf_object__load(self._pointer)
        if result:
            raise self._lib.error(f"{self._name}: load", result)

    def close(self) -> None:
        """Free programs and maps; a second call does nothing."""
        if self._pointer is not None:
            for map_ in self.maps.values():
                map_.unmap()
            self._lib.so.bpf_object__close(self._pointer)
            self._pointer = None
