"""Certificates that a server can use, and the many that it cannot."""

from __future__ import annotations

import time

import certificates
import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import tls_files
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

NAME = "hub.example.com"


def examine(pair, *names, **arguments):
    return tls_files.examine(pair.certificate_file, pair.key_file, names or [NAME], **arguments)


@pytest.mark.parametrize(
    ("named", "asked"),
    [
        (["hub.example.com"], "hub.example.com"),
        (["hub.example.com"], "HUB.example.com"),
        (["other.example.com", "hub.example.com"], "hub.example.com"),
        (["*.example.com"], "hub.example.com"),
        (["10.0.0.1"], "10.0.0.1"),
        (["2001:db8::1"], "2001:db8::1"),
    ],
)
def test_accepted(tmp_path, named, asked):
    found = examine(certificates.make(tmp_path, tuple(named)), asked)
    assert [name.lower() for name in found.names] == [
        "2001:DB8:0:0:0:0:0:1".lower() if ":" in name else name for name in named
    ]
    assert 89 < (found.not_after - time.time()) / 86400 < 91


@pytest.mark.parametrize(
    ("named", "asked"),
    [
        (["www.example.com"], "hub.example.com"),
        (["*.example.com"], "a.hub.example.com"),
        (["*.example.com"], "example.com"),
        (["10.0.0.1"], "10.0.0.2"),
        (["10.0.0.1.example.com"], "10.0.0.1"),
        ([], "hub.example.com"),
    ],
)
def test_another_name(tmp_path, named, asked):
    # The common name is the right one, which browsers have not looked at for years.
    pair = certificates.make(tmp_path, tuple(named), common_name=asked)
    with pytest.raises(tls_files.TlsFilesError, match=rf"tls.crt is not for {asked}: it names "):
        examine(pair, asked)


def test_every_name_counts(tmp_path):
    with pytest.raises(tls_files.TlsFilesError, match=r"is not for www\.example\.com"):
        examine(certificates.make(tmp_path), NAME, "www.example.com")


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [(-90, -1, r"tls.crt expired at 20\d\d-.* UTC; renew"), (1, 90, "tls.crt is not valid before .*clock")],
)
def test_dates(tmp_path, start, end, said):
    with pytest.raises(tls_files.TlsFilesError, match=said):
        examine(certificates.make(tmp_path, start=start, end=end))


def test_the_moment_it_ends(tmp_path):
    pair = certificates.make(tmp_path)
    end = examine(pair).not_after
    examine(pair, now=end)
    with pytest.raises(tls_files.TlsFilesError, match="expired"):
        examine(pair, now=end + 1)


def test_a_chain(tmp_path):
    root = certificates.make(tmp_path / "root", authority=True, common_name="root")
    between = certificates.make(tmp_path / "between", authority=True, common_name="between", issuer=root)
    pair = certificates.make(tmp_path / "leaf", issuer=between)
    chain = b"".join(certificates.pem(each.certificate) for each in (pair, between))
    pair.certificate_file.write_bytes("Bemerkung: für den Hub\n".encode() + chain)
    assert examine(pair).names == [NAME]
    # Upside down, the key is not that of the first one.
    pair.certificate_file.write_bytes(certificates.pem(between.certificate) + certificates.pem(pair.certificate))
    with pytest.raises(tls_files.TlsFilesError, match="begins with the server's own certificate"):
        examine(pair)


def test_another_purpose(tmp_path):
    pair = certificates.make(tmp_path, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
    with pytest.raises(tls_files.TlsFilesError, match=r"tls.crt cannot be used by a server: .*purpose"):
        examine(pair)


def spoil(pair, what):
    other = certificates.make(pair.key_file.parent / "other")
    if what == "key of another":
        pair.key_file.write_bytes(other.key_file.read_bytes())
    elif what == "encrypted key":
        pair.key_file.write_bytes(certificates.private(pair.key, b"passphrase"))
    elif what == "no key":
        pair.key_file.write_bytes(pair.certificate_file.read_bytes())
    elif what == "cut key":
        pair.key_file.write_text(pair.key_file.read_text()[:90] + "\n-----END PRIVATE KEY-----\n")
    elif what == "missing key":
        pair.key_file.unlink()
    elif what == "DER":
        pair.certificate_file.write_bytes(pair.certificate.public_bytes(Encoding.DER))
    elif what == "empty":
        pair.certificate_file.write_text("")
    elif what == "cut":
        pair.certificate_file.write_text(pair.certificate_file.read_text()[:200] + "\n-----END CERTIFICATE-----\n")
    elif what == "folder":
        pair.certificate_file.unlink()
        pair.certificate_file.mkdir()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("key of another", r"tls.key is not the key of .*tls.crt"),
        ("encrypted key", r"tls.key is encrypted"),
        ("no key", r"tls.key holds no private key"),
        ("cut key", r"tls.crt or .*tls.key cannot be loaded"),
        ("missing key", r"tls.key cannot be read: No such file"),
        ("DER", r"tls.crt holds no certificate in PEM form.*-inform der"),
        ("empty", r"tls.crt holds no certificate"),
        ("cut", r"tls.crt or .*tls.key cannot be loaded"),
        ("folder", r"tls.crt cannot be read: Is a directory"),
    ],
)
def test_spoilt_files(tmp_path, what, said):
    pair = certificates.make(tmp_path)
    examine(pair)  # the control
    secret = certificates.private(pair.key).decode().splitlines()[1]
    spoil(pair, what)
    with pytest.raises(tls_files.TlsFilesError, match=said) as error:
        examine(pair)
    assert secret not in str(error.value)
