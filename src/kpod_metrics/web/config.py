"""The web configuration file: TLS, users, tokens, headers, a rate limit, in the format of Prometheus' exporter-toolkit.

What Python's ssl does not support is refused, not ignored (docs/security.md has the list). `bearer_tokens` is an
addition to the format.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from kpod_metrics import errors, yaml_file
from kpod_metrics.errors import SettingError
from kpod_metrics.yaml_file import NoYamlError

VERSIONS = ("TLS12", "TLS13")
VERIFYING = ("VerifyClientCertIfGiven", "RequireAndVerifyClientCert")
CLIENT_AUTH_TYPES = ("NoClientCert", *VERIFYING)
CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}
"""Go's names and OpenSSL's names."""
_ECDHE = {
    "AES_128_CBC_SHA": "AES128-SHA",
    "AES_256_CBC_SHA": "AES256-SHA",
    "AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "CHACHA20_POLY1305_SHA256": "CHACHA20-POLY1305",
}
CIPHERS = {
    f"TLS_ECDHE_{key}_WITH_{go}": f"ECDHE-{key}-{openssl}" for key in ("ECDSA", "RSA") for go, openssl in _ECDHE.items()
}
"""Go's cipher suites up to TLS 1.2 (crypto/tls, CipherSuites), and OpenSSL's names."""
CIPHERS_13 = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
"""Cipher suites of TLS 1.3: all are always enabled, in Go too."""
HEADERS: Mapping[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-Content-Type-Options": ("nosniff",),
    "X-XSS-Protection": (),
    "Strict-Transport-Security": (),
}
"""The headers that can be set, and their values if only some are valid."""

_BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|1[0-6])\$[./A-Za-z0-9]{53}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h))+|0", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)", re.ASCII)
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SECRET = "its value"


@dataclass
class Tls:
    """`tls_server_config`. A certificate, key or CA is either in a file or inline."""

    cert: str = ""
    key: str = ""
    client_ca: str = ""
    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""
    client_auth_type: str = "NoClientCert"
    client_allowed_sans: tuple[str, ...] = ()
    min_version: str = "TLS12"
    max_version: str = "TLS13"
    cipher_suites: tuple[str, ...] = ()
    prefer_server_cipher_suites: bool = True
    curve_preferences: tuple[str, ...] = ()

    @property
    def files(self) -> list[str]:
        """Paths of the files in it."""
        return [path for path in (self.cert_file, self.key_file, self.client_ca_file) if path]


@dataclass
class WebConfig:
    """The whole file."""

    tls: Tls | None = None
    headers: dict[str, str] = field(default_factory=dict)
    users: dict[str, bytes] = field(default_factory=dict)
    """bcrypt hashes by user name."""
    tokens: dict[str, bytes] = field(default_factory=dict)
    """SHA-256 of tokens, by a name for people."""
    rate_interval: float = 0.0
    """Seconds between two requests; 0: no limit."""
    rate_burst: int = 0


def read(path: str) -> WebConfig:
    """Read and check the file; raises SettingError, one line with the key, its value and the accepted values."""
    try:
        tree = yaml_file.load(path)
    except OSError as error:
        raise SettingError(f"web_config_file: {path!r} cannot be read ({error.strerror})") from None
    except NoYamlError as error:
        # Without the reason of invalid YAML: it quotes the file, which may be a secret.
        verdict = f"accepted: {error.rule}" if error.rule else "YAML"
        raise SettingError(f"web_config_file: {path!r}{error.where} is not {verdict}") from None
    return _Reader(path).config(tree)


class _Reader:
    """Checks the content of one file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def config(self, tree: Any) -> WebConfig:
        sections: dict[str, Callable[[Any], None]] = {
            "tls_server_config": self._tls,
            "http_server_config": self._http,
            "basic_auth_users": self._users,
            "bearer_tokens": self._tokens,
            "rate_limit": self._rate,
        }
        self._config = WebConfig()
        for name, value in self._mapping("", tree, sections).items():
            sections[name](value)
        return self._config

    def _refuse(self, key: str, shown: str, accepted: str) -> SettingError:
        what = errors.shown(shown)
        return SettingError(f"web_config_file: {self._path!r}: {key}: {what} is not accepted; accepted: {accepted}")

    def _mapping(self, key: str, value: Any, known: Mapping[str, Any] | None = None) -> dict[Any, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._refuse(key or "the file", f"a {type(value).__name__}", "keys and values")
        for name in value:
            if known is not None and name not in known:
                where = f"{key}.{name}" if key else str(name)
                where = where if where.isprintable() else repr(where)
                raise SettingError(
                    f"web_config_file: {self._path!r}: unknown key {where[:100]}; accepted: {', '.join(known)}"
                )
        return value

    def _text(self, key: str, value: Any, *, secret: bool = False) -> str:
        if not isinstance(value, str):
            raise self._refuse(key, _SECRET if secret else repr(value), "text")
        return value

    def _boolean(self, key: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise self._refuse(key, repr(value), "true, false")
        return value

    def _one_of(self, key: str, value: Any, *accepted: str) -> str:
        if value not in accepted:
            raise self._refuse(key, repr(value), ", ".join(accepted))
        return str(value)

    def _some_of(self, key: str, value: Any, *accepted: str) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise self._refuse(key, repr(value), "a list")
        return tuple(self._one_of(key, one, *accepted) if accepted else self._text(key, one) for one in value)

    def _tls(self, value: Any) -> None:
        at = "tls_server_config"
        given = self._mapping(at, value, {one.name: None for one in fields(Tls)})
        if not given:
            return
        tls = Tls()
        for name, content in given.items():
            key = f"{at}.{name}"
            match name:
                case "prefer_server_cipher_suites":
                    tls.prefer_server_cipher_suites = self._boolean(key, content)
                case "client_auth_type":
                    tls.client_auth_type = self._one_of(key, content, *CLIENT_AUTH_TYPES)
                case "min_version" | "max_version":
                    setattr(tls, name, self._one_of(key, content, *VERSIONS))
                case "cipher_suites":
                    tls.cipher_suites = self._some_of(key, content, *CIPHERS, *CIPHERS_13)
                case "curve_preferences":
                    tls.curve_preferences = self._some_of(key, content, *CURVES)
                    if len(tls.curve_preferences) > 1:
                        raise self._refuse(key, repr(content), "a list of one")
                case "client_allowed_sans":
                    tls.client_allowed_sans = self._some_of(key, content)
                case "cert_file" | "key_file" | "client_ca_file":
                    path = self._text(key, content)
                    setattr(tls, name, path and os.path.join(os.path.dirname(self._path), path))
                case _:
                    setattr(tls, name, self._text(key, content, secret=True))
        self._check(at, tls)
        self._config.tls = tls

    def _check(self, at: str, tls: Tls) -> None:
        """Refuse contradictions."""
        for name in ("cert", "key"):
            if bool(getattr(tls, name)) == bool(getattr(tls, f"{name}_file")):
                given = "both" if getattr(tls, name) else "nothing"
                raise self._refuse(f"{at}.{name}_file", given, f"one of {name}_file and {name}")
        if tls.client_ca and tls.client_ca_file:
            raise self._refuse(f"{at}.client_ca_file", "both", "one of client_ca_file and client_ca")
        verifies = tls.client_auth_type in VERIFYING
        if verifies != bool(tls.client_ca or tls.client_ca_file):
            raise self._refuse(
                f"{at}.client_ca_file",
                "nothing" if verifies else f"with client_auth_type {tls.client_auth_type}",
                f"a file with client_auth_type {' or '.join(VERIFYING)}, and only with these",
            )
        if tls.client_allowed_sans and tls.client_auth_type != VERIFYING[1]:
            raise self._refuse(
                f"{at}.client_allowed_sans", f"with client_auth_type {tls.client_auth_type}", f"with {VERIFYING[1]}"
            )
        if tls.min_version > tls.max_version:
            raise self._refuse(f"{at}.max_version", repr(tls.max_version), f"{tls.min_version} or later")

    def _http(self, value: Any) -> None:
        at = "http_server_config"
        given = self._mapping(at, value, {"http2": None, "headers": None})
        self._boolean(f"{at}.http2", given.get("http2", False))
        for name, content in self._mapping(f"{at}.headers", given.get("headers"), HEADERS).items():
            key = f"{at}.headers.{name}"
            text = self._one_of(key, content, *HEADERS[name]) if HEADERS[name] else self._text(key, content)
            if not text.isascii() or not text.isprintable():
                raise self._refuse(key, repr(text), "printable ASCII")
            if text:
                self._config.headers[name] = text

    def _users(self, value: Any) -> None:
        at = "basic_auth_users"
        for number, (name, content) in enumerate(self._mapping(at, value).items(), 1):
            # Neither the name nor the hash is shown: if a user swaps the two, a password would be in the log.
            if not isinstance(name, str) or not name or ":" in name or not name.isprintable():
                raise self._refuse(f"{at}, user {number}", "its name", "text without a colon")
            if not isinstance(content, str) or not _BCRYPT.fullmatch(content):
                raise self._refuse(
                    f"{at}, user {number}", _SECRET, "a bcrypt hash of cost 4 to 16 ($2y$10$..., by htpasswd -nBC 10)"
                )
            self._config.users[name] = content.encode()

    def _tokens(self, value: Any) -> None:
        at = "bearer_tokens"
        for number, (name, content) in enumerate(self._mapping(at, value).items(), 1):
            # YAML reads a hash of digits only as a number.
            if isinstance(content, bool) or not _SHA256.fullmatch(str(content)):
                raise self._refuse(
                    f"{at}, token {number}", _SECRET, "the token's SHA-256, 64 hexadecimal digits in quotes"
                )
            self._config.tokens[str(name)] = bytes.fromhex(str(content))

    def _rate(self, value: Any) -> None:
        at = "rate_limit"
        given = self._mapping(at, value, {"interval": None, "burst": None})
        interval, burst = str(given.get("interval", 0)), given.get("burst", 0)
        if isinstance(burst, bool) or not isinstance(burst, int) or not 0 <= burst <= 10**6:
            raise self._refuse(f"{at}.burst", repr(burst), "1 to 1000000")
        if not _DURATION.fullmatch(interval):
            raise self._refuse(f"{at}.interval", repr(given["interval"]), "a duration, like 100ms or 1s; 0: no limit")
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(interval))
        if seconds and not burst:
            raise self._refuse(f"{at}.burst", repr(burst), "1 to 1000000 where interval is set")
        self._config.rate_interval, self._config.rate_burst = seconds, burst
