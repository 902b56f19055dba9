"""A FUSE daemon of a tenant: an empty folder whose attributes the tenant may refuse (include/uapi/linux/fuse.h).

The kernel never asks the daemon of another user namespace for a process outside of it. But to look up a path in an
overlay above this folder, it asks with the rights of the user who mounted the overlay.
"""

import errno
import os
import struct
import threading
import time

GETATTR, FORGET, BATCH_FORGET = 3, 2, 42
REQUEST = struct.Struct("=IIQQIIII")
REPLY = struct.Struct("=IiQ")
INIT_REPLY = struct.Struct("=IIIIHHIIHHI28x")
ATTRIBUTES = struct.Struct("=QII6Q10I")
STATFS_REPLY = struct.Struct("=QQQQQIIII24x")
OPEN_REPLY = struct.Struct("=QII")
S_IFDIR = 0o40755


class Daemon:
    """Serves one mount on threads: a request that hangs does not block the others."""

    def __init__(self, device: str) -> None:
        """`device` is /dev/fuse, or another node of it; it must be opened in the namespace that mounts."""
        self.file = os.open(device, os.O_RDWR)
        self.answer = 0
        """Error of each lookup; 0: they succeed, -1: it never answers."""
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def options(self) -> str:
        """Options of its mount."""
        return f"fd={self.file},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self.file, 1 << 17)
            except PermissionError:  # not mounted yet
                time.sleep(0.001)
                continue
            except OSError:  # unmounted
                return
            _, opcode, unique, *_ = REQUEST.unpack_from(request)
            if opcode in (FORGET, BATCH_FORGET):
                continue
            if opcode == GETATTR and self.answer < 0:
                continue
            body, error = self._reply(opcode)
            os.write(self.file, REPLY.pack(REPLY.size + len(body), -error, unique) + body)

    def _reply(self, opcode: int) -> tuple[bytes, int]:
        match opcode:
            case 26:  # INIT
                return INIT_REPLY.pack(7, 31, 0, 0, 1, 1, 4096, 1, 1, 0, 0), 0
            case 3 if self.answer:  # GETATTR; not cached
                return b"", self.answer
            case 3:
                return ATTRIBUTES.pack(0, 0, 0, 1, *(0,) * 5, 0, 0, 0, S_IFDIR, 2, 0, 0, 0, 4096, 0), 0
            case 17:  # STATFS
                return STATFS_REPLY.pack(1000, 400, 300, 1, 1, 4096, 255, 4096, 0), 0
            case 1:  # LOOKUP
                return b"", errno.ENOENT
            case 27:  # OPENDIR
                return OPEN_REPLY.pack(0, 0, 0), 0
            case 28 | 29:  # READDIR, RELEASEDIR
                return b"", 0
            case _:
                return b"", errno.ENOSYS
