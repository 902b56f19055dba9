"""Paths below another process' root directory, without leaving it: openat2() (Linux 5.6), statx() with mount ids (5.8).

The owner of a directory there can replace it by a symbolic link at any time. A lookup by string through
`/proc/PID/root` follows that link in this process' own root directory: to the host's files, or to other pods' volumes.
So it looks a path up with the process' root as the root (RESOLVE_IN_ROOT), refuses links of any kind, and compares the
mount at the end of the lookup with the wanted one.

It opens the descriptor with O_PATH: it reads nothing, and no file system opens anything. The last component
does not trigger an automount, as that takes O_DIRECTORY or a slash at the end (fs/namei.c, follow_automount()).
"""

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from functools import cache

from kpod_metrics.errors import UnavailableError

_OPENAT2 = 437
"""The system call's number, on every architecture."""
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_IN_ROOT = 0x02, 0x04, 0x10
_STATX_TYPE, _STATX_MNT_ID = 0x1, 0x1000
_AT_EMPTY_PATH, _AT_STATX_DONT_SYNC = 0x1000, 0x4000
_FLAGS = os.O_PATH | os.O_CLOEXEC


class ReplacedError(OSError):
    """A mount point has no mount any more, or another one."""


class _How(ctypes.Structure):
    """Struct open_how of include/uapi/linux/openat2.h."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _Statx(ctypes.Structure):
    """The fields of struct statx of include/uapi/linux/stat.h that are read."""

    _fields_ = (
        ("mask", ctypes.c_uint32),
        ("_0", ctypes.c_uint8 * 24),
        ("mode", ctypes.c_uint16),
        ("_1", ctypes.c_uint8 * 106),
        ("device_major", ctypes.c_uint32),
        ("device_minor", ctypes.c_uint32),
        ("mount", ctypes.c_uint64),
        ("_2", ctypes.c_uint8 * 104),
    )


_HOW = _How(_FLAGS, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    libc.syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_How), ctypes.c_size_t)
    libc.statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Statx))
    return libc


def open_below(root: int, path: str) -> int:
    """Open a path with the directory `root` as the root, with O_PATH; raises OSError: ELOOP for a link."""
    name = os.fsencode(path)
    if b"\0" in name:
        raise OSError(errno.EINVAL, "a path cannot have a null byte")
    fd: int = _libc().syscall(_OPENAT2, root, name, ctypes.byref(_HOW), ctypes.sizeof(_HOW))
    if fd < 0:
        raise _error()
    return fd


def fstatvfs_below(root: str, point: str, mount: int, reached: Callable[[str], object]) -> os.statvfs_result:
    """Return statvfs() of the mount with the number `mount`, which is at `point` below a process' root.

    `reached` is called with the device (MAJ:MIN) when only its file system is left to answer. A call that hangs before
    says nothing about the device: any file system that the path leads through can be the one that does not answer.

    Raises ProcessLookupError if the process is gone, NotADirectoryError if a single file is mounted, ReplacedError if
    that mount is not there, any other OSError.
    """
    try:
        top = os.open(root, _FLAGS)
    except FileNotFoundError as error:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from error
    try:
        fd = open_below(top, point)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ReplacedError(error.errno, error.strerror) from None
    finally:
        os.close(top)
    try:
        found = _status(fd)
        if found.mount != mount:
            raise ReplacedError(errno.EXDEV, f"mount {found.mount} is there in place of mount {mount}")
        if not stat.S_ISDIR(found.mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        reached(f"{found.device_major}:{found.device_minor}")
        return os.fstatvfs(fd)
    finally:
        os.close(fd)


def require() -> None:
    """Raise UnavailableError if the kernel or a seccomp profile refuses a call that a safe lookup needs."""
    what = "openat2"
    try:
        top = os.open("/", _FLAGS)
        try:
            os.close(open_below(top, "/"))
            what = "statx"
            _status(top)
        finally:
            os.close(top)
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, "?")
        raise UnavailableError(
            f"{code}: {what}() is refused, by a seccomp profile or an old kernel: without it a pod could redirect "
            "the agent to other files"
        ) from None


def _status(fd: int) -> _Statx:
    """Return a file's mode and device, and the number that its mount has in mountinfo.

    The kernel assigns device and number, not the file system. /proc/self/fdinfo has the number too, at eight times the
    cost (14 us). No two mounts have the same number at the same time, in any namespace. The kernel reuses it after a
    mount is gone: read a process' table of mounts before.
    """
    found = _Statx()
    if _libc().statx(fd, b"", _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC, _STATX_TYPE | _STATX_MNT_ID, ctypes.byref(found)):
        raise _error()
    if not found.mask & _STATX_MNT_ID:
        raise OSError(errno.ENOSYS, "statx() returns no mount id (Linux 5.8)")
    return found


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
