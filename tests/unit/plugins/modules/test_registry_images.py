"""Images of the registry, which is played by fake_registry.py."""

from __future__ import annotations

import datetime
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ..module_utils import bundles
from ..module_utils.bundles import HUB, PAUSE, Bundle
from .fake_registry import FakeRegistry, SiteRegistry
from .runner import run

HUB_REPOSITORY, PAUSE_REPOSITORY = "quay.io/jupyterhub/k8s-hub", "registry.k8s.io/pause"


class Head:
    """A registry with nothing in it, and an archive with two images."""

    def __init__(self, folder) -> None:
        self.bundle = Bundle(folder / "bundle")
        self.archive = folder / "images.tar"
        self.export(PAUSE, HUB)
        self.socket = folder / "s"
        self.registry = FakeRegistry(self.socket)

    def export(self, *references, **arguments):
        run("bundle_export", bundle=self.bundle.folder, images=references, path=self.archive, **arguments)

    def run(self, **arguments):
        values = {"images": self.bundle.digests, "socket": self.socket, "timeout": 0, **arguments}
        return run("registry_images", **values)


@pytest.fixture
def head(tmp_path):
    head = Head(tmp_path)
    yield head
    head.registry.close()


def test_from_nothing_to_whole_and_then_nothing_more(head):
    asked = head.run(state="query")
    assert (asked["changed"], asked["to_push"]) == (False, {PAUSE: "missing", HUB: "missing"})
    first = head.run(archive=head.archive)
    assert first["changed"]
    assert set(head.registry.manifests[HUB_REPOSITORY]) == {"4.4.0", head.bundle.digests[HUB]}
    assert not head.archive.exists(), "an archive is not kept"
    head.registry.log.clear()
    second = head.run(archive=head.archive)
    assert (second["changed"], second["correct"], second["sent"]) == (False, True, 0)
    assert not [line for line in head.registry.log if line.split()[0] not in ("GET", "HEAD")]


def test_a_layer_that_another_repository_has_is_not_sent_again(head):
    shared = bundles.digest(bundles.SHARED_LAYER)
    head.run(archive=head.archive)
    assert head.registry.blobs[HUB_REPOSITORY][shared] == head.registry.blobs[PAUSE_REPOSITORY][shared]
    mounts = [line for line in head.registry.log if f"mount={shared}" in line]
    assert len(mounts) == 1
    # Each of the five blobs once: two configurations, two layers of the hub, none of them twice.
    assert len([line for line in head.registry.log if line.startswith("PUT") and "digest=" in line]) == 4


def test_an_archive_without_what_the_registry_has_is_enough(head):
    head.export(PAUSE)
    head.run(archive=head.archive, images={PAUSE: head.bundle.digests[PAUSE]})
    asked = head.run(state="query")
    assert asked["to_push"] == {HUB: "missing"}
    head.export(HUB, exclude_digests=asked["content"])
    assert bundles.SHARED_LAYER not in head.archive.read_bytes()
    assert head.run(archive=head.archive)["changed"]
    assert head.run(state="query")["correct"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda head, layer: head.registry.blobs[HUB_REPOSITORY].pop(layer),
        lambda head, layer: head.registry.blobs[HUB_REPOSITORY].update({layer: b"short"}),
        lambda head, layer: head.registry.manifests[HUB_REPOSITORY].pop("4.4.0"),
        # Another image of which everything is there.
        lambda head, layer: head.registry.manifests[HUB_REPOSITORY].update(
            {"4.4.0": head.registry.manifests[HUB_REPOSITORY]["4.4.0"] + b" "}
        ),
        lambda head, layer: head.registry.manifests[HUB_REPOSITORY].update(
            {"4.4.0": head.registry.manifests[PAUSE_REPOSITORY]["3.10"]}
        ),
    ],
)
def test_what_was_damaged_is_named_predicted_and_repaired(head, damage):
    head.run(archive=head.archive)
    damage(head, f"sha256:{head.bundle.layer(HUB).name}")
    assert list(head.run(state="query")["to_push"]) == [HUB]
    predicted = head.run(check=True)
    assert predicted["changed"]
    assert predicted["diff"]["before"] != predicted["diff"]["after"]
    head.export(HUB)
    assert head.run(archive=head.archive)["changed"]
    assert head.run(state="query")["correct"]


