"""Names of images."""

from __future__ import annotations

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils.image_reference import (
    ImageReferenceError,
    is_digest,
    normalise,
    parse,
)

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.37.0", "docker.io/library/busybox:1.37.0"),
        ("rancher/local-path-provisioner:v0.0.30", "docker.io/rancher/local-path-provisioner:v0.0.30"),
        ("docker.io/busybox:1", "docker.io/library/busybox:1"),
        ("index.docker.io/library/busybox:1", "docker.io/library/busybox:1"),
        ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
        ("localhost/x:1", "localhost/x:1"),
        ("localhost:5000/x", "localhost:5000/x:latest"),
        ("harbor.site:8443/a/b/c:T.ag_-1", "harbor.site:8443/a/b/c:T.ag_-1"),
        (f"quay.io/a/b@{DIGEST}", f"quay.io/a/b@{DIGEST}"),
        (f"quay.io/a/b:1@{DIGEST}", f"quay.io/a/b:1@{DIGEST}"),
        ("quay.io/a__b/c-d/e.f:1", "quay.io/a__b/c-d/e.f:1"),
    ],
)
def test_names_are_read_as_containerd_reads_them(text, expected):
    assert normalise(text) == expected
    assert normalise(expected) == expected


def test_parts():
    reference = parse(f"quay.io/jupyterhub/k8s-hub:4.4.0@{DIGEST}")
    assert reference == ("quay.io", "jupyterhub/k8s-hub", "4.4.0", DIGEST)
    assert reference.mirror_repository == "quay.io/jupyterhub/k8s-hub"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "not an image reference"),
        (None, "not an image reference"),
        ("quay.io/Upper/case:1", "Upper"),
        ("quay.io/../etc:1", ".."),
        ("quay.io//x:1", "''"),
        ("/etc/passwd", "''"),
        ("quay.io/a/b:../../x", "'.'"),
        ("quay.io/a:tag:tag", "tag:tag"),
        ("quay.io/a b:1", "a b"),
        ("quay.io/a\n:1", "\\n"),
        ("quay.io/a:1\n", "\\n"),
        ("-quay.io/a:1", "-quay.io"),
        ("quay.io:port/a", "quay.io:port"),
        ("quay.io/a@sha256:short", "sha256:short"),
        ("quay.io/a@md5:" + "0" * 32, "md5"),
        ("quay.io/a:" + "t" * 129, "is not a tag"),
        ("quay.io/" + "a" * 300, "longer than 255"),
        ("quay.io/a:1?x=1", "is not a tag"),
        ("quay.io/a%2f..:1", "a%2f.."),
    ],
)
def test_hostile_names_are_refused_and_named(text, named):
    with pytest.raises(ImageReferenceError) as caught:
        parse(text)
    assert named in str(caught.value)


def test_a_registry_with_a_port_has_no_place_in_the_mirror():
    with pytest.raises(ImageReferenceError, match=r"localhost:5000"):
        assert parse("localhost:5000/x:1").mirror_repository


@pytest.mark.parametrize(
    ("value", "expected"),
    [(DIGEST, True), (DIGEST.upper(), False), (DIGEST + "0", False), (DIGEST + "\n", False), (3, False), ("", False)],
)
def test_is_digest(value, expected):
    assert is_digest(value) is expected
