"""Addresses: where the agent listens, how addresses are written, the network of a client."""

import errno
import socket

EVERY = "::"
"""The host for all addresses of the machine, IPv6 and IPv4."""
_EVERY_IPV4 = "0.0.0.0"
SEND_BUFFER = 128 << 10
"""Bytes that the kernel buffers of what a client does not read; it counts twice as many, and would go up to 4 MB."""
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
_BACKLOG = 1024
"""Connections that the kernel holds until they are accepted: a burst waits for a moment and is not refused."""
_MAPPED = b"\0" * 10 + b"\xff\xff"
"""Prefix of an IPv6 address that stands for an IPv4 address."""


def host_port(host: str, port: int) -> str:
    """Write an address as HOST:PORT."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def local_url(listen: tuple[str, int]) -> str:
    """Return the URL at which the machine itself reaches a listener."""
    host, port = listen
    return f"http://{host_port('localhost' if host in {EVERY, _EVERY_IPV4} else host, port)}"


def listening(host: str, port: int) -> socket.socket:
    """Return a listening socket; raises OSError, or ValueError if `host` is not a host name.

    `EVERY` accepts IPv4 clients too, and only those if the kernel has no IPv6.
    """
    if host != EVERY:
        # As Go's net.Listen does: if a name has several addresses, the IPv4 one, which `localhost` always has.
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
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # accepted sockets inherit it
        if family == socket.AF_INET6:
            # Regardless of net.ipv6.bindv6only.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        # Immediately: until a socket listens, SO_REUSEADDR lets a second agent bind the same address.
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def listens_on(listener: socket.socket) -> str:
    """Return HOST:PORT of a listener, with the interface if the address has one."""
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    host, port = socket.getnameinfo(listener.getsockname(), numeric)
    return host_port(host, int(port))


def network_of(host: str) -> bytes:
    """Return the part of a client's address that the client cannot choose: all of IPv4, the first 64 bits of IPv6.

    A host usually has a whole /64 to choose its addresses from. An IPv4 client has the same network on an IPv6 socket.
    """
    if ":" not in host:
        return socket.inet_pton(socket.AF_INET, host)
    address = socket.inet_pton(socket.AF_INET6, host)
    return address[12:] if address.startswith(_MAPPED) else address[:8]
