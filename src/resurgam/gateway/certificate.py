"""TLS without an authority: a certificate that the gateway makes for itself, and that its clients know by its SHA-256.

The fingerprint is public and stands in the vault's URL. A client that was given it asks nothing else of the certificate, no name,
no date, no authority; so none of these can be wrong at night. A new key means a new URL: keep the file.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from datetime import timedelta

from resurgam.clock import Clock
from resurgam.errors import Denied
from resurgam.gateway.tokens import write_private

CERTIFICATE = "certificate.pem"
KEY = "key.pem"
_YEARS = timedelta(days=20 * 365)


def fingerprint(path: str) -> str:
    """``sha256:`` and the SHA-256 of the first certificate in the PEM file ``path``. Raises Denied."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        end = "-----END CERTIFICATE-----"
        own = text[text.index("-----BEGIN CERTIFICATE-----") : text.index(end) + len(end)]
        return f"sha256:{hashlib.sha256(ssl.PEM_cert_to_DER_cert(own)).hexdigest()}"
    except (OSError, ValueError) as error:
        raise Denied(
            f"{path} cannot be read as a certificate.",
            untouched="Nothing is served.",
            next_step="Give --certificate and --key a PEM file each that this user may read, or leave both out.",
        ) from error


def make_certificate(folder: str, host: str, clock: Clock) -> tuple[str, str]:
    """The paths of the certificate and its key in ``folder``; both are made if they are not there. Raises Denied."""
    certificate, key = os.path.join(folder, CERTIFICATE), os.path.join(folder, KEY)
    if not os.path.exists(certificate):  # written last: where it is, its key is
        made, private = _self_signed(host, clock)
        write_private(key, private)
        write_private(certificate, made)
    return certificate, key


def _self_signed(host: str, clock: Clock) -> tuple[bytes, bytes]:
    """A certificate for ``host`` and its key (ECDSA on P-256), both PEM (RFC 5280, RFC 7468)."""
    from cryptography import x509  # some 50 ms, for the first start of a gateway only
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host[:64])])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(clock.now() - timedelta(days=1))
        .not_valid_after(clock.now() + _YEARS)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host), x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM), pem
