"""Whether a certificate and its key can serve a name: OpenSSL says so, by a handshake in memory. Standard library only.

What is examined is what clients will see: the same files are loaded as a web server loads them, and a client that
trusts nothing but what is in them checks name and purpose.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_PEM_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_PEM_KEY = re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----")
_ENCRYPTED = re.compile(r"BEGIN ENCRYPTED PRIVATE KEY|Proc-Type: 4,ENCRYPTED")

# X509_V_FLAG_PARTIAL_CHAIN, which Python names from 3.10: what the file holds is trusted, though it need not be a root.
_PARTIAL_CHAIN = 0x80000
# X509_V_FLAG_NO_CHECK_TIME: dates are compared here, to say which they are.
_NO_CHECK_TIME = 0x200000
# X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH.
_WRONG_NAME = (62, 64)


class Certificate(NamedTuple):
    """What a certificate says. Times in seconds since the epoch; names without their type."""

    names: list[str]
    not_before: float
    not_after: float


class TlsFilesError(Exception):
    """The files cannot be used; the text names the file and says what to do."""


def examine(certificate: Path, key: Path, server_names: Sequence[str], now: float | None = None) -> Certificate:
    """Return what the certificate says if a server can use both files for all `server_names` at the time `now`.

    Names are host names or addresses; wildcards of the certificate count as browsers count them, its common name does
    not. Raises TlsFilesError otherwise. The key is read by OpenSSL and shown nowhere.
    """
    now = time.time() if now is None else now
    text = _read(certificate)
    chain = _PEM_CERTIFICATE.findall(text)
    if not chain:
        raise TlsFilesError(
            f"{certificate} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----); "
            f"openssl x509 -inform der -in FILE converts one in DER form"
        )
    key_text = _read(key)
    if _ENCRYPTED.search(key_text):
        raise TlsFilesError(
            f"{key} is encrypted, and nobody could give its passphrase when the server starts; openssl pkey -in FILE "
            f"-out NEW decrypts it"
        )
    if not _PEM_KEY.search(key_text):
        raise TlsFilesError(
            f"{key} holds no private key in PEM form (-----BEGIN PRIVATE KEY-----); openssl pkey -inform der -in FILE "
            f"converts one in DER form"
        )
    server = _server(certificate, key)
    try:
        found = _certificate(server, chain)
    except ssl.SSLError as error:
        raise TlsFilesError(f"{certificate} cannot be used by a server: {_words(error)}") from error
    if now > found.not_after:
        raise TlsFilesError(f"{certificate} expired at {date(found.not_after)}; renew it")
    if now < found.not_before:
        raise TlsFilesError(
            f"{certificate} is not valid before {date(found.not_before)}, and here it is {date(now)}; "
            f"is the clock right?"
        )
    for name in server_names:
        try:
            _certificate(server, chain, name)
        except ssl.SSLCertVerificationError as error:
            if error.verify_code not in _WRONG_NAME:
                raise
            raise TlsFilesError(
                f"{certificate} is not for {name}: it names {', '.join(found.names) or 'nothing'}; set "
                f"nginx_server_name to a name that it has, or have one made for {name}"
            ) from error
    return found


def date(seconds: float) -> str:
    """A time as people read it."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise TlsFilesError(f"{path} cannot be read: {error.strerror}") from error


def _words(error: ssl.SSLError) -> str:
    """OpenSSL's reason, as words."""
    return getattr(error, "verify_message", "") or (error.reason or "unknown").replace("_", " ").lower()


def _server(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            raise TlsFilesError(
                f"{key} is not the key of {certificate}; a chain begins with the server's own certificate"
            ) from error
        raise TlsFilesError(f"{certificate} or {key} cannot be loaded: {_words(error)}") from error
    return context


def _certificate(server: ssl.SSLContext, chain: Sequence[str], name: str | None = None) -> Certificate:
    """What a client learns from the server; with `name`, only if it finds the certificate to be for that name."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = name is not None
    client.hostname_checks_common_name = False
    client.load_verify_locations(cadata="\n".join(chain))
    client.verify_flags |= _PARTIAL_CHAIN | _NO_CHECK_TIME
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up, server_hostname=name), server.wrap_bio(up, down, server_side=True)]
    done = 0
    while done < len(ends):
        done = 0
        for end in ends:
            try:
                end.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                pass
    told = ends[0].getpeercert() or {}
    return Certificate(
        names=[value for _kind, value in told.get("subjectAltName", ())],
        not_before=ssl.cert_time_to_seconds(told["notBefore"]),
        not_after=ssl.cert_time_to_seconds(told["notAfter"]),
    )
