"""TLS for servers: one certificate, changed without a restart; and a certificate of our own for dev.

TLS 1.2 and 1.3 (RFC 8996 ends 1.0 and 1.1), no compression, no renegotiation. Session tickets are on, so that a client
that comes back saves the certificate's signature (a new connection costs 1.0 to 1.4 ms of CPU). OpenSSL gives its
buffers back while a connection is idle.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.logger import Logger
from zope.interface import implementer

from mailfarm.errors import ConfigurationError

# RFC 9325 §4.2.1: forward secrecy and authenticated encryption only; TLS 1.3 has nothing else. There the first is the
# one that RFC 8446 §9.1 wants of everybody: its SHA-256, which a handshake hashes with, is an instruction of the CPU.
CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20"
TLS13_CIPHERS: Final = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

DEV_DAYS: Final = 397
DEV_DAYS_LEFT: Final = 14


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Two PEM files: the certificate with its chain, and the private key."""

    certificate: Path
    key: Path


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    """What ``startTLS`` and ``TLSMemoryBIOFactory`` ask for a connection. Raises ConfigurationError at once if the
    files will not do."""

    log = Logger()

    def __init__(self, pair: KeyPair) -> None:
        self.pair = pair
        self._context = server_context(pair)

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        return SSL.Connection(self._context, None)

    def reload(self) -> bool:
        """Read the files again (SIGHUP). New connections get the new certificate, open ones keep theirs.

        Files that will not do change nothing: the old certificate stays, and an error says what to do.
        """
        try:
            self._context = server_context(self.pair)
        except ConfigurationError as error:
            self.log.error(
                "The new TLS certificate is not used, the old one stays: {error}. Mend the files, then send SIGHUP.",
                error=str(error),
            )
            return False
        self.log.info("TLS certificate read from {certificate}", certificate=str(self.pair.certificate))
        return True


def server_context(pair: KeyPair) -> SSL.Context:
    """A context for servers. Raises ConfigurationError with a sentence for who can mend the files."""
    certificate, key = str(pair.certificate), str(pair.key)
    try:
        name = certificate
        with open(certificate, "rb"):
            pass
        name = key
        secret = pair.key.read_bytes()
    except OSError as error:
        raise ConfigurationError([f"cannot read {name}: {error.strerror}"]) from None
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_cipher_list(CIPHERS)
    context.set_tls13_ciphersuites(TLS13_CIPHERS)
    # Tickets instead of a cache: nothing to keep, and they die with the context, that is with a reload.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"mailfarm")
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    try:
        context.use_certificate_chain_file(certificate)
    except SSL.Error as error:
        raise ConfigurationError([f"{certificate} holds no PEM certificate chain ({_why(error)})"]) from None
    try:
        private = serialization.load_pem_private_key(secret, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # TypeError: it has a passphrase, which nobody could type when a service starts
        raise ConfigurationError([f"{key} holds no PEM private key without a passphrase"]) from None
    try:
        # any private key type that OpenSSL can load will do
        context.use_privatekey(private)  # type: ignore[arg-type]  # it lists fewer than cryptography returns
        context.check_privatekey()
    except (SSL.Error, TypeError):
        raise ConfigurationError([f"the key in {key} does not belong to the certificate in {certificate}"]) from None
    return context


def _why(error: Exception) -> str:
    reasons = (
        [entry[2] for entry in error.args[0] if entry[2]] if error.args and isinstance(error.args[0], list) else []
    )
    return ", ".join(reasons) or str(error) or "no reason given"


def describe(connection: Any) -> str:
    """``TLSv1.3 TLS_AES_256_GCM_SHA384``, or nothing before the handshake is done."""
    cipher = connection.get_cipher_name()
    return f"{connection.get_protocol_version_name()} {cipher}" if cipher else ""


def dev_names(hostname: str) -> tuple[str, ...]:
    """The names and addresses the certificate for dev is good for."""
    return tuple(dict.fromkeys(("localhost", hostname, "127.0.0.1", "::1")))


def dev_certificate(folder: Path, hostname: str, now: datetime) -> KeyPair:
    """An EC P-256 certificate signed by itself, in ``folder`` as ``certificate.pem`` and ``key.pem`` (0600).

    The one that is there is used again while it is good for ``DEV_DAYS_LEFT`` more days and for the same names, so that
    whoever trusts it need not trust a new one every morning. ``now`` has a time zone. Raises OSError.
    """
    pair = KeyPair(folder / "certificate.pem", folder / "key.pem")
    names = dev_names(hostname)
    if not _still_good(pair, names, now):
        key = ec.generate_private_key(ec.SECP256R1())
        folder.mkdir(parents=True, exist_ok=True)
        # The key first: a crash between the two leaves a pair that does not fit, and that is made anew.
        _replace(
            pair.key,
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            0o600,
        )
        _replace(pair.certificate, _self_signed(key, names, now).public_bytes(serialization.Encoding.PEM), 0o644)
    return pair


def _still_good(pair: KeyPair, names: Sequence[str], now: datetime) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
        key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        pair.key.chmod(0o600)
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound):
        return False
    return (
        certificate.not_valid_before_utc <= now.astimezone(UTC)
        and certificate.not_valid_after_utc - now.astimezone(UTC) > timedelta(days=DEV_DAYS_LEFT)
        # some key types have no public half to compare; an EC key of ours has
        and certificate.public_key() == key.public_key()
        and list(alternatives) == [_general(name) for name in names]
    )


def _self_signed(key: ec.EllipticCurvePrivateKey, names: Sequence[str], now: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mailfarm dev")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=DEV_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        # RFC 5280 §4.2.1.9: not an authority, so that whoever trusts it trusts these names only
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _replace(path: Path, data: bytes, mode: int) -> None:
    """Write beside ``path`` and rename, so that nobody reads half a file."""
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp: 0600 from the start
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
