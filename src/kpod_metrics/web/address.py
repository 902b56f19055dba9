"""Addresses: which one to listen on, how it is written, where a client comes from."""

import errno
import socket

EVERY = "::"
"""The host that means every address of the machine, IPv6 and IPv4."""
_EVERY_IPV4 = "0.0.0.0"
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
_BACKLOG = 1024
"""Connections that the kernel holds until they are accepted, so that a burst waits for a moment and is not refused."""
_MAPPED = b"\0" * 10 + b"\xff\xff"
"""How an IPv6 address begins that stands for an IPv4 one."""


def host_port(host: str, port: int) -> str:
    """Write an address as HOST:PORT."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def local_url(listen: tuple[str, int]) -> str:
    """Return the URL at which the machine itself reaches what listens there."""
    host, port = listen
    return f"http://{host_port('localhost' if host in {EVERY, _EVERY_IPV4} else host, port)}"


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; raises OSError, or ValueError where `host` is no host name.

    `EVERY` takes IPv4 clients too, and is IPv4 alone where the kernel has no IPv6.
    """
    if host != EVERY:
        # As Go's net.Listen: of a name with several addresses the IPv4 one, which `localhost` has everywhere.
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda one: one[0] == socket.AF_INET6)
        return _listening(family, address)
    try:
        return _listening(socket.AF_INET6, (EVERY, port))
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise
    return _listening(socket.AF_INET, (_EVERY_IPV4, port))


def _listening(family: int, address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Whatever net.ipv6.bindv6only says.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        # At once: until a socket listens, SO_REUSEADDR lets a second agent bind the same address.
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def listens_on(listener: socket.socket) -> str:
    """Return a listener's HOST:PORT, with the interface where the address has one."""
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    host, port = socket.getnameinfo(listener.getsockname(), numeric)
    return host_port(host, int(port))


def network_of(host: str) -> bytes:
    """Return what a client's address has in common with others that it can have: IPv4's all, of IPv6 the first 64 bits.

    A host usually has a whole /64 to choose its addresses from. An IPv4 client is the same one on an IPv6 socket.
    """
    if ":" not in host:
        return socket.inet_pton(socket.AF_INET, host)
    address = socket.inet_pton(socket.AF_INET6, host)
    return address[12:] if address.startswith(_MAPPED) else address[:8]
