"""Who is let in, over real sockets: TLS, client certificates, users, tokens, a rate; and what a new file changes."""

import base64
import hashlib
import http.client
import logging
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import yaml

from kpod_metrics.errors import SettingError
from kpod_metrics.server import bind
from kpod_metrics.web.answers import PLAIN, Answer
from kpod_metrics.web.counts import Counts
from kpod_metrics.web.endpoint import Endpoint
from kpod_metrics.web.guard import Guard, Rate
from kpod_metrics.web.limits import Limits
from testkit.certificates import Certificates
from tests.served import orphans, served
from tests.unit.imports import imported_by_an_agent


def hashed(password: bytes, cost: int = 4) -> str:
    return bcrypt.hashpw(password, bcrypt.gensalt(cost)).decode()


def basic(user: str, password: bytes) -> str:
    return "Basic " + base64.b64encode(user.encode() + b":" + password).decode()


PASSWORD, TOKEN = b"correct horse", "battery-staple-0123456789abcdef"
USERS = {"scraper": hashed(PASSWORD), "other": hashed(b"other")}
TOKENS = {"otel": hashlib.sha256(TOKEN.encode()).hexdigest(), "more": hashlib.sha256(b"more").hexdigest()}


class Place:
    """A web configuration that can be changed, and an endpoint under it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "web.yaml"
        self.counts = Counts()
        self.address = ("", 0)

    def write(self, content: Any) -> None:
        """Replace the file as a Secret's volume does: at once."""
        new = self.file.with_suffix(".new")
        new.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        new.rename(self.file)

    @contextmanager
    def served(self, content: Any, limits: Limits | None = None, body: bytes = b"page\n") -> Iterator["Place"]:
        self.write(content)

        async def answer(method: str, path: str, headers: Mapping[str, str]) -> Answer:
            return Answer(200, PLAIN, body)

        with bind(("127.0.0.1", 0)) as listener:
            if len(body) > 1000:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)  # an accepted socket has the same
            self.address = listener.getsockname()
            guard = Guard(str(self.file), self.counts)
            limited = frozenset({"/metrics"})
            with served(Endpoint(listener, answer, self.counts, limits or Limits(), guard=guard, limited=limited)):
                yield self

    def client(self, context: ssl.SSLContext | None = None) -> http.client.HTTPConnection:
        if context is None:
            return http.client.HTTPConnection(*self.address, timeout=20)
        return http.client.HTTPSConnection(*self.address, timeout=20, context=context)

    def ask(self, authorization: str | None = None, context: ssl.SSLContext | None = None) -> tuple[int, bytes]:
        client = self.client(context)
        try:
            return ask(client, authorization)
        finally:
            client.close()

    def refused(self) -> dict[str, int]:
        return {reason: count for reason, count in self.counts.refused.items() if count}


def ask(client: http.client.HTTPConnection, authorization: str | None = None) -> tuple[int, bytes]:
    client.request("GET", "/metrics", headers={"Authorization": authorization} if authorization is not None else {})
    answer = client.getresponse()
    return answer.status, answer.read()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


class Keys:
    """Certificates of the endpoint and of clients."""

    def __init__(self, certificates: Certificates) -> None:
        self.certificates = certificates
        certificate, key = certificates.signed("endpoint")
        self.pair = {"cert_file": certificate, "key_file": key}
        """`tls_server_config` of a server."""

    def trusting(self, *certificate: str) -> ssl.SSLContext:
        """The context of a client that trusts the CA, and has this certificate."""
        context = ssl.create_default_context(cafile=self.certificates.ca)
        if certificate:
            context.load_cert_chain(*certificate)
        return context


@pytest.fixture(scope="module")
def keys(certificates: Certificates) -> Keys:
    return Keys(certificates)