def test_a_damaged_archive_is_refused_by_digest(head):
    content = head.archive.read_bytes()
    bundles.flip(head.archive, content.index(bundles.SHARED_LAYER) + 5)
    failed = head.run(archive=head.archive)
    assert "DIGEST_INVALID" in failed["msg"]
    assert "4.4.0" not in head.registry.manifests.get(HUB_REPOSITORY, {})


def test_an_archive_with_another_image_is_refused(head):
    head.export(PAUSE)
    assert f"holds nothing under the name {HUB}" in head.run(archive=head.archive)["msg"]
    assert head.registry.manifests == {}


def test_a_registry_that_forgets_is_found_out(head):
    head.registry.faults.add("forgets manifests")
    assert "still does not serve" in head.run(archive=head.archive)["msg"]
    assert head.archive.exists()


def test_a_registry_that_refuses_is_quoted(head):
    head.registry.faults.add("broken")
    assert "answered with 500" in head.run(state="query")["msg"]


def test_a_registry_that_does_not_answer_is_said_with_the_cure(head, tmp_path):
    failed = head.run(state="query", socket=tmp_path / "nobody")
    assert "does not answer" in failed["msg"]
    assert "kubectl -n gpuhub-system logs" in failed["msg"]


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ({"localhost:5000/x:1": "sha256:" + "0" * 64}, "without a port"),
        ({PAUSE: "x"}, "is not a digest"),
        ({"a b": "sha256:" + "0" * 64}, "a b"),
    ],
)
def test_wrong_wishes_are_named(head, images, words):
    assert words in head.run(images=images)["msg"]


# ---- a registry that the site has already


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    """Certificate and key of a server on loopback, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "site")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("identity") / "both.pem"
    encoding = serialization.Encoding.PEM
    file.write_bytes(
        certificate.public_bytes(encoding)
        + key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return file, certificate.public_bytes(encoding).decode()


@pytest.fixture(params=[False, True], ids=["password", "tokens"])
def site(request, identity, head):
    registry = SiteRegistry(identity[0], "rob", "pass:wörd", request.param)
    values = {
        "url": f"https://{registry.address}/gpu",
        "username": "rob",
        "password": "pass:wörd",
        "authorities": identity[1],
    }
    yield registry, lambda **more: head.run(**{**values, **more})
    registry.close()


def test_a_registry_of_the_site_is_filled_below_its_project_and_left_alone_then(site, head):
    registry, play = site
    assert play(state="query")["to_push"] == {PAUSE: "missing", HUB: "missing"}
    assert play(archive=head.archive)["changed"]
    assert set(registry.manifests) == {f"gpu/{HUB_REPOSITORY}", f"gpu/{PAUSE_REPOSITORY}"}
    shared = bundles.digest(bundles.SHARED_LAYER)
    assert len([line for line in registry.log if f"mount={shared}" in line]) == 1
    registry.log.clear()
    assert play()["correct"]
    assert not [line for line in registry.log if line.split()[0] not in ("GET", "HEAD")]
    assert not [line for line in registry.log if "_catalog" in line], "what others have there is not listed"
    assert head.registry.manifests == {}, "ours is not spoken to"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"password": "wrong"}, "refuses rob (401)"),
        ({"username": "", "password": ""}, "refuses nobody in particular (401)"),
        ({"authorities": ""}, "CERTIFICATE_VERIFY_FAILED"),
        ({"authorities": "no certificate"}, "cannot be used"),
        ({"url": "http://harbor.site"}, "https://host[:port][/project] is expected"),
    ],
)
def test_a_registry_that_does_not_let_us_in_is_said_at_once(site, given, words):
    failed = site[1](**given, images={}, timeout=60)
    assert words in failed["msg"]
    assert "pass:wörd" not in str(failed)
