import os
import re
import struct

import pytest

from kpod_metrics.collectors.kit import Environment
from kpod_metrics.collectors.syscall import METRICS, Syscall
from kpod_metrics.errors import SettingError, UnavailableError
from kpod_metrics.kernel import syscalls
from kpod_metrics.metrics import Label, Profile, Scope, series_per_container
from kpod_metrics.settings import DEFAULT_SYSCALLS

X86, ARM = "x86_64", "aarch64"

# name: x86-64, arm64, i386, arm EABI; of the manuals and of asm/unistd*.h.
KNOWN = {
    "read": (0, 63, 3, 3),
    "write": (1, 64, 4, 4),
    "open": (2, None, 5, 5),
    "close": (3, 57, 6, 6),
    "openat": (257, 56, 295, 322),
    "fsync": (74, 82, 118, 118),
    "connect": (42, 203, 362, 283),
    "accept4": (288, 242, 364, 366),
    "sendto": (44, 206, 369, 290),
    "recvfrom": (45, 207, 371, 292),
    "epoll_wait": (232, None, 256, 252),
    "epoll_pwait": (281, 22, 319, 346),
    "futex": (202, 98, 240, 240),
    "futex_time64": (None, None, 422, 422),
    "execve": (59, 221, 11, 11),
    "execveat": (322, 281, 358, 387),
    "newfstatat": (262, 79, None, None),
    "socketcall": (None, None, 102, None),
    "clone3": (435, 435, 435, 435),
    "io_uring_enter": (426, 426, 426, 426),
    "fchroot": (472, 472, 472, 472),
}


def entries(table: bytes) -> tuple[dict[int, int], dict[int, int]]:
    """Index by number of the native and of the 32-bit calls."""
    pairs = struct.unpack(f"<{syscalls.TABLE_SIZE}H", table)
    return (
        {number: pair & 0xFF for number, pair in enumerate(pairs) if pair & 0xFF},
        {number: pair >> 8 for number, pair in enumerate(pairs) if pair >> 8},
    )


@pytest.mark.parametrize("name", KNOWN)
def test_known_numbers(name: str) -> None:
    tables = (syscalls.X86_64, syscalls.ARM64, syscalls.I386, syscalls.ARM)
    assert tuple(table.get(name) for table in tables) == KNOWN[name]


@pytest.mark.parametrize("table", [syscalls.X86_64, syscalls.ARM64, syscalls.I386, syscalls.ARM])
def test_tables_are_whole_and_fit(table: dict[str, int]) -> None:
    assert len(table) > 300
    assert len(set(table.values())) == len(table)
    assert max(table.values()) < syscalls.TABLE_SIZE


@pytest.mark.skipif(os.uname().machine != X86, reason="the C library's numbers are this machine's")
def test_numbers_are_what_this_machine_does() -> None:
    """A call by number: getppid has one result."""
    import ctypes

    assert ctypes.CDLL(None).syscall(syscalls.X86_64["getppid"]) == os.getppid()
    assert ctypes.CDLL(None).syscall(syscalls.X86_64["getpid"]) == os.getpid()


def test_default_names_on_x86() -> None:
    tracked = syscalls.track(DEFAULT_SYSCALLS, X86)
    assert tracked.names == DEFAULT_SYSCALLS
    assert tracked.remarks == ()
    native, compat = entries(tracked.begins)
    assert native == {0: 1, 1: 2, 257: 3, 74: 4, 42: 5, 288: 6, 44: 7, 45: 8, 232: 9, 202: 10}
    assert compat == {3: 1, 4: 2, 295: 3, 118: 4, 362: 5, 364: 6, 369: 7, 371: 8, 256: 9, 240: 10, 422: 10}
    assert tracked.ends == tracked.begins


def test_default_names_on_arm64() -> None:
    """epoll_wait is epoll_pwait there; to a 32-bit process it is itself."""
    tracked = syscalls.track(DEFAULT_SYSCALLS, ARM)
    assert tracked.names == DEFAULT_SYSCALLS
    assert tracked.remarks == ()
    native, compat = entries(tracked.begins)
    assert native == {63: 1, 64: 2, 56: 3, 82: 4, 203: 5, 242: 6, 206: 7, 207: 8, 22: 9, 98: 10}
    assert compat == {3: 1, 4: 2, 322: 3, 118: 4, 283: 5, 366: 6, 290: 7, 292: 8, 252: 9, 240: 10, 422: 10}
    assert tracked.ends == tracked.begins


def test_a_name_of_another_architecture_is_said_and_left_out() -> None:
    tracked = syscalls.track(("read", "open", "socketcall", "write"), ARM)
    assert tracked.names == ("read", "write")
    assert tracked.remarks == (
        "syscalls: open does not exist on aarch64: not counted",
        "syscalls: socketcall does not exist on aarch64: not counted",
    )
    native, compat = entries(tracked.begins)
    assert native == {63: 1, 64: 2}
    assert compat == {3: 1, 4: 2}, "the 32-bit open is left out with its name"


def test_what_is_tracked_by_its_own_name_is_nothing_elses() -> None:
    tracked = syscalls.track(("epoll_wait", "epoll_pwait", "poll", "select"), ARM)
    assert tracked.names == ("epoll_pwait", "poll", "select")
    assert tracked.remarks == ("syscalls: epoll_wait does not exist on aarch64, which has epoll_pwait: not counted",)
    assert entries(tracked.begins)[0] == {22: 1, 73: 2, 72: 3}
    assert syscalls.track(("epoll_wait", "epoll_pwait"), X86).names == ("epoll_wait", "epoll_pwait")


