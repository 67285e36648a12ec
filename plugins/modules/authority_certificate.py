#!/usr/bin/python
"""A certificate of the platform's own authority."""

from __future__ import annotations

DOCUMENTATION = r"""
module: authority_certificate
short_description: A server's certificate of the platform's own authority
description:
  - Makes the authority where there is none, and a key and a certificate for a server; keeps all of them as long as they
    are whole, belong together, are for the names asked for and do not end soon.
  - Every file is replaced as a whole, the key before the certificate. What a killed run left is completed by the next.
  - Keys are made on the host and never leave it.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes
requirements:
  - cryptography >= 42
options:
  authority:
    description: Folder of the authority, with C(ca.key) and C(ca.crt).
    type: path
    default: /var/lib/gpuhub/pki
  authority_name:
    description: What a new authority calls itself, which people read when they decide whether to trust it.
    type: str
    required: true
  certificate:
    description: File of the certificate. Folders above it are made as needed, for root alone.
    type: path
    required: true
  key:
    description: File of its key, readable by its owner alone.
    type: path
    required: true
  names:
    description: Host names and addresses that the certificate is for.
    type: list
    elements: str
    required: true
  owner:
    description: Numeric id of the user who owns both files.
    type: int
    default: 0
  days:
    description: Days for which a new certificate is valid. Apple's clients accept no more than 825.
    type: int
    default: 825
  renewal_days:
    description: Days before its end from which on a certificate is made anew. The authority's too, with the same key.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: The registry has its certificate
  gpuhub.platform.authority_certificate:
    authority_name: gpuhub authority of head
    certificate: /var/lib/gpuhub/registry/tls/tls.crt
    key: /var/lib/gpuhub/registry/tls/tls.key
    names: [10.0.0.11, head]
"""

RETURN = r"""
reasons:
  description: Why files were made anew or changed; empty if all is as it should be.
  type: list
  elements: str
  returned: always
certificate:
  description: The server's certificate, in PEM form. In check mode that which is there, or empty.
  type: str
  returned: always
authority:
  description: The authority's certificate, in PEM form. In check mode that which is there, or empty.
  type: str
  returned: always
"""

import datetime
import ipaddress
import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ..module_utils.atomic_file import write_text

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    IMPORT_ERROR = None
except ImportError:
    IMPORT_ERROR = traceback.format_exc()

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

# How far a client's clock may be behind.
CLOCK_TOLERANCE = datetime.timedelta(hours=1)
AUTHORITY_DAYS = 3650
LONGEST_COMMON_NAME = 64


class Pair(NamedTuple):
    """A key and its certificate."""

    key: PrivateKeyTypes
    certificate: x509.Certificate


def load_key(path: Path) -> PrivateKeyTypes | None:
    """The key in a file; None if there is none that can be used."""
    try:
        return serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        return None


def load_certificate(path: Path) -> x509.Certificate | None:
    """The certificate in a file; None if there is none that can be used."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return None


def text(certificate: x509.Certificate | None) -> str:
    """A certificate in PEM form."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode() if certificate else ""


def private_text(key: PrivateKeyTypes) -> str:
    """A key in PEM form."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def new_key() -> PrivateKeyTypes:
    """A key of the curve P-384."""
    return ec.generate_private_key(ec.SECP384R1())


def general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    """Host names and addresses as a certificate states them."""
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def why_not(certificate: x509.Certificate | None, key: PrivateKeyTypes | None, renewal_days: int) -> str:
    """Why a certificate has to be made anew, whoever it is for; empty if it need not."""
    if key is None:
        return "there is no usable key"
    if certificate is None:
        return "there is no usable certificate"
    if certificate.public_key() != key.public_key():
        return "the certificate is of another key"
    end = certificate.not_valid_after_utc
    if end < datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=renewal_days):
        return f"the certificate ends at {end:%Y-%m-%d %H:%M} UTC"
    return ""


def why_not_authority(certificate: x509.Certificate) -> str:
    """Why a certificate is not one of an authority; empty if it is."""
    try:
        is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_authority = False
    return "" if is_authority else "the certificate is not one of an authority"


def why_not_server(certificate: x509.Certificate, names: Sequence[str], authority: x509.Certificate) -> str:
    """Why a certificate does not serve these names by this authority; empty if it does."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return "the certificate is of another authority"
    try:
        stated = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        stated = []
    if set(stated) != set(general_names(names)):
        return f"the certificate is not for {', '.join(names)}"
    return ""


def builder(subject: x509.Name, issuer: x509.Name, key: PrivateKeyTypes, days: int) -> x509.CertificateBuilder:
    """What every certificate states."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_TOLERANCE)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def key_usage(**usages: bool) -> x509.KeyUsage:
    """A key usage with the usages named, and no other."""
    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: usages.get(name, False) for name in every})


def common_name(name: str) -> x509.Name:
    """A subject."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:LONGEST_COMMON_NAME])])


