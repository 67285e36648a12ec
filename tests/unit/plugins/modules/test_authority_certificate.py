"""Certificates of our own authority; what a client makes of them is asked of OpenSSL."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import certificates
import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import tls_files
from cryptography import x509

from .runner import run

NAMES = ["10.0.0.11", "head", "hub.example.com"]


class Server:
    """A server's files and its authority's."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.certificate, self.key = folder / "pki", folder / "tls/tls.crt", folder / "tls/tls.key"

    def run(self, **arguments):
        settings = {
            "authority": self.authority,
            "authority_name": "gpuhub authority of head",
            "certificate": self.certificate,
            "key": self.key,
            "names": NAMES,
            "owner": os.getuid(),
            **arguments,
        }
        return run("authority_certificate", **settings)

    def files(self) -> dict[str, bytes]:
        paths = [self.certificate, self.key, self.authority / "ca.crt", self.authority / "ca.key"]
        return {path.name: path.read_bytes() for path in paths if path.exists()}


@pytest.fixture
def server(tmp_path):
    return Server(tmp_path)


def trusts(authority: str, server: Server, name: str) -> bool:
    """Whether a client that trusts the authority alone accepts the server; as strict as Python 3.13 and later."""
    client, host = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client.load_verify_locations(cadata=authority)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    host.load_cert_chain(server.certificate, server.key)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    near, far = client.wrap_bio(down, up, server_hostname=name), host.wrap_bio(up, down, server_side=True)
    for end in (near, far, near, far):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLCertVerificationError:
            return False
    return True


def test_from_nothing_and_then_nothing_more(server):
    predicted = server.run(check=True)
    assert predicted["changed"]
    assert (predicted["certificate"], server.files()) == ("", {})
    made = server.run()
    assert len(made["reasons"]) == 2
    for name in NAMES:
        assert trusts(made["authority"], server, name)
    assert not trusts(made["authority"], server, "other.example.com")
    assert tls_files.examine(server.certificate, server.key, NAMES).names == NAMES
    for path, mode in {server.key: 0o600, server.authority / "ca.key": 0o600, server.authority: 0o700}.items():
        assert path.stat().st_mode & 0o777 == mode
    before = server.files()
    again = server.run()
    assert (again["changed"], again["reasons"], again["certificate"]) == (False, [], made["certificate"])
    assert server.files() == before


def spoil(server, what):
    if what == "certificate gone":
        server.certificate.unlink()
    elif what == "certificate cut":
        server.certificate.write_bytes(server.certificate.read_bytes()[:100])
    elif what == "key gone":
        server.key.unlink()
    elif what == "key of another":
        server.key.write_bytes((server.authority / "ca.key").read_bytes())
    elif what == "of another authority":
        other = certificates.make(server.authority.parent / "other", authority=True)
        pair = certificates.make(server.authority.parent / "pair", tuple(NAMES), end=800, issuer=other)
        server.certificate.write_bytes(pair.certificate_file.read_bytes())
        server.key.write_bytes(pair.key_file.read_bytes())
    elif what == "authority's certificate gone":
        (server.authority / "ca.crt").unlink()
    elif what == "authority's key gone":
        (server.authority / "ca.key").unlink()
    elif what == "authority is none":
        pair = certificates.make(server.authority.parent / "pair", end=800)
        (server.authority / "ca.crt").write_bytes(pair.certificate_file.read_bytes())
        (server.authority / "ca.key").write_bytes(pair.key_file.read_bytes())
    elif what == "key open to all":
        server.key.chmod(0o644)


@pytest.mark.parametrize(
    ("what", "kept"),
    [
        ("certificate gone", {"tls.key", "ca.crt", "ca.key"}),
        ("certificate cut", {"tls.key", "ca.crt", "ca.key"}),
        ("key gone", {"ca.crt", "ca.key"}),
        ("key of another", {"ca.crt", "ca.key"}),
        ("of another authority", {"ca.crt", "ca.key"}),
        ("authority's certificate gone", {"tls.key", "tls.crt", "ca.key"}),
        ("authority's key gone", {"tls.key"}),
        ("authority is none", {"tls.key"}),
        ("key open to all", {"tls.key", "tls.crt", "ca.crt", "ca.key"}),
    ],
)
def test_repaired(server, what, kept):
    server.run()
    before = server.files()
    spoil(server, what)
    spoilt = server.files()
    assert server.run(check=True)["changed"]
    assert server.files() == spoilt
    repaired = server.run()
    assert repaired["changed"]
    assert trusts(repaired["authority"], server, "head")
    after = server.files()
    assert kept <= {name for name in after if after[name] == before[name]}
    assert server.key.stat().st_mode & 0o777 == 0o600
    assert not server.run()["changed"]


def test_other_names_take_another_certificate(server):
    first = server.run()
    second = server.run(names=["hub.example.org"])
    assert second["reasons"] == [f"{server.certificate}: the certificate is not for hub.example.org"]
    assert first["authority"] == second["authority"]
    assert trusts(second["authority"], server, "hub.example.org")
    assert not server.run(names=["hub.example.org", "hub.example.org"])["changed"]


def test_renewed_before_its_end(server):
    first = server.run(days=70, renewal_days=60)
    assert not server.run(days=70, renewal_days=60)["changed"]
    second = server.run(renewal_days=71)
    assert "the certificate ends at" in second["reasons"][0]
    assert second["certificate"] != first["certificate"]
    assert second["authority"] == first["authority"]
    refused = server.run(days=60, renewal_days=60)
    assert refused["failed"]
    assert "days is 60; it must be more than renewal_days, which is 60" in refused["msg"]


def test_an_authority_s_new_certificate_has_the_old_key(server):
    """Who trusts the old certificate still accepts what the authority signs."""
    first = server.run()
    second = server.run(days=3700, renewal_days=3660)
    assert second["authority"] != first["authority"]
    assert trusts(first["authority"], server, "head")
    assert trusts(second["authority"], server, "head")


def test_nothing_outlives_the_authority(server):
    made = server.run(days=5000)
    leaf, authority = (x509.load_pem_x509_certificate(made[name].encode()) for name in ("certificate", "authority"))
    assert leaf.not_valid_after_utc <= authority.not_valid_after_utc


def test_no_key_is_shown(server):
    shown = str(server.run())
    for name in ("ca.key", "tls.key"):
        assert server.files()[name].decode().splitlines()[1] not in shown
