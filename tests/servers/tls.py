"""What a secured broker needs: its own certificate authority, a certificate, and users with passwords."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ADMIN = "admin"
ADMIN_PASSWORD = "admin-secret"  # of a broker that lives as long as a test


@dataclass(frozen=True)
class Secured:
    """TLS with SCRAM-SHA-512 users and Kafka's own authorizer. `admin` may do anything, others what ACLs say.

    Args:
        folder: where the certificates are, see `make_certificates`.
        users: name and password of each user besides `admin`.
    """

    folder: Path
    users: Mapping[str, str] = field(default_factory=dict)
    protocol: str = "SASL_SSL"

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def scram(self) -> list[str]:
        """The users as StorageTool's --add-scram takes them."""
        everyone = {ADMIN: ADMIN_PASSWORD, **self.users}
        return [f"SCRAM-SHA-512=[name={name},password={password}]" for name, password in everyone.items()]

    def properties(self) -> dict[str, object]:
        """The broker's security settings. Brokers and controllers know each other by their certificate."""
        mutual = {
            f"listener.name.{listener}.ssl.client.auth": "required" for listener in ("controller", "internal")
        }
        return {
            **mutual,
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.client.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.folder / "broker.pem",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.ca_file,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{ADMIN};User:CN=localhost",
        }


def make_certificates(folder: Path) -> None:
    """Make `ca.pem`, `broker.pem` (key and chain, for localhost), and `other-ca.pem`, which signed nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    for name in ("ca", "other-ca"):
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN=test-{name}"]
        _openssl(folder, "req", "-x509", *_KEY, "-days", "30", *files, *usage)
    _openssl(folder, "req", *_KEY, "-keyout", "b.key", "-out", "b.csr", "-subj", "/CN=localhost")
    (folder / "ext.cnf").write_text(
        "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n"
    )
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30", "-extfile", "ext.cnf"]
    _openssl(folder, "x509", "-req", "-in", "b.csr", "-out", "b.pem", *signed)
    parts = [(folder / name).read_text() for name in ("b.key", "b.pem", "ca.pem")]
    (folder / "broker.pem").write_text("".join(parts))


_KEY = ["-newkey", "rsa:2048", "-nodes"]


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
