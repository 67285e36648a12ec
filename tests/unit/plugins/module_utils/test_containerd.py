"""Images of a node, from recorded output of ctr."""

from __future__ import annotations

import json

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import containerd
from ansible_collections.gpuhub.platform.plugins.module_utils.containerd import ContainerdError, Difference

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
PAUSE, NODE = "registry.k8s.io/pause:3.10", "docker.io/calico/node:v3.29.3"
WANTED = {PAUSE: A, NODE: B}

IMAGE = "application/vnd.oci.image.manifest.v1+json"
LIST = f"""\
REF                           TYPE                                       DIGEST {"":64} SIZE      PLATFORMS   LABELS
{NODE} {IMAGE} {B} 147.4 MiB linux/amd64 io.cri-containerd.image=managed
{PAUSE} {IMAGE} {A} 0.0 B -           -
sha256:{"c" * 64} {IMAGE} {A} 669.9 KiB linux/amd64,linux/arm64 x={{a,b=c}},io.cri-containerd.pinned=pinned
"""
CHECK = f"""\
REF TYPE DIGEST STATUS SIZE UNPACKED
{NODE} application/vnd.oci.image.manifest.v1+json {B} incomplete (3/5) 1.2 MiB/3.4 MiB false
{PAUSE} application/vnd.oci.image.manifest.v1+json {A} complete (3/3) 669.9 KiB/669.9 KiB true
"""


def test_list_is_read():
    found = containerd.parse_list("time=now level=error msg=x\n" + LIST)
    assert {reference: image.digest for reference, image in found.items()} == {
        NODE: B,
        PAUSE: A,
        f"sha256:{'c' * 64}": A,
    }
    assert [image.pinned for image in found.values()] == [False, False, True]


def test_check_is_read():
    assert containerd.parse_check(CHECK) == {NODE: False, PAUSE: True}
    assert containerd.parse_check("") == {}


def stored(**labels):
    lines = "".join(
        f"{reference} t {digest} 1 B p {labels.get('label', '-')}\n" for reference, digest in WANTED.items()
    )
    return containerd.parse_list(lines)


@pytest.mark.parametrize(
    ("wanted", "complete", "in_index", "pin", "expected"),
    [
        (WANTED, WANTED, (), False, Difference([], {}, [], [])),
        ({**WANTED, "x/y:1": A}, WANTED, (), False, Difference(["x/y:1"], {}, [], [])),
        ({PAUSE: B, NODE: B}, WANTED, (), False, Difference([], {PAUSE: A}, [], [])),
        ({PAUSE: B, NODE: B}, WANTED, [PAUSE], False, Difference([], {}, [], [])),
        (WANTED, [PAUSE], (), False, Difference([], {}, [NODE], [])),
        (WANTED, [PAUSE], (), True, Difference([], {}, [NODE], [PAUSE])),
        (WANTED, WANTED, (), True, Difference([], {}, [], [NODE, PAUSE])),
    ],
)
def test_compare(wanted, complete, in_index, pin, expected):
    found = containerd.compare(wanted, stored(), dict.fromkeys(complete, True), in_index, pin)
    assert found == expected
    assert found.to_import == sorted({*expected.missing, *expected.different, *expected.incomplete})


def test_a_pinned_image_is_left_alone():
    found = stored(label="a=b,io.cri-containerd.pinned=pinned")
    assert containerd.compare(WANTED, found, dict.fromkeys(WANTED, True), pin=True).unpinned == []


def test_diff_text_shows_what_is_wrong():
    difference = Difference(["x/y:1"], {PAUSE: B}, [NODE], [])
    text = containerd.state_text({**WANTED, "x/y:1": A}, difference, pin=True)
    assert text == f"{NODE} {B} incomplete\n{PAUSE} {B}\n"


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (json.dumps({"manifests": [{"digest": B}, {"digest": A}]}), True),
        (json.dumps({"manifests": [{"digest": B}, "x"]}), False),
        (json.dumps({"manifests": None}), False),
        ("[]", False),
        ("", False),
    ],
)
def test_an_index_that_lists_the_manifest(index, expected):
    assert containerd.index_holds(index, A) is expected


@pytest.mark.parametrize(("images", "named"), [({"a b": A}, "a b"), ({PAUSE: "3"}, PAUSE), ({PAUSE: None}, "None")])
def test_wrong_wishes_are_named(images, named):
    with pytest.raises(ContainerdError, match=named):
        containerd.validate_wanted(images)


def test_short_names_are_completed():
    assert containerd.validate_wanted({"busybox": A}) == {"docker.io/library/busybox:latest": A}
