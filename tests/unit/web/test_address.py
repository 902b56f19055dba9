"""Where the endpoint listens, how that is written, and which clients are one."""

import errno
import socket

import pytest

from kpod_metrics.web.address import EVERY, host_port, listening, local_url, network_of


def reached(listener: socket.socket, host: str) -> str:
    """Who the listener sees when a client connects to this host."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(10)
        client.connect((host, listener.getsockname()[1]))
        accepted, address = listener.accept()
        accepted.close()
        return str(address[0])


def test_every_address_is_of_both_families() -> None:
    with listening(EVERY, 0) as listener:
        assert listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
        seen = [reached(listener, host) for host in ("::1", "127.0.0.1")]
    assert seen == ["::1", "::ffff:127.0.0.1"]


def test_every_ipv4_address_is_ipv4_alone() -> None:
    with listening("0.0.0.0", 0) as listener:
        assert listener.family == socket.AF_INET
        assert reached(listener, "127.0.0.1") == "127.0.0.1"
        with pytest.raises(ConnectionRefusedError):
            reached(listener, "::1")


def test_name_with_both_is_the_ipv4_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with listening("localhost", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    del found[1]
    with listening("localhost", 0) as listener:
        assert listener.getsockname()[0] == "::1"


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_every_address_without_ipv6_is_ipv4(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/live/test_addresses.py has a kernel that refuses; where it does so differs."""

    class Refusing(socket.socket):
        def bind(self, address: object) -> None:
            if self.family == socket.AF_INET6:
                raise OSError(number, "")
            super().bind(address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "socket", Refusing)
    with listening(EVERY, 0) as listener:
        assert (listener.family, listener.getsockname()[0]) == (socket.AF_INET, "0.0.0.0")


def test_every_address_in_use_is_not_tried_as_ipv4() -> None:
    with listening("::1", 0) as other, pytest.raises(OSError, match="in use"):
        listening(EVERY, other.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "written"),
    [("127.0.0.1", "127.0.0.1:80"), ("n1", "n1:80"), ("::", "[::]:80"), ("fe80::1%eth0", "[fe80::1%eth0]:80")],
)
def test_host_and_port(host: str, written: str) -> None:
    assert host_port(host, 80) == written


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("::", "http://localhost:80"),
        ("0.0.0.0", "http://localhost:80"),
        ("::1", "http://[::1]:80"),
        ("10.0.0.1", "http://10.0.0.1:80"),
    ],
)
def test_local_url(host: str, url: str) -> None:
    assert local_url((host, 80)) == url


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1.2.3.4", "::ffff:1.2.3.4", True),
        ("1.2.3.4", "1.2.3.5", False),
        ("::ffff:1.2.3.4", "::ffff:1.2.3.5", False),
        ("2001:db8::1", "2001:db8::ffff:1:2:3", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1", "fe80::2", True),
        ("::1", "::ffff:0.0.0.1", False),
    ],
)
def test_clients_of_one_network(one: str, other: str, same: bool) -> None:
    assert (network_of(one) == network_of(other)) is same