def sign_authority(key: PrivateKeyTypes, subject: x509.Name) -> x509.Certificate:
    """A certificate with which an authority signs those of servers, and no other authorities."""
    return (
        builder(subject, subject, key, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA384())
    )


def sign_server(authority: Pair, key: PrivateKeyTypes, names: Sequence[str], days: int) -> x509.Certificate:
    """A server's certificate. It does not outlive its authority's."""
    identifier = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    left = authority.certificate.not_valid_after_utc - datetime.datetime.now(datetime.timezone.utc)
    return (
        builder(common_name(names[0]), authority.certificate.subject, key, min(days, left.days))
        .add_extension(x509.SubjectAlternativeName(general_names(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(authority.key, hashes.SHA384())
    )


class Files:
    """What is made or changed, and why; in check mode only why."""

    def __init__(self, check_mode: bool) -> None:
        self.check_mode = check_mode
        self.reasons: list[str] = []

    def write(self, path: Path, content: str, mode: int, owner: int) -> None:
        """Replace a file as a whole."""
        if self.check_mode:
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_text(path, content, mode)
        os.chown(path, owner, owner)

    def guard(self, path: Path, mode: int, owner: int) -> None:
        """Give a file the owner and permissions that it should have."""
        if not path.exists():
            return
        status = path.stat()
        if (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (mode, owner, owner):
            return
        self.reasons.append(f"{path}: owner or permissions are others")
        if not self.check_mode:
            os.chown(path, owner, owner)
            path.chmod(mode)


def ensure_authority(files: Files, folder: Path, name: str, renewal_days: int) -> Pair:
    """The authority; made anew where it cannot be used. An end that is near takes a new certificate of the same key."""
    key, certificate = load_key(folder / "ca.key"), load_certificate(folder / "ca.crt")
    reason = why_not(certificate, key, renewal_days) or why_not_authority(certificate)
    if reason:
        files.reasons.append(f"{folder / 'ca.crt'}: {reason}")
        if key is None:
            key = new_key()
            files.write(folder / "ca.key", private_text(key), 0o600, 0)
        certificate = sign_authority(key, certificate.subject if certificate else common_name(name))
        files.write(folder / "ca.crt", text(certificate), 0o644, 0)
    files.guard(folder / "ca.key", 0o600, 0)
    return Pair(key, certificate)


def main() -> None:
    """The authority, then the server."""
    module = AnsibleModule(
        argument_spec={
            "authority": {"type": "path", "default": "/var/lib/gpuhub/pki"},
            "authority_name": {"type": "str", "required": True},
            "certificate": {"type": "path", "required": True},
            "key": {"type": "path", "required": True, "no_log": False},  # a path
            "names": {"type": "list", "elements": "str", "required": True},
            "owner": {"type": "int", "default": 0},
            "days": {"type": "int", "default": 825},
            "renewal_days": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    if IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("cryptography"), exception=IMPORT_ERROR)
    wanted = module.params
    if wanted["days"] <= wanted["renewal_days"]:
        module.fail_json(
            msg=f"days is {wanted['days']}; it must be more than renewal_days, which is {wanted['renewal_days']}"
        )
    names = list(dict.fromkeys(wanted["names"]))
    folder, certificate_path, key_path = (Path(wanted[name]) for name in ("authority", "certificate", "key"))
    files = Files(module.check_mode)
    authority = ensure_authority(files, folder, wanted["authority_name"], wanted["renewal_days"])
    key, certificate = load_key(key_path), load_certificate(certificate_path)
    reason = why_not(certificate, key, wanted["renewal_days"])
    reason = reason or why_not_server(certificate, names, authority.certificate)
    if reason:
        files.reasons.append(f"{certificate_path}: {reason}")
        if key is None:
            key = new_key()
            files.write(key_path, private_text(key), 0o600, wanted["owner"])
        if not module.check_mode:
            certificate = sign_server(authority, key, names, wanted["days"])
            files.write(certificate_path, text(certificate), 0o644, wanted["owner"])
    for path, mode in ((key_path, 0o600), (certificate_path, 0o644)):
        files.guard(path, mode, wanted["owner"])
    if module.check_mode:
        certificate, authority = load_certificate(certificate_path), Pair(None, load_certificate(folder / "ca.crt"))
    module.exit_json(
        changed=bool(files.reasons),
        reasons=files.reasons,
        certificate=text(certificate),
        authority=text(authority.certificate),
        diff={"before": "", "after": "".join(f"{reason}\n" for reason in files.reasons)},
    )


if __name__ == "__main__":
    main()