def test_what_never_returns_is_said_and_left_out() -> None:
    tracked = syscalls.track(("exit_group", "read", "rt_sigreturn"), X86)
    assert tracked.names == ("read",)
    assert [remark.split()[1] for remark in tracked.remarks] == ["exit_group", "rt_sigreturn"]
    assert entries(tracked.begins)[0] == {0: 1}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("read", "read"),
        ("pread64", "pread64"),
        ("getdents64", "getdents64"),
        ("futex_time64", "futex"),
        ("clock_gettime64", "clock_gettime"),
        ("clock_getres_time64", "clock_getres"),
        ("ppoll_time64", "ppoll"),
        ("stat64", "stat"),
        ("fstatat64", "newfstatat"),
        ("fcntl64", "fcntl"),
        ("getuid32", "getuid"),
        ("mmap2", "mmap"),
        ("_llseek", "lseek"),
        ("_newselect", "select"),
        ("arm_fadvise64_64", "fadvise64"),
        ("socketcall", "socketcall"),
        ("sigreturn", "sigreturn"),
        ("oldstat", "oldstat"),
    ],
)
def test_meaning_of_32_bit_names(name: str, meant: str) -> None:
    assert syscalls.meaning(name) == meant


def test_second_forms_are_counted_with_the_first() -> None:
    assert entries(syscalls.track(("mmap",), X86).begins)[1] == {90: 1, 192: 1}
    assert entries(syscalls.track(("stat", "lseek"), X86).begins)[1] == {106: 1, 195: 1, 19: 2, 140: 2}


@pytest.mark.parametrize("names", [("execveat",), ("execveat", "execve")])
def test_execveat_ends_as_execve_on_x86(names: tuple[str, ...]) -> None:
    tracked = syscalls.track(names, X86)
    native, compat = entries(tracked.ends)
    assert native == {59: 255, 322: 1}
    assert compat == {11: 255, 358: 1}
    begins = entries(tracked.begins)
    assert begins[0] == ({59: 2, 322: 1} if "execve" in names else {322: 1})
    assert syscalls.track(names, ARM).ends == syscalls.track(names, ARM).begins


@pytest.mark.parametrize("names", [("execve",), ("read", "munmap")])
def test_ends_are_begins_without_execveat(names: tuple[str, ...]) -> None:
    tracked = syscalls.track(names, X86)
    assert tracked.ends == tracked.begins


@pytest.mark.parametrize(
    ("name", "near"), [("reed", "read"), ("epol_wait", "epoll_wait"), ("fsnyc", "fsync"), ("READ", None), ("", None)]
)
def test_unknown_name_is_refused_with_the_nearest(name: str, near: str | None) -> None:
    with pytest.raises(SettingError) as caught:
        syscalls.track(("write", name), X86)
    said = str(caught.value)
    assert said.startswith(f"syscalls: unknown syscall {name!r}")
    assert "\n" not in said
    assert ("nearest" in said) == (near is not None)
    assert near is None or re.search(rf"nearest: [^)]*\b{near}\b", said)


def test_number_of_names_has_a_bound() -> None:
    names = [name for name in syscalls.X86_64 if name not in {"exit", "exit_group", "rt_sigreturn"}]
    assert max(entries(syscalls.track(names[:254], X86).begins)[0].values()) == 254
    with pytest.raises(SettingError, match=r"syscalls: 255 names; accepted: at most 254"):
        syscalls.track(names[:255], X86)


def test_names_twice_are_one() -> None:
    assert syscalls.track(("read", "write", "read"), X86).names == ("read", "write")


def test_collector_declares_the_tracked_names() -> None:
    (table,) = Syscall.declare(Environment(syscalls=DEFAULT_SYSCALLS))
    assert table.labels == (Label("syscall", DEFAULT_SYSCALLS, "tracked syscall"),)
    assert table.scope is Scope.CONTAINER
    assert {metric.profile for metric in METRICS} == {Profile.COMPREHENSIVE}
    assert series_per_container([table], frozenset(METRICS)) == 10 * (1 + 1 + 7 + 3)
    assert Syscall.declare(Environment()) == ()


def test_collector_refuses_a_wrong_name_when_it_is_made() -> None:
    for make in (Syscall, Syscall.declare):
        with pytest.raises(SettingError, match="unknown syscall 'reed'"):
            make(Environment(syscalls=("reed",)))


def test_nothing_left_to_track_is_said() -> None:
    collector = Syscall(Environment(syscalls=("exit",)))
    with pytest.raises(UnavailableError, match=r"^syscalls: exit never returns: not counted$"):
        collector.open()


def test_unknown_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are checked, and nothing is tracked."""
    tracked = syscalls.track(("read", "open"), "riscv64")
    assert tracked.names == ("read", "open")
    assert not any(tracked.begins + tracked.ends)
    with pytest.raises(SettingError):
        syscalls.track(("reed",), "riscv64")
    uname = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*uname[:4], "riscv64")))
    with pytest.raises(UnavailableError, match="syscall numbers of riscv64 are not known"):
        Syscall(Environment(syscalls=("read",))).open()
