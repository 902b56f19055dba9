"""Certificates for tests, made by openssl: a CA, certificates that it signed, and self-signed ones."""

import subprocess
from pathlib import Path


class Certificates:
    """Makes pairs of files in a folder, valid for a day."""

    def __init__(self, openssl: Path, folder: Path) -> None:
        self._openssl = openssl
        self._folder = folder
        # Without the machine's own configuration of openssl.
        self._config = folder / "openssl.cnf"
        self._config.write_text("[req]\ndistinguished_name = name\n[name]\n")
        self.ca = self._make("ca", "CA:TRUE", "-subj", "/CN=test CA", "-addext", "keyUsage=critical,keyCertSign")[0]

    def signed(self, name: str, names: str = "IP:127.0.0.1") -> tuple[str, str]:
        """Return files of a certificate for these names, signed by the CA, and of its key."""
        ca, key = self._folder / "ca.crt", self._folder / "ca.key"
        by = ("-CA", str(ca), "-CAkey", str(key))
        return self._make(name, "CA:FALSE", *by, "-subj", f"/CN={name}", "-addext", f"subjectAltName={names}")

    def self_signed(self, name: str) -> tuple[str, str]:
        """Return the files of a self-signed certificate for an unused name."""
        return self._make(name, "CA:FALSE", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}")

    def _make(self, name: str, basic: str, *arguments: str) -> tuple[str, str]:
        certificate, key = str(self._folder / f"{name}.crt"), str(self._folder / f"{name}.key")
        subprocess.run(
            [
                *(self._openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
                *("-config", self._config, "-addext", f"basicConstraints=critical,{basic}"),
                *("-noenc", "-days", "1", "-keyout", key, "-out", certificate, *arguments),
            ],
            check=True,
            capture_output=True,
        )
        return certificate, key
