"""TLS for clients: which certificates to trust, and which to present. Imported only for https."""

import ssl

from kpod_metrics.errors import SettingError


def context(ca: str, certificate: str, key: str, *, prefix: str = "") -> ssl.SSLContext:
    """Return a context with these files, "" for a missing one; `prefix` is that of the settings' names.

    Raises SettingError for a file that cannot be used.
    """
    try:
        made = ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        raise SettingError(
            f"{prefix}ca: {ca!r} cannot be used: {error}; accepted: a file of certificates (PEM)"
        ) from None
    if certificate:
        try:
            made.load_cert_chain(certificate, key or None, lambda: "")
        except (OSError, ssl.SSLError) as error:
            raise SettingError(
                f"{prefix}certificate: {certificate!r} with {prefix}key {key!r} cannot be used: {error}; accepted: "
                "a certificate and its key without a password (PEM)"
            ) from None
    return made
