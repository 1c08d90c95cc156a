"""Certificates for tests: an authority of a test's own, and what it signs, as files in a folder."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization


class Pair(NamedTuple):
    """A certificate and its key, as files."""

    certfile: Path
    keyfile: Path

    def replace_by(self, other: Pair) -> None:
        """Put another certificate in its place, as a rotation does."""
        self.certfile.write_bytes(other.certfile.read_bytes())
        self.keyfile.write_bytes(other.keyfile.read_bytes())


class Authority:
    """An authority: ``ca.pem`` in its folder is what others trust."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._authority = trustme.CA()
        self.cacertfile = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.cacertfile)

    def issue(self, *names: str, user: str | None = None, ends: datetime | None = None) -> Pair:
        """Sign a certificate for hosts, or for a user, whose common name it has."""
        made = self._authority.issue_cert(
            *(names or (f"{user}@example.org",)),
            common_name=user,
            not_before=datetime(2020, 1, 1, tzinfo=UTC),
            not_after=ends,
        )
        number = len(list(self.folder.iterdir()))
        pair = Pair(self.folder / f"{number}.pem", self.folder / f"{number}.key")
        made.cert_chain_pems[0].write_to_path(pair.certfile)
        made.private_key_pem.write_to_path(pair.keyfile)
        return pair

    def revoke(self, *pairs: Pair) -> Path:
        """Return the file of the list of revoked certificates (CRL) that has these."""
        key: Any = serialization.load_pem_private_key(self._authority.private_key_pem.bytes(), None)
        own = x509.load_pem_x509_certificate(self._authority.cert_pem.bytes())
        now = datetime.now(UTC) - timedelta(hours=1)
        builder = x509.CertificateRevocationListBuilder(own.subject, now, now + timedelta(days=30))
        for pair in pairs:
            revoked = x509.load_pem_x509_certificate(pair.certfile.read_bytes())
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder(revoked.serial_number, now).build()
            )
        path = self.folder / "crl.pem"
        path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path

    def encrypt(self, pair: Pair, password: str) -> Path:
        """Return the file of a key, encrypted."""
        key: Any = serialization.load_pem_private_key(pair.keyfile.read_bytes(), None)
        path = pair.keyfile.with_suffix(".encrypted")
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(password.encode()),
            )
        )
        return path