@pytest.mark.parametrize(
    ("users", "tokens", "shown", "status"),
    [
        (USERS, {}, None, 401),
        (USERS, {}, basic("scraper", PASSWORD), 200),
        (USERS, {}, basic("other", b"other"), 200),
        (USERS, {}, basic("scraper", b"wrong"), 401),
        (USERS, {}, basic("scraper", b""), 401),
        (USERS, {}, basic("scraper", PASSWORD + b"\0"), 401),
        (USERS, {}, basic("scraper", b"x" * 100), 401),
        (USERS, {}, basic("other", PASSWORD), 401),
        (USERS, {}, basic("nobody", PASSWORD), 401),
        (USERS, {}, basic("", b""), 401),
        (USERS, {}, "Basic " + base64.b64encode(b"scraper").decode(), 401),
        (USERS, {}, "Basic " + base64.b64encode(b"\xff:x").decode(), 401),
        (USERS, {}, "Basic !", 401),
        (USERS, {}, "Basic", 401),
        (USERS, {}, "", 401),
        (USERS, {}, f"basic  {basic('scraper', PASSWORD)[6:]} ", 200),
        (USERS, {}, f"Bearer {TOKEN}", 401),
        ({}, TOKENS, None, 401),
        ({}, TOKENS, f"Bearer {TOKEN}", 200),
        ({}, TOKENS, "bearer more", 200),
        ({}, TOKENS, f"Bearer {TOKEN}x", 401),
        ({}, TOKENS, "Bearer", 401),
        ({}, TOKENS, f"Bearer {TOKENS['otel']}", 401),
        ({}, TOKENS, basic("otel", TOKEN.encode()), 401),
        (USERS, TOKENS, f"Bearer {TOKEN}", 200),
        (USERS, TOKENS, basic("scraper", PASSWORD), 200),
        (USERS, TOKENS, "Digest x", 401),
        ({}, {}, None, 200),
        ({}, {}, basic("any", b"one"), 200),
    ],
)
def test_users_and_tokens(
    users: dict[str, str], tokens: dict[str, str], shown: str | None, status: int, place: Place
) -> None:
    with place.served({"basic_auth_users": users, "bearer_tokens": tokens}):
        assert [place.ask(shown)[0] for _ in range(2)] == [status] * 2  # the second from what is remembered
        assert place.refused() == ({"auth": 2} if status == 401 else {})


def test_what_is_to_be_shown(place: Place) -> None:
    with place.served({"basic_auth_users": USERS, "bearer_tokens": TOKENS}):
        client = place.client()
        client.request("GET", "/")
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (401, b"unauthorized\n")
        assert answer.headers.get_all("www-authenticate") == ["Basic", "Bearer"]
        # Two headers: what a proxy looked at may not be what we would.
        client.putrequest("GET", "/")
        client.putheader("Authorization", basic("scraper", PASSWORD))
        client.putheader("Authorization", basic("scraper", b"wrong"))
        client.endheaders()
        answer = client.getresponse()
        assert (answer.status, len(answer.read())) == (401, 13)
        client.close()


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz", "/readyz", "/nothing", "http://n1/metrics"])
def test_no_path_without(path: str, place: Place) -> None:
    with place.served({"basic_auth_users": USERS}):
        client = place.client()
        client.request("GET", path)
        answer = client.getresponse()
        assert answer.status == 401
        client.close()


def test_password_of_more_than_72_bytes_is_cut_as_upstream_does(place: Place) -> None:
    with place.served({"basic_auth_users": {"a": hashed(b"x" * 72)}}):
        assert place.ask(basic("a", b"x" * 100))[0] == 200
        assert place.ask(basic("a", b"x" * 71))[0] == 401


