"""Who answers at the coordinator's address: a TLS handshake that trusts nobody and sends nothing, to see the certificate.

Only the certificate is read; the connection is closed then. Neither this member's certificate nor any request is sent over it.
"""

import ipaddress
import socket
import ssl
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from salus.common.doctor.route import RouteError
from salus.common.names import visible

MOST_NAME = 80


@dataclass(frozen=True)
class Peer:
    """The certificate that was shown.

    Args:
        issuer: name of its issuer, from the network: cut and without control characters.
        ours: whether the consortium's authority issued it.
        names_host: whether it is for this host.
        certificate: as it was shown, DER.
        tls: the version of TLS.
    """

    issuer: str
    ours: bool
    names_host: bool
    not_before: datetime
    not_after: datetime
    certificate: bytes
    tls: str


def look(connection: socket.socket, host: str, authority: x509.Certificate | None) -> Peer:
    """Do a handshake over an open connection, which is closed then, and return what was shown.

    Args:
        authority: the consortium's; None if no kit is installed yet, and then `ours` is False.

    Raises:
        RouteError: no TLS there, or the handshake failed.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # accepts TLS 1.2 too: whoever intercepts may speak only that
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with context.wrap_socket(connection, server_hostname=host or None) as tls:
            shown, version = tls.getpeercert(binary_form=True), tls.version() or ""
    except ssl.SSLError as problem:
        named = problem.reason or ""
        raise RouteError("not-tls" if named in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST") else "tls-failed") from None
    except OSError:
        raise RouteError("closed") from None
    finally:
        connection.close()
    try:
        certificate = x509.load_der_x509_certificate(shown or b"")
    except ValueError:
        raise RouteError("tls-failed") from None
    return Peer(
        issuer=name_of(certificate.issuer),
        ours=authority is not None and _issued(certificate, authority),
        names_host=_names(certificate, host),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        certificate=shown or b"",
        tls=version,
    )


def name_of(name: x509.Name) -> str:
    """Return organisation and common name, fit for a screen."""
    wanted = (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)
    words = [str(attribute.value) for oid in wanted for attribute in name.get_attributes_for_oid(oid)]
    return visible(", ".join(words))[:MOST_NAME] or "an authority without a name"


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _names(certificate: x509.Certificate, host: str) -> bool:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    try:
        return ipaddress.ip_address(host) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        return host.lower() in [name.lower() for name in names.get_values_for_type(x509.DNSName)]
