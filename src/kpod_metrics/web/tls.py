"""TLS of the endpoint, from the web configuration. Imported only if that has `tls_server_config`."""

import ipaddress
import os
import ssl
from collections.abc import Iterable, Mapping
from typing import Any

from kpod_metrics.errors import SettingError
from kpod_metrics.web.config import CIPHERS, CURVES, Tls

_VERSION = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_VERIFY = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}


def context_of(tls: Tls) -> ssl.SSLContext:
    """Return a context for connections; raises SettingError with the key that is invalid."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = _VERSION[tls.min_version], _VERSION[tls.max_version]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if not tls.prefer_server_cipher_suites:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if tls.cipher_suites:
        if named := [CIPHERS[name] for name in tls.cipher_suites if name in CIPHERS]:
            context.set_ciphers(":".join(named))
        elif tls.max_version == "TLS12":
            raise _unusable("cipher_suites", "none of TLS 1.2", "one of those with max_version TLS12")
        else:  # only suites of TLS 1.3
            context.minimum_version = ssl.TLSVersion.TLSv1_3
    for curve in tls.curve_preferences:
        context.set_ecdh_curve(CURVES[curve])
    _load_pair(context, tls)
    context.verify_mode = _VERIFY[tls.client_auth_type]
    if context.verify_mode is not ssl.CERT_NONE:
        try:
            # OpenSSL accepts only ASCII. Other characters can be in comments between certificates.
            inline = tls.client_ca.encode("ascii", "ignore").decode() if tls.client_ca else None
            context.load_verify_locations(tls.client_ca_file or None, None, inline)
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            raise _unusable("client_ca_file", _shown(tls.client_ca_file, error), "a PEM file of certificates") from None
    return context


def _load_pair(context: ssl.SSLContext, tls: Tls) -> None:
    # OpenSSL does not report which of the two files it cannot read.
    for name, path in (("cert_file", tls.cert_file), ("key_file", tls.key_file)):
        try:
            if path:
                os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise _unusable(name, _shown(path, error), "a PEM file that can be read") from None
    kept: list[int] = []
    try:
        certificate = tls.cert_file or _as_file(tls.cert, kept)
        key = tls.key_file or _as_file(tls.key, kept)
        # For a key with a password: without this OpenSSL asks on the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        where = f"{_shown(tls.cert_file, error)} with key_file {tls.key_file or 'inline'!r}"
        raise _unusable("cert_file", where, "a PEM certificate and its key, not encrypted") from None
    finally:
        for fd in kept:
            os.close(fd)


def _as_file(content: str, kept: list[int]) -> str:
    """Return a path for inline content, since ssl needs one: in memory, never on a disk."""
    kept.append(os.memfd_create("pem", os.MFD_CLOEXEC))
    os.write(kept[-1], content.encode())
    return f"/proc/self/fd/{kept[-1]}"


def _shown(path: str, error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "not PEM"
    return f"{path or 'inline'!r} ({reason})"


def _unusable(key: str, what: str, accepted: str) -> SettingError:
    return SettingError(f"web_config_file: tls_server_config.{key}: {what} is not accepted; accepted: {accepted}")


def is_allowed(certificate: Mapping[str, Any] | None, sans: Iterable[str]) -> bool:
    """Return whether a verified certificate (`SSLObject.getpeercert`) has one of these names, exactly as written."""
    wanted = set(sans)
    for kind, value in (certificate or {}).get("subjectAltName", ()):
        if kind in {"DNS", "email", "URI"} and value in wanted:
            return True
        if kind == "IP Address":
            try:
                if str(ipaddress.ip_address(value.strip())) in wanted:
                    return True
            except ValueError:
                continue
    return False
