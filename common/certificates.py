"""Transport certificates: the consortium's authority, the certificates that it issues, and TLS contexts that accept only these.

Every private key is created on the machine that uses it; only certificate requests are sent.
"""

import hashlib
import ipaddress
import ssl
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from salus.common.errors import IdentityError

CURVE = ec.SECP256R1
BACKDATE = timedelta(minutes=5)  # tolerance for the clocks of hospital machines


def new_transport_key() -> ec.EllipticCurvePrivateKey:
    """Return a new key for TLS."""
    return ec.generate_private_key(CURVE())


def new_node_key() -> ec.EllipticCurvePrivateKey:
    """Return a new key for Flower's node authentication (P-384, which Flower expects)."""
    return ec.generate_private_key(ec.SECP384R1())


def public_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """Return the public half as PEM."""
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def authority_hash(authority_pem: str) -> str:
    """Return the SHA-256, in hex, of the authority's certificate, as the roster names it; raises IdentityError."""
    return hashlib.sha256(_parse(authority_pem, "authority").public_bytes(serialization.Encoding.DER)).hexdigest()


def _parse(pem: str, what: str) -> x509.Certificate:
    try:
        (certificate,) = x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise IdentityError(
            f"Expected one {what} certificate in PEM.", remedy="Ask the consortium for the kit again."
        ) from None
    return certificate


def only_certificate(pem: str, what: str) -> str:
    """Return the one certificate in `pem`, encoded anew, so that what is installed is what was checked.

    OpenSSL trusts blocks in a file that are not counted here, such as ``BEGIN TRUSTED CERTIFICATE``.

    Raises:
        IdentityError: none, or more than one.
    """
    return _parse(pem, what).public_bytes(serialization.Encoding.PEM).decode()


def check_signed(certificate_pem: str, authority_pem: str) -> tuple[x509.Certificate, x509.Certificate]:
    """Return a certificate and its authority; raises IdentityError unless the authority signed it."""
    certificate, authority = _parse(certificate_pem, "transport"), _parse(authority_pem, "authority")
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise IdentityError(
            "The transport certificate in this kit is not signed by the consortium's certificate authority.",
            remedy="Ask the consortium for the kit again; the installed one stays in place.",
        ) from None
    return certificate, authority


def check_issued(
    certificate_pem: str, authority_pem: str, own: ec.EllipticCurvePublicKey, now: datetime, until: datetime
) -> None:
    """Check a member's new transport certificate before it replaces the old one.

    Args:
        own: the public half of this member's transport key.
        until: end of the roster with which it was issued.

    Raises:
        IdentityError: not signed by this authority, made for another key, not valid at `now`, or an older certificate, which
            ends before the roster: whoever passes on a new roster could cut a member off with it later.
    """
    certificate, authority = check_signed(certificate_pem, authority_pem)
    if certificate.public_key() != own:
        raise IdentityError(
            "The transport certificate in this kit is for another key: this is another member's kit.",
            remedy="Install the kit that was issued for this member; the installed one stays in place.",
        )
    _check_dates(certificate, "transport.crt", now)
    _check_dates(authority, "authority.crt", now)
    if certificate.not_valid_after_utc < min(until, authority.not_valid_after_utc) - BACKDATE:
        raise IdentityError(
            "The transport certificate in this kit ends before its roster: it belongs to an older kit.",
            remedy="Ask the consortium for the kit again; the installed one stays in place.",
        )


def make_authority(key: ec.EllipticCurvePrivateKey, name: str, now: datetime, days: int) -> x509.Certificate:
    """Return the self-signed certificate of the consortium's authority."""
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def make_request(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    """Return a certificate signing request in PEM."""
    request = x509.CertificateSigningRequestBuilder().subject_name(_name(name)).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def issue(
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    request_pem: str,
    *,
    now: datetime,
    days: int,
    server_url: str | None = None,
) -> str:
    """Return a certificate in PEM for a request.

    Args:
        server_url: the coordinator's URL; its host becomes the certificate's name. None for a site, which only connects.

    Raises:
        IdentityError: the request does not parse or is not signed by its own key.
    """
    try:
        request = x509.load_pem_x509_csr(request_pem.encode())
    except ValueError:
        raise IdentityError("Expected a certificate request in PEM.", remedy="Create a new request.") from None
    if not request.is_signature_valid:
        raise IdentityError("The certificate request is not signed by its own key.", remedy="Create a new request.")
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if server_url else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(authority.subject)
        .public_key(request.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(min(now + timedelta(days=days), authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )
    if server_url:
        builder = builder.add_extension(x509.SubjectAlternativeName(_host_names(server_url)), critical=False)
    return builder.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _host_names(url: str) -> list[x509.GeneralName]:
    host = urlsplit(url).hostname or ""
    try:
        return [x509.IPAddress(ipaddress.ip_address(host))]
    except ValueError:
        return [x509.DNSName(host)]


def check_certificate(path: Path, now: datetime) -> x509.Certificate:
    """Read a certificate and check its dates.

    Raises:
        IdentityError: missing, not a certificate, expired or not yet valid.
    """
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError:
        raise IdentityError(
            f"Expected a certificate {path.name!r}.", remedy="Install the consortium's kit first."
        ) from None
    except (ValueError, OSError):
        raise IdentityError(
            f"Cannot read the certificate {path.name!r}.", remedy="Install the consortium's kit again."
        ) from None
    _check_dates(certificate, path.name, now)
    return certificate


def _check_dates(certificate: x509.Certificate, name: str, now: datetime) -> None:
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise IdentityError(
            f"The certificate {name!r} is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d}, but the clock says {now:%Y-%m-%d}.",
            remedy="Check the clock, or ask the consortium for a new kit.",
        )


def client_context(authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the TLS context of a site: TLS 1.3; it trusts only the consortium's authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _fill(context, authority, certificate, key)
    return context


def server_context(authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the TLS context of the coordinator: TLS 1.3; it rejects clients without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    _fill(context, authority, certificate, key)
    return context


def _fill(context: ssl.SSLContext, authority: Path, certificate: Path, key: Path) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cafile=str(authority))
        context.load_cert_chain(str(certificate), str(key))
    except (OSError, ssl.SSLError):
        raise IdentityError(
            "The transport key, its certificate and the authority's certificate do not belong together.",
            remedy="Install the newest kit from the consortium.",
        ) from None