def test_comparing_delays_nobody(place: Place) -> None:
    """While an expensive password is compared, those that are known are answered; a crowd of guesses is sent away."""
    with place.served({"basic_auth_users": {"dear": hashed(b"dear", 12), "cheap": hashed(b"cheap")}}):
        assert place.ask(basic("cheap", b"cheap"))[0] == 200
        guesses = [place.client() for _ in range(30)]
        for number, client in enumerate(guesses):
            client.request("GET", "/", headers={"Authorization": basic("dear", b"%d" % number)})
        known = place.client()
        answered = 0
        while place.counts.refused["auth"] == 0:
            assert ask(known, basic("cheap", b"cheap"))[0] == 200
            answered += 1
        assert answered > 2
        found = Counter(client.getresponse().status for client in guesses)
        assert 8 <= found[401] < len(guesses) / 2  # eight wait at a time; one that is compared makes room
        assert found == {401: found[401], 503: len(guesses) - found[401]}
        assert place.refused() == {"auth": found[401], "requests": found[503]}
        for client in (*guesses, known):
            client.close()


def test_each_password_is_compared_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    real = bcrypt.checkpw

    def counting(password: bytes, stored: bytes) -> bool:
        compared.append(password)
        return real(password, stored)

    monkeypatch.setattr(bcrypt, "checkpw", counting)
    with place.served({"basic_auth_users": USERS}):
        for _ in range(3):
            assert place.ask(basic("scraper", PASSWORD))[0] == 200
        for number in range(150):  # more than are remembered
            assert place.ask(basic("scraper", b"%d" % number))[0] == 401
        assert place.ask(basic("scraper", PASSWORD))[0] == 200
        assert compared == [PASSWORD, *(b"%d" % number for number in range(150))]


def test_rate(place: Place) -> None:
    with place.served({"rate_limit": {"interval": "1h", "burst": 3}}):
        assert [place.ask()[0] for _ in range(5)] == [200, 200, 200, 429, 429]
        assert place.refused() == {"rate": 2}
        place.write({"rate_limit": {"interval": "1h", "burst": 1}})
        assert [place.ask()[0] for _ in range(2)] == [200, 429]
        place.write({})
        assert [place.ask()[0] for _ in range(5)] == [200] * 5


def test_rate_fills_again() -> None:
    rate = Rate(0.05, 2)
    assert [rate.take() for _ in range(3)] == [True, True, False]
    time.sleep(0.25)
    assert [rate.take() for _ in range(3)] == [True, True, False]


def test_headers(place: Place) -> None:
    with place.served({"http_server_config": {"headers": {"X-Frame-Options": "deny"}}, "basic_auth_users": USERS}):
        client = place.client()
        client.request("GET", "/")
        assert client.getresponse().headers["x-frame-options"] == "deny"
        client.close()


def test_tls(place: Place, keys: Keys) -> None:
    with place.served({"tls_server_config": keys.pair, "basic_auth_users": USERS}):
        assert place.ask(basic("scraper", PASSWORD), keys.trusting()) == (200, b"page\n")
        assert place.ask(None, keys.trusting())[0] == 401
        with pytest.raises(ssl.SSLCertVerificationError):
            place.ask(context=ssl.create_default_context())
        with socket.create_connection(place.address, 20) as plain:
            plain.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            assert not plain.recv(1000).startswith(b"HTTP/")
        eventually(lambda: place.refused() == {"auth": 1, "tls": 2} and not place.counts.connections)


