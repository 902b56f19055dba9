"""The web configuration file: what it may hold, and the one line for each thing that it may not."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kpod_metrics.errors import SettingError
from kpod_metrics.web.config import CIPHERS, Tls, WebConfig, read
from kpod_metrics.web.counts import Counts
from kpod_metrics.web.guard import Guard

HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
"""The example in exporter-toolkit's documentation."""
DIGEST = "ab" * 32
PAIR = {"cert_file": "a.crt", "key_file": "/b/a.key"}


def written(folder: Path, content: Any) -> str:
    file = folder / "web.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(file)


def test_nothing_is_nothing(tmp_path: Path) -> None:
    assert read(written(tmp_path, "")) == WebConfig()
    assert read(written(tmp_path, {"tls_server_config": None, "basic_auth_users": {}})) == WebConfig()


def test_all_of_it(tmp_path: Path) -> None:
    content = {
        "tls_server_config": {
            **PAIR,
            "client_auth_type": "RequireAndVerifyClientCert",
            "client_ca_file": "ca.crt",
            "client_allowed_sans": ["prometheus", "10.0.0.1"],
            "min_version": "TLS13",
            "max_version": "TLS13",
            "cipher_suites": ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"],
            "prefer_server_cipher_suites": False,
            "curve_preferences": ["X25519"],
        },
        "http_server_config": {
            "http2": True,
            "headers": {"X-Frame-Options": "deny", "Strict-Transport-Security": "max-age=1", "X-XSS-Protection": ""},
        },
        "basic_auth_users": {"scraper": HASH},
        "bearer_tokens": {"otel": DIGEST},
        "rate_limit": {"interval": "1m1.5s", "burst": 7},
    }
    assert read(written(tmp_path, content)) == WebConfig(
        tls=Tls(
            cert_file=str(tmp_path / "a.crt"),
            key_file="/b/a.key",
            client_ca_file=str(tmp_path / "ca.crt"),
            client_auth_type="RequireAndVerifyClientCert",
            client_allowed_sans=("prometheus", "10.0.0.1"),
            min_version="TLS13",
            max_version="TLS13",
            cipher_suites=("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
            prefer_server_cipher_suites=False,
            curve_preferences=("X25519",),
        ),
        headers={"X-Frame-Options": "deny", "Strict-Transport-Security": "max-age=1"},
        users={"scraper": HASH.encode()},
        tokens={"otel": bytes.fromhex(DIGEST)},
        rate_interval=61.5,
        rate_burst=7,
    )


def tls(**given: Any) -> dict[str, Any]:
    return {"tls_server_config": PAIR | given}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: ]", "line 1 is not YAML"),
        ("a: b: SECRET", "line 1 is not YAML"),
        ("- 1", "the file: a list is not accepted; accepted: keys and values"),
        (
            {"tls_server": {}},
            "unknown key tls_server; accepted: tls_server_config, http_server_config, basic_auth_users, bearer_tokens, "
            "rate_limit",
        ),
        ({"tls_server_config": []}, "tls_server_config: a list is not accepted; accepted: keys and values"),
        (
            tls(ciphers=[]),
            "unknown key tls_server_config.ciphers; accepted: cert, key, client_ca, cert_file, key_file, ",
        ),
        (tls(min_version="TLS11"), "tls_server_config.min_version: 'TLS11' is not accepted; accepted: TLS12, TLS13"),
        (tls(min_version=1.2), "tls_server_config.min_version: 1.2 is not accepted; accepted: TLS12, TLS13"),
        (
            tls(min_version="TLS13", max_version="TLS12"),
            "tls_server_config.max_version: 'TLS12' is not accepted; accepted: TLS13 or later",
        ),
        (
            tls(client_auth_type="RequireAnyClientCert"),
            "tls_server_config.client_auth_type: 'RequireAnyClientCert' is not accepted; accepted: NoClientCert, "
            "VerifyClientCertIfGiven, RequireAndVerifyClientCert",
        ),
        (
            tls(client_auth_type="RequireAndVerifyClientCert"),
            "tls_server_config.client_ca_file: nothing is not accepted; accepted: a file with client_auth_type ",
        ),
        (
            tls(client_ca_file="ca.crt"),
            "tls_server_config.client_ca_file: with client_auth_type NoClientCert is not accepted; accepted: a file ",
        ),
        (
            tls(client_ca_file="ca.crt", client_ca="x", client_auth_type="VerifyClientCertIfGiven"),
            "tls_server_config.client_ca_file: both is not accepted; accepted: one of client_ca_file and client_ca",
        ),
        (
            tls(client_auth_type="VerifyClientCertIfGiven", client_ca_file="c", client_allowed_sans=["a"]),
            "tls_server_config.client_allowed_sans: with client_auth_type VerifyClientCertIfGiven is not accepted; "
            "accepted: with RequireAndVerifyClientCert",
        ),
        (
            {"tls_server_config": {"cert_file": "a"}},
            "tls_server_config.key_file: nothing is not accepted; accepted: one of key_file and key",
        ),
        (
            tls(key="SECRET"),
            "tls_server_config.key_file: both is not accepted; accepted: one of key_file and key",
        ),
        (
            {"tls_server_config": {"key": ["SECRET"]}},
            "tls_server_config.key: its value is not accepted; accepted: text",
        ),
        (tls(cipher_suites=["RC4"]), "tls_server_config.cipher_suites: 'RC4' is not accepted; accepted: TLS_ECDHE_"),
        (tls(cipher_suites="RC4"), "tls_server_config.cipher_suites: 'RC4' is not accepted; accepted: a list"),
        (
            tls(curve_preferences=["P1"]),
            "tls_server_config.curve_preferences: 'P1' is not accepted; accepted: CurveP256",
        ),
        (
            tls(curve_preferences=["X25519", "CurveP256"]),
            "tls_server_config.curve_preferences: ['X25519', 'CurveP256'] is not accepted; accepted: a list of one",
        ),
        (
            tls(prefer_server_cipher_suites="yes"),
            "tls_server_config.prefer_server_cipher_suites: 'yes' is not accepted; accepted: true, false",
        ),
        ({"http_server_config": {"http3": True}}, "unknown key http_server_config.http3; accepted: http2, headers"),
        ({"http_server_config": {"http2": 1}}, "http_server_config.http2: 1 is not accepted; accepted: true, false"),
        (
            {"http_server_config": {"headers": {"Server": "x"}}},
            "unknown key http_server_config.headers.Server; accepted: Content-Security-Policy, X-Frame-Options, ",
        ),
        (
            {"http_server_config": {"headers": {"X-Frame-Options": "maybe"}}},
            "http_server_config.headers.X-Frame-Options: 'maybe' is not accepted; accepted: deny, sameorigin",
        ),
        (
            {"http_server_config": {"headers": {"Content-Security-Policy": "a\r\nb: c"}}},
            "http_server_config.headers.Content-Security-Policy: 'a\\r\\nb: c' is not accepted; accepted: printable ",
        ),
        (
            {"basic_auth_users": {"me": "SECRET"}},
            "basic_auth_users, user 1: its value is not accepted; accepted: a bcrypt hash of cost 4 to 16 "
            "($2y$10$..., by htpasswd -nBC 10)",
        ),
        ({"basic_auth_users": {"me": HASH, "you": HASH.replace("$10", "$31")}}, "basic_auth_users, user 2: its value"),
        (
            {"basic_auth_users": {"SECRET:x": HASH}},
            "basic_auth_users, user 1: its name is not accepted; accepted: text without a colon",
        ),
        ({"basic_auth_users": ["SECRET"]}, "basic_auth_users: a list is not accepted; accepted: keys and values"),
        (
            {"bearer_tokens": {"a": "SECRET"}},
            "bearer_tokens, token 1: its value is not accepted; accepted: the token's SHA-256, 64 hexadecimal digits "
            "in quotes",
        ),
        (
            {"rate_limit": {"interval": "often", "burst": 1}},
            "rate_limit.interval: 'often' is not accepted; accepted: a ",
        ),
        ({"rate_limit": {"interval": "1s"}}, "rate_limit.burst: 0 is not accepted; accepted: 1 to 1000000 where "),
        ({"rate_limit": {"burst": True}}, "rate_limit.burst: True is not accepted; accepted: 1 to 1000000"),
        ({"rate_limit": {"every": 1}}, "unknown key rate_limit.every; accepted: interval, burst"),
    ],
)
def test_one_line_says_what_is_wrong(content: Any, said: str, tmp_path: Path) -> None:
    path = written(tmp_path, content)
    with pytest.raises(SettingError) as caught:
        read(path)
    line = str(caught.value)
    assert line.removeprefix(f"web_config_file: {path!r}").lstrip(": ").startswith(said)
    assert line.isprintable()
    assert "SECRET" not in line


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(
        SettingError, match=r"^web_config_file: '.*/none' cannot be read \(No such file or directory\)$"
    ):
        read(str(tmp_path / "none"))
    (tmp_path / "bytes").write_bytes(b"a: \xff")
    with pytest.raises(SettingError, match=r"^web_config_file: '.*/bytes' is not YAML$"):
        read(str(tmp_path / "bytes"))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["TLS12", "deny", HASH]),
        lambda below: (
            st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), below, max_size=3)
        ),
        max_leaves=5,
    ),
    st.sampled_from(["tls_server_config", "http_server_config", "basic_auth_users", "bearer_tokens", "rate_limit"]),
    st.sampled_from(["cert_file", "client_auth_type", "cipher_suites", "headers", "interval", "burst", "http2", ""]),
)
def test_any_value_is_taken_or_refused_in_a_line(
    tmp_path_factory: pytest.TempPathFactory, value: Any, section: str, key: str
) -> None:
    path = written(tmp_path_factory.getbasetemp(), {section: {key: value} if key else value})
    try:
        Guard(path, Counts())
    except SettingError as error:
        line = str(error)
    else:
        line = ""
    assert line.isprintable()


def test_suites_have_the_names_that_this_openssl_knows() -> None:
    import ssl

    known = {one["name"] for one in ssl.create_default_context().get_ciphers()}
    everything = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    everything.set_ciphers(":".join(CIPHERS.values()))
    found = {one["name"] for one in everything.get_ciphers()}
    assert set(CIPHERS.values()) <= found
    assert known
