"""A user without rights, in namespaces of its own, with mounts below overlays over a FUSE file system.

Arguments: a FUSE device that all may open, a folder, and the number of overlays. In the folder are `fuse` and `lower`,
and for each number `overlay/N` and `disk`. After a line on standard input the daemon answers nothing more. FUSE asks
nothing of its daemon for a user of another namespace, but overlayfs looks paths up with the rights of its mounter:
from then on, each lookup of a path below an overlay hangs. `overlay/N/sub` is a mount of `disk` for even numbers, so of
a file system that others have too, and a tmpfs for odd ones. A kernel may refuse overlays to such a user.

The protocol is include/uapi/linux/fuse.h.
"""

import ctypes
import os
import struct
import sys
import threading

LOOKUP, GETATTR, STATFS, INIT, OPENDIR, NO_ANSWER = 1, 3, 17, 26, 27, (2, 36, 42)
REQUEST = struct.Struct("=IIQQIIII")
REPLY = struct.Struct("=IiQ")
INIT_REPLY = struct.Struct("=IIIIHHIIHHI28x")
STATFS_REPLY = struct.Struct("=QQQQQIIII24x")
ENTRY = struct.Struct("=QQQQII")
ATTRIBUTES_VALID = struct.Struct("=QII")
ATTRIBUTES = struct.Struct("=QQQQQQIIIIIIIIII")
ENOENT, ENOSYS = 2, 38
MS_BIND = 4096
CLONE_NEWNS, CLONE_NEWUSER, PR_SET_DUMPABLE, NOBODY = 0x00020000, 0x10000000, 4, 65534
LIBC = ctypes.CDLL(None, use_errno=True)


def become_tenant() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    LIBC.prctl(PR_SET_DUMPABLE, 1)  # or its files in /proc are root's
    if LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    for name, content in (("setgroups", "deny"), ("uid_map", f"0 {NOBODY} 1"), ("gid_map", f"0 {NOBODY} 1")):
        with open(f"/proc/self/{name}", "w", encoding="utf-8") as file:
            file.write(content)


def mount(kind: str, source: str, point: str, options: str, flags: int = 0) -> None:
    if LIBC.mount(source.encode(), point.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()):
        raise OSError(ctypes.get_errno(), f"mount {point}")


def directory(inode: int) -> bytes:
    return ATTRIBUTES.pack(inode, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)


def serve(device: int, silent: threading.Event) -> None:
    while True:
        request = os.read(device, 1 << 17)
        _, opcode, unique, *_ = REQUEST.unpack_from(request)
        if opcode in NO_ANSWER:
            continue
        if silent.is_set():
            threading.Event().wait()
        body, error = b"", 0
        if opcode == INIT:
            body = INIT_REPLY.pack(7, 31, 0, 0, 1, 1, 4096, 1, 1, 0, 0)
        elif opcode == STATFS:
            body = STATFS_REPLY.pack(1000, 400, 300, 1, 1, 4096, 255, 4096, 0)
        elif opcode == GETATTR:
            body = ATTRIBUTES_VALID.pack(0, 0, 0) + directory(1)
        elif opcode == LOOKUP and request[REQUEST.size :].rstrip(b"\0") == b"sub":
            body = ENTRY.pack(2, 0, 1 << 30, 0, 0, 0) + directory(2)
        elif opcode == OPENDIR:
            body = ATTRIBUTES_VALID.pack(1, 0, 0)
        else:
            error = -ENOENT if opcode == LOOKUP else -ENOSYS
        os.write(device, REPLY.pack(REPLY.size + len(body), error, unique) + body)


def main(node: str, folder: str, number: int) -> None:
    become_tenant()
    device = os.open(node, os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    mount("fuse", "silent", f"{folder}/fuse", options)
    silent = threading.Event()
    threading.Thread(target=serve, args=(device, silent), daemon=True).start()
    for at in range(number):
        overlay = f"{folder}/overlay/{at}"
        try:
            mount("overlay", "o", overlay, f"lowerdir={folder}/fuse:{folder}/lower")
        except PermissionError:
            print("refused", flush=True)
            return
        if at % 2:
            mount("tmpfs", "t", f"{overlay}/sub", "size=4m")
        else:
            mount("", f"{folder}/disk", f"{overlay}/sub", "", MS_BIND)
    print("mounted", flush=True)
    sys.stdin.readline()
    silent.set()
    print("silent", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