def eventually(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not what() and time.monotonic() < end:
        time.sleep(0.01)
    assert what()


def test_inline_certificate(place: Place, keys: Keys) -> None:
    before = os.listdir("/proc/self/fd")
    content = {name.removesuffix("_file"): Path(path).read_text() for name, path in keys.pair.items()}
    content |= {"client_ca": Path(keys.certificates.ca).read_text(), "client_auth_type": "RequireAndVerifyClientCert"}
    with place.served({"tls_server_config": content}):
        assert place.ask(None, keys.trusting(*keys.certificates.signed("client")))[0] == 200
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("policy", ["NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"])
@pytest.mark.parametrize("shown", ["none", "good", "bad"])
@pytest.mark.parametrize("version", ["TLS12", "TLS13"])
def test_client_certificates(policy: str, shown: str, version: str, place: Place, keys: Keys) -> None:
    own: dict[str, Callable[[], tuple[str, ...]]] = {
        "none": tuple,
        "good": lambda: keys.certificates.signed("client"),
        "bad": lambda: keys.certificates.self_signed("c"),
    }
    content = keys.pair | {"client_auth_type": policy, "min_version": version, "max_version": version}
    if policy != "NoClientCert":
        content["client_ca_file"] = keys.certificates.ca
    good = policy == "NoClientCert" or shown == "good" or (shown == "none" and policy == "VerifyClientCertIfGiven")
    with place.served({"tls_server_config": content}):
        if good:
            assert place.ask(None, keys.trusting(*own[shown]())) == (200, b"page\n")
            assert place.refused() == {}
        else:
            with pytest.raises(OSError, match=r"alert|reset|closed|Broken|EOF|unexpected"):
                place.ask(None, keys.trusting(*own[shown]()))
            eventually(lambda: place.refused() == {"tls": 1})


@pytest.mark.parametrize(
    ("names", "allowed", "good"),
    [
        ("DNS:prometheus", ["prometheus"], True),
        ("DNS:a,DNS:prometheus", ["other", "prometheus"], True),
        ("DNS:prometheus.evil", ["prometheus"], False),
        ("IP:10.1.2.3", ["10.1.2.3"], True),
        ("IP:2001:db8::1", ["2001:db8::1"], True),
        ("IP:10.1.2.4", ["10.1.2.3"], False),
        ("URI:spiffe://c/ns/m/sa/p", ["spiffe://c/ns/m/sa/p"], True),
        ("email:a@b.example", ["a@b.example"], True),
        ("DNS:*.example", ["a.example"], False),
    ],
)
def test_names_of_client_certificates(names: str, allowed: list[str], good: bool, place: Place, keys: Keys) -> None:
    content = keys.pair | {"client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": keys.certificates.ca}
    with place.served({"tls_server_config": content | {"client_allowed_sans": allowed}}):
        client = keys.trusting(*keys.certificates.signed("named", names))
        if good:
            assert place.ask(None, client)[0] == 200
        else:
            with pytest.raises(OSError, match=r"reset|closed|Broken|EOF"):
                place.ask(None, client)
            eventually(lambda: place.refused() == {"tls": 1})


@pytest.mark.parametrize(
    ("content", "client", "spoken"),
    [
        ({"min_version": "TLS13"}, ssl.TLSVersion.TLSv1_2, None),
        ({"min_version": "TLS13"}, ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
        ({"max_version": "TLS12"}, ssl.TLSVersion.TLSv1_3, None),
        ({"max_version": "TLS12"}, ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
        ({"cipher_suites": ["TLS_AES_128_GCM_SHA256"]}, ssl.TLSVersion.TLSv1_2, None),
        ({"curve_preferences": ["CurveP384"], "prefer_server_cipher_suites": False}, ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
    ],
)
def test_versions(
    content: dict[str, Any], client: ssl.TLSVersion, spoken: str | None, place: Place, keys: Keys
) -> None:
    context = keys.trusting()
    context.minimum_version = context.maximum_version = client
    with place.served({"tls_server_config": keys.pair | content}):
        if spoken is None:
            with pytest.raises(OSError, match=r"alert|EOF|reset"):
                place.ask(None, context)
            return
        connection = place.client(context)
        connection.connect()
        assert isinstance(connection.sock, ssl.SSLSocket)
        assert connection.sock.version() == spoken
        connection.close()


@pytest.mark.parametrize("suite", ["AES_128_GCM_SHA256", "CHACHA20_POLY1305_SHA256", "AES_256_CBC_SHA"])
def test_cipher_suites(suite: str, place: Place, keys: Keys) -> None:
    content = keys.pair | {"max_version": "TLS12", "cipher_suites": [f"TLS_ECDHE_ECDSA_WITH_{suite}"]}
    with place.served({"tls_server_config": content}):
        context = keys.trusting()
        context.set_ciphers("ALL")
        connection = place.client(context)
        connection.connect()
        assert isinstance(connection.sock, ssl.SSLSocket)
        cipher = connection.sock.cipher()
        assert cipher is not None
        expected = suite.removesuffix("_SHA256").replace("_CBC", "").replace("AES_", "AES").replace("_", "-")
        assert cipher[0].removesuffix("-SHA256") == f"ECDHE-ECDSA-{expected}"
        connection.close()


def test_handshake_that_does_not_come(place: Place, keys: Keys) -> None:
    with place.served({"tls_server_config": keys.pair}, Limits(receive=2.0)):
        silent = [socket.create_connection(place.address, 20) for _ in range(20)]
        silent[0].sendall(b"\x16\x03\x01")
        assert place.ask(None, keys.trusting())[0] == 200
        eventually(lambda: place.refused() == {"tls": 20} and not place.counts.connections)
        for client in silent:
            assert client.recv(1) == b""
            client.close()


def test_end_of_an_answer_that_is_taken_slowly_by_tls(
    place: Place, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """What is in the endpoint's own buffers when it closes has the time of any other part of an answer."""
    body = b"x" * 120_000
    with place.served({"tls_server_config": keys.pair}, body=body), socket.socket() as plain:
        plain.settimeout(20)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        plain.connect(place.address)
        with keys.trusting().wrap_socket(plain, server_hostname="127.0.0.1") as client:
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            time.sleep(1.5)
            received = b""
            while part := client.recv(1 << 16):
                received += part
        assert received.endswith(b"\r\n\r\n" + body)
        eventually(lambda: not place.counts.connections)
        assert place.refused() == {}
    assert [record.getMessage() for record in caplog.records] == []


def test_a_thousand_idle_clients_by_tls(place: Place, keys: Keys) -> None:
    """Some have shaken hands, most have not; there is room for 128."""
    limits = Limits()
    with place.served({"tls_server_config": keys.pair}, limits):
        context = keys.trusting()
        before = resident()
        secure = [
            context.wrap_socket(socket.create_connection(place.address, 20), server_hostname="127.0.0.1")
            for _ in range(limits.connections)
        ]
        # 256 KiB each of asyncio's, and OpenSSL's.
        assert resident() - before < 80 << 20
        silent = [socket.create_connection(place.address, 20) for _ in range(1000 - len(secure))]
        assert place.ask(None, context)[0] == 200
        assert place.counts.connections <= limits.connections
        assert place.counts.refused["connections"] >= 1000 - limits.connections
        for client in (*secure, *silent):
            client.close()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_new_users_count_at_once(place: Place) -> None:
    with place.served({"basic_auth_users": USERS}):
        client = place.client()
        assert ask(client, basic("scraper", PASSWORD))[0] == 200
        place.write({"basic_auth_users": {"scraper": hashed(b"new")}, "bearer_tokens": TOKENS})
        assert ask(client, basic("scraper", PASSWORD))[0] == 401
        assert ask(client, basic("scraper", b"new"))[0] == 200
        assert ask(client, f"Bearer {TOKEN}")[0] == 200
        client.close()


def test_new_certificate_counts_from_the_next_connection(place: Place, tmp_path: Path, keys: Keys) -> None:
    own = {"cert_file": str(tmp_path / "own.crt"), "key_file": str(tmp_path / "own.key")}
    for name, path in own.items():
        shutil.copy(keys.pair[name], path)

    def serial(client: http.client.HTTPConnection) -> Any:
        assert isinstance(client.sock, ssl.SSLSocket)
        certificate = client.sock.getpeercert()
        assert certificate is not None
        return certificate["serialNumber"]

    with place.served({"tls_server_config": own}):
        old, new = place.client(keys.trusting()), place.client(keys.trusting())
        assert ask(old)[0] == 200
        for path, other in zip(own.values(), keys.certificates.signed("renewed"), strict=True):
            shutil.copy(other, f"{path}.new")
            os.rename(f"{path}.new", path)
        assert ask(old)[0] == 200
        assert ask(new)[0] == 200
        assert serial(old) != serial(new)
        old.close()
        new.close()


@pytest.mark.parametrize(
    "content",
    [
        "basic_auth_users: !!bool x",
        'tls_server_config: {cert_file: "a\\0b", key_file: k}',
        "rate_limit: !!timestamp x",
        "? !!int ''\n: 1",
    ],
)
def test_whatever_is_wrong_with_a_new_file_the_old_one_is_not_in_force(place: Place, content: str) -> None:
    """Asked again and again: the file does not change, and is as wrong as it was."""
    with place.served({"basic_auth_users": USERS}):
        right = basic("scraper", PASSWORD)
        assert place.ask(right)[0] == 200
        place.write(content)
        assert [place.ask(right)[0] for _ in range(3)] == [500] * 3
        assert place.counts.config_valid is False
        place.write({"basic_auth_users": USERS})
        assert place.ask(right)[0] == 200
    place.write(content)
    with pytest.raises(SettingError) as caught:
        Guard(str(place.file), Counts())
    assert str(caught.value).isprintable()


def test_what_is_not_foreseen_is_a_wrong_file_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: str) -> None:
        raise ZeroDivisionError("SECRET")

    with place.served({"basic_auth_users": USERS}):
        right = basic("scraper", PASSWORD)
        with monkeypatch.context() as broken:
            broken.setattr("kpod_metrics.web.guard.files.read", fails)
            place.write({"basic_auth_users": {}})
            assert [place.ask(right)[0] for _ in range(3)] == [500] * 3
        place.write({"basic_auth_users": USERS})
        assert place.ask(right)[0] == 200


def test_comment_between_inline_certificates(place: Place, keys: Keys) -> None:
    """OpenSSL takes ASCII alone; a comment is anybody's."""
    authority = "# F\u0151tan\u00fas\u00edtv\u00e1ny\n" + Path(keys.certificates.ca).read_text()
    content = keys.pair | {"client_ca": authority, "client_auth_type": "RequireAndVerifyClientCert"}
    with place.served({"tls_server_config": content}):
        assert place.ask(None, keys.trusting(*keys.certificates.signed("client")))[0] == 200
        with pytest.raises(OSError, match=r"certificate|reset|EOF|closed|alert"):
            place.ask(None, keys.trusting())


def test_broken_file_refuses_all_until_it_is_right(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with place.served({"basic_auth_users": USERS}), caplog.at_level(logging.INFO):
        client = place.client()
        right = basic("scraper", PASSWORD)
        assert ask(client, right)[0] == 200
        place.write("basic_auth_users: {scraper: SECRET}")
        assert [ask(client, right)[0], place.ask(right)[0], ask(client)[0]] == [500] * 3
        assert place.counts.config_valid is False
        place.file.unlink()
        assert ask(client, right)[0] == 500
        place.write({"basic_auth_users": USERS})
        assert [ask(client, right)[0], ask(client)[0]] == [200, 401]
        assert place.counts.config_valid is True
        assert place.refused() == {"config": 4, "auth": 1}
        client.close()
    assert [record.getMessage() for record in caplog.records if record.name.startswith("kpod")] == [
        f"web_config_file: '{place.file}': basic_auth_users, user 1: its value is not accepted; accepted: a bcrypt "
        "hash of cost 4 to 16 ($2y$10$..., by htpasswd -nBC 10); all requests are refused until it is corrected",
        f"web_config_file: '{place.file}' cannot be read (No such file or directory); all requests are refused until "
        "it is corrected",
        f"web configuration {place.file} was read again",
    ]
    assert "SECRET" not in caplog.text


def test_broken_certificate_refuses_connections(place: Place, tmp_path: Path, keys: Keys) -> None:
    own = keys.pair | {"cert_file": str(tmp_path / "own.crt")}
    shutil.copy(keys.pair["cert_file"], own["cert_file"])
    with place.served({"tls_server_config": own}):
        old = place.client(keys.trusting())
        assert ask(old)[0] == 200
        (tmp_path / "own.crt").write_text("nothing")
        with pytest.raises(OSError, match=r"EOF|reset|closed"):
            place.ask(None, keys.trusting())
        assert ask(old)[0] == 500
        shutil.copy(keys.pair["cert_file"], own["cert_file"])
        assert ask(old)[0] == 200
        assert place.ask(None, keys.trusting())[0] == 200
        old.close()


@pytest.mark.parametrize("then", ["waits", "ends", "is no TLS"])
def test_tls_client_that_does_not_read_leaves_no_orphan(place: Place, keys: Keys, then: str) -> None:
    """Not even if asyncio closes the socket itself, because of an end or of bytes that are not TLS."""
    limits = Limits(send=0.5, idle=0.5)
    with place.served({"tls_server_config": keys.pair}, limits, b"x" * 20_000), socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        raw.settimeout(20)
        raw.connect(place.address)
        sent, received = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = keys.trusting().wrap_bio(received, sent, server_hostname="127.0.0.1")
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                raw.sendall(sent.read())
                received.write(raw.recv(65536))
        tls.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        raw.sendall(sent.read())
        assert raw.recv(10)
        if then == "ends":
            raw.shutdown(socket.SHUT_WR)
        elif then == "is no TLS":
            raw.sendall(b"no TLS" * 100)
        end = time.monotonic() + 20
        while place.counts.connections and time.monotonic() < end:
            time.sleep(0.01)
        assert (place.counts.connections, orphans(place.address[1])) == (0, 0)


def test_tls_is_not_switched_while_it_runs(place: Place, keys: Keys) -> None:
    with place.served({}):
        place.write({"tls_server_config": keys.pair})
        assert place.ask()[0] == 500
    place.counts = Counts()
    with place.served({"tls_server_config": keys.pair}):
        place.write({})
        with pytest.raises(OSError, match=r"EOF|reset|closed"):
            place.ask(None, keys.trusting())
        with socket.create_connection(place.address, 20) as plain:
            plain.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            with suppress(ConnectionResetError):
                assert plain.recv(1000) == b""
        assert place.refused() == {"config": 2}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cert_file": "/nonexistent"}, "cert_file: '/nonexistent' (No such file or directory)"),
        ({"key_file": "/nonexistent"}, "key_file: '/nonexistent' (No such file or directory)"),
        ({"cert_file": "/etc/hostname"}, "cert_file: '/etc/hostname' ("),
        ({"key_file": "OTHER"}, "cert_file: "),
        (
            {"client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "/etc/hostname"},
            "client_ca_file: '/etc/hostname' (",
        ),
        ({"max_version": "TLS12", "cipher_suites": ["TLS_AES_128_GCM_SHA256"]}, "cipher_suites: none of TLS 1.2"),
    ],
)
def test_what_openssl_refuses_is_one_line(change: dict[str, Any], said: str, place: Place, keys: Keys) -> None:
    if change.get("key_file") == "OTHER":
        change = {"key_file": keys.certificates.signed("unrelated")[1]}
    place.write({"tls_server_config": keys.pair | change})
    with pytest.raises(SettingError) as caught:
        Guard(str(place.file), place.counts)
    line = str(caught.value)
    assert line.startswith(f"web_config_file: tls_server_config.{said}")
    assert "is not accepted; accepted: " in line
    assert line.isprintable()


def test_nothing_is_imported_for_what_is_off(tmp_path: Path) -> None:
    heavy = ("bcrypt", "kpod_metrics.web.tls", "uvicorn")
    assert imported_by_an_agent(tmp_path, "kpod_metrics.server", *heavy) == ""
    file = tmp_path / "web.yaml"
    file.write_text(yaml.safe_dump({"bearer_tokens": TOKENS}))
    code = (
        "import sys\nfrom kpod_metrics.web.counts import Counts\nfrom kpod_metrics.web.guard import Guard\n"
        f"Guard({str(file)!r}, Counts())\nprint(*{{*{heavy!r}}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
