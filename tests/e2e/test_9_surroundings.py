"""A site that has a registry of its own, behind a password, with a certificate of its own authority."""

from __future__ import annotations

import datetime
import ipaddress
import json
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from harness import CACHE, LAB, WORKERS, Deployment, Play, wait_for

ADDRESS, PORT = "10.77.0.1", 5443
SINGLEUSER = "quay.io/jupyterhub/k8s-singleuser-sample:4.4.0"
HOSTS_TOML = "/var/snap/microk8s/current/args/certs.d/quay.io/hosts.toml"


@dataclass(frozen=True)
class Site:
    """The registry's address and user, and the settings that an administrator writes for it."""

    url: str
    password: str
    settings: Path


def certificate(folder: Path) -> None:
    """`site.crt`, `site.key`: a server that is its own authority, as small sites have it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "registry of the site")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address(ADDRESS))
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    (folder / "site.crt").write_bytes(signed.public_bytes(encoding))
    (folder / "site.key").write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@pytest.fixture(scope="module")
def site(deployment: Deployment, tmp_path_factory) -> Iterator[Site]:
    """The registry, on the bastion; afterwards the platform has its own again."""
    folder = tmp_path_factory.mktemp("site")
    certificate(folder)
    password = secrets.token_urlsafe(18)
    (folder / "users").write_bytes(b"robot:" + bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)) + b"\n")
    configuration = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {
            "addr": f"{ADDRESS}:{PORT}",
            "tls": {"certificate": str(folder / "site.crt"), "key": str(folder / "site.key")},
        },
        "auth": {"htpasswd": {"realm": "site", "path": str(folder / "users")}},
    }
    (folder / "registry.yml").write_text(yaml.safe_dump(configuration))
    url = f"https://{ADDRESS}:{PORT}/gpu"
    settings = {
        "offline_images_site_registry": url,
        "offline_images_site_registry_username": "robot",
        "offline_images_site_registry_password": password,
        "gpuhub_ca_certificates": [str(folder / "site.crt")],
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    command = [LAB, "run", CACHE / "kube" / "registry", "serve", folder / "registry.yml"]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as running:
        try:
            wait_for("the site's registry", lambda: deployment.http(f"https://{ADDRESS}:{PORT}/v2/", "-k")[0] == 401)
            yield Site(url, password, folder / "settings.json")
            assert deployment.play().code == 0
        finally:
            running.terminate()


@pytest.fixture(scope="module")
def moved(site: Site, deployment: Deployment) -> Play:
    """The deployed platform is told of the registry."""
    return deployment.play("--diff", "-v", "-e", f"@{site.settings}")


def test_a_wrong_password_is_said_before_anything_changes(site, deployment):
    refused = deployment.play("-e", f"@{site.settings}", "-e", "offline_images_site_registry_password=wrong")
    assert refused.code != 0
    assert "refuses robot (401)" in refused.output
    assert refused.changed == 0, refused.changed_tasks()


def test_nodes_pull_from_the_site_s_registry_and_none_runs_on_the_head(moved, site, deployment):
    assert moved.code == 0, moved.output[-6000:]
    assert site.password not in moved.output
    names = [item["metadata"]["name"] for item in deployment.objects("deployments")]
    assert "registry" not in names
    assert "hub" in names
    for worker in WORKERS:
        assert f"{site.url.replace('/gpu', '/v2/gpu')}/quay.io" in deployment.on(worker, f"cat {HOSTS_TOML}")
        assert deployment.on(worker, f"stat -c %a {HOSTS_TOML}").strip() == "600"


def test_a_deleted_image_comes_back_from_there(moved, deployment):
    worker = WORKERS[0]
    deployment.on(worker, f"/snap/bin/microk8s ctr images rm --sync {SINGLEUSER}")
    container = {"name": "a", "image": SINGLEUSER, "command": ["true"], "imagePullPolicy": "Always"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "from-the-site", "namespace": "default"},
        "spec": {"nodeName": worker, "restartPolicy": "Never", "containers": [container]},
    }
    deployment.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    try:
        path = ("get", "-n", "default", "pod", "from-the-site", "-o", "jsonpath={.status.phase}")
        wait_for("the pod ran", lambda: deployment.kubectl(*path) == "Succeeded")
    finally:
        deployment.kubectl("delete", "pod", "from-the-site", "--ignore-not-found")


def test_the_hub_trusts_the_site_s_authority(moved, deployment):
    """A verified connection is answered with 401; without the authority it would not come about."""
    ask = f"import urllib.request as r\ntry: r.urlopen('https://{ADDRESS}:{PORT}/v2/')\nexcept Exception as e: print(e)"
    in_the_hub = ("-n", "jhub", "exec", "deploy/hub", "--")
    assert "401" in deployment.kubectl(*in_the_hub, "python3", "-c", ask)
    assert "CERTIFICATE_VERIFY_FAILED" in deployment.kubectl(
        *in_the_hub, "env", "-u", "SSL_CERT_FILE", "python3", "-c", ask
    )


def test_then_nothing_is_left_to_do(moved, site, deployment):
    again = deployment.play("-e", f"@{site.settings}")
    assert again.code == 0, again.output[-6000:]
    assert again.changed == 0, again.changed_tasks()
