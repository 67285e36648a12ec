"""A site that has a registry of its own, behind a password and with a certificate of its own authority, and a proxy.

First both are used, then the proxy alone, with our registry on the head and a notebook image from an archive that was
made by hand, and at last nothing of it: three plays in a row.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import random
import secrets
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import bcrypt
import pytest
import yaml
from archives import ELSEWHERE, MINE, add_layer, bundle_copy
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from harness import CACHE, HEAD, HUB, LAB, WORKERS, Deployment, Play, wait_for
from sample import SEED, SOAK

ADDRESS, PORT, PROXY_PORT = "10.77.0.1", 5443, 3128
NODES = {HEAD: "10.77.0.11", WORKERS[0]: "10.77.0.12", WORKERS[1]: "10.77.0.13"}
SINGLEUSER = "quay.io/jupyterhub/k8s-singleuser-sample:4.4.0"
HOSTS_TOML = "/var/snap/microk8s/current/args/certs.d/quay.io/hosts.toml"
CONTAINERD_ENV = "/var/snap/microk8s/current/args/containerd-env"
CONTAINERD = "snap.microk8s.daemon-containerd"
# After which of the plays a second run is to change nothing: in a soak after both.
_STAGES = ["moved", "proxied"]
AGAIN_AFTER = _STAGES if SOAK else random.Random(SEED).sample(_STAGES, 1)


@dataclass(frozen=True)
class Proxy:
    """A proxy that lets nobody through, and what it was asked."""

    log: Path
    # What a URL must not hold as it is.
    password: str = field(default_factory=lambda: f"{secrets.token_urlsafe(12)}@/:$;é")

    @property
    def quoted(self) -> str:
        return quote(self.password, safe="")

    @property
    def settings(self) -> dict[str, str]:
        url = f"http://gpu:{self.quoted}@{ADDRESS}:{PROXY_PORT}"
        return {"gpuhub_http_proxy": url, "gpuhub_https_proxy": url}

    def requests(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def asked(self, target: str, source: str = "") -> bool:
        """Whether somebody asked for `target` with the password; empty it again."""
        authorization = "Basic " + b64encode(f"gpu:{self.password}".encode()).decode()
        return any(
            request["target"] == target and request["authorization"] == authorization and source in request["source"]
            for request in self.requests()
        )


@dataclass(frozen=True)
class Site:
    """The registry's address and user, and the settings that an administrator writes for it; plays without them."""

    url: str
    password: str
    settings: Path
    back: list[Play] = field(default_factory=list)


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
def before(deployment: Deployment) -> dict[str, str]:
    """What a proxy adds to, where there is none."""
    return traces(deployment)


def traces(deployment: Deployment) -> dict[str, str]:
    """Everything that knows of a proxy while there is one."""
    found = {host: deployment.on(host, f"cat {CONTAINERD_ENV} /etc/microk8s.yaml") for host in NODES}
    for kind, name in (("deployment", "hub"), ("networkpolicy", "singleuser")):
        (item,) = [i for i in deployment.objects(kind, "-n", "jhub") if i["metadata"]["name"] == name]
        found[kind] = json.dumps(item["spec"])
    found["secret"] = deployment.kubectl("get", "secret", "-n", "jhub", "gpuhub-proxy", "--ignore-not-found")
    return found


def environment(deployment: Deployment, host: str) -> dict[str, str]:
    """What the process of containerd was started with."""
    text = deployment.on(host, f"tr '\\0' '\\n' < /proc/$(systemctl show -P MainPID {CONTAINERD})/environ")
    return dict(line.split("=", 1) for line in text.splitlines() if "proxy" in line.partition("=")[0].lower())


@pytest.fixture(scope="module")
def proxy(before, tmp_path_factory) -> Iterator[Proxy]:
    """The proxy, on the bastion."""
    proxy = Proxy(tmp_path_factory.mktemp("proxy") / "log")
    proxy.log.touch()
    script = Path(__file__).with_name("counting_proxy.py")
    with subprocess.Popen([LAB, "run", sys.executable, script, ADDRESS, str(PROXY_PORT), proxy.log]) as running:
        try:
            yield proxy
        finally:
            running.terminate()


@pytest.fixture(scope="module")
def site(deployment: Deployment, proxy: Proxy, tmp_path_factory) -> Iterator[Site]:
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
        **proxy.settings,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    command = [LAB, "run", CACHE / "kube" / "registry", "serve", folder / "registry.yml"]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as running:
        try:
            wait_for("the site's registry", lambda: deployment.http(f"https://{ADDRESS}:{PORT}/v2/", "-k")[0] == 401)
            yield (site := Site(url, password, folder / "settings.json"))
            assert site.back or deployment.play().code == 0
        finally:
            running.terminate()


def hubs(deployment: Deployment) -> list[str]:
    """Names of the hub's pods, finished ones too."""
    return [pod["metadata"]["name"] for pod in deployment.objects("pods", "-n", "jhub", "-l", "component=hub")]


@pytest.fixture(scope="module")
def ended(before: dict[str, str], deployment: Deployment) -> str:
    """A pod of the hub that its node has ended, as it does where a disk is full. Another took its place; it stays."""
    (name,) = hubs(deployment)
    deployment.kubectl("-n", "jhub", "patch", f"pod/{name}", "-p", '{"spec": {"activeDeadlineSeconds": 1}}')
    wait_for("another pod of the hub", lambda: len(hubs(deployment)) == 2 and deployment.works())
    return name


@pytest.fixture(scope="module")
def moved(site: Site, ended: str, deployment: Deployment) -> Play:
    """The deployed platform is told of the registry."""
    return deployment.play("--diff", "-v", "-e", f"@{site.settings}", "-ejupyterhub_smoke_test=never")


def test_a_wrong_password_is_said_before_anything_changes(site, deployment):
    refused = deployment.play("-e", f"@{site.settings}", "-e", "offline_images_site_registry_password=wrong")
    assert refused.code != 0
    assert "refuses robot (401)" in refused.output
    assert refused.changed == 0, refused.changed_tasks()


def test_a_proxy_that_cannot_be_one_is_said_without_its_password(deployment):
    wrong = {"gpuhub_https_proxy": "http://gpu:geheim@10.77.0.1", "gpuhub_no_proxy": ["*.example.com"]}
    refused = deployment.play("-e", json.dumps(wrong), playbook="playbooks/settings.yml")
    assert refused.code != 0
    assert "gpuhub_https_proxy: must be http://host:port" in refused.output
    assert "but is '(hidden)@10.77.0.1'" in refused.output
    assert "gpuhub_no_proxy: has '*.example.com'" in refused.output
    assert "geheim" not in refused.output


def test_nodes_pull_from_the_site_s_registry_and_none_runs_on_the_head(moved, site, proxy, deployment):
    assert moved.code == 0, moved.output[-6000:]
    for password in (site.password, proxy.password, proxy.quoted):
        assert password not in moved.output
    names = [item["metadata"]["name"] for item in deployment.objects("deployments")]
    assert "registry" not in names
    assert "hub" in names
    for worker in WORKERS:
        assert f"{site.url.replace('/gpu', '/v2/gpu')}/quay.io" in deployment.on(worker, f"cat {HOSTS_TOML}")
        assert deployment.on(worker, f"stat -c %a {HOSTS_TOML}").strip() == "600"


def pull(deployment: Deployment, image: str, until: str, **container: object) -> None:
    """A worker is made to pull an image, until its pod is in a phase or waits for a reason."""
    container = {"name": "a", "image": image, "command": ["true"], "imagePullPolicy": "Always"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "puller", "namespace": "default"},
        "spec": {"nodeName": WORKERS[0], "restartPolicy": "Never", "containers": [container]},
    }
    deployment.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    paths = "{.status.phase} {.status.containerStatuses[0].state.waiting.reason}"
    path = ("get", "-n", "default", "pod", "puller", "-o", f"jsonpath={paths}")
    try:
        wait_for(f"the pod is {until}", lambda: until in deployment.kubectl(*path).split())
    finally:
        deployment.kubectl("delete", "pod", "puller", "--now", "--ignore-not-found")


def test_a_deleted_image_comes_back_from_there(moved, deployment):
    deployment.on(WORKERS[0], f"/snap/bin/microk8s ctr images rm --sync {SINGLEUSER}")
    pull(deployment, SINGLEUSER, "Succeeded")


def test_the_hub_trusts_the_site_s_authority(moved, deployment):
    """A verified connection is answered with 401; without the authority it would not come about."""
    ask = f"import urllib.request as r\ntry: r.urlopen('https://{ADDRESS}:{PORT}/v2/')\nexcept Exception as e: print(e)"
    in_the_hub = ("-n", "jhub", "exec", "deploy/hub", "--")
    assert "401" in deployment.kubectl(*in_the_hub, "python3", "-c", ask)
    assert "CERTIFICATE_VERIFY_FAILED" in deployment.kubectl(
        *in_the_hub, "env", "-u", "SSL_CERT_FILE", "python3", "-c", ask
    )


if "moved" in AGAIN_AFTER:

    def test_then_nothing_is_left_to_do(moved, site, deployment):
        again = deployment.play("-e", f"@{site.settings}", "-ejupyterhub_smoke_test=never")
        assert again.code == 0, again.output[-6000:]
        assert again.changed == 0, again.changed_tasks()


@pytest.fixture(scope="module")
def proxy_alone(proxy: Proxy) -> Iterator[list[str]]:
    """Settings of the proxy, and of a notebook image from a `docker save | gzip` archive with a layer of its own."""
    with bundle_copy() as bundle:
        plain = bundle.parent / "plain.tar"
        copy = ["skopeo", "copy", "--quiet", f"oci:{bundle}/oci:{SINGLEUSER}", f"docker-archive:{plain}:{MINE}"]
        subprocess.run(copy, check=True)
        add_layer(plain, bundle / "jhub_24.10_3.tar.gz", {"etc/made-by-hand": b"by hand\n"})
        plain.unlink()
        settings = {
            **proxy.settings,
            "offline_images_bundle": str(bundle),
            "jupyterhub_singleuser_image": MINE,
            "offline_images_required": [ELSEWHERE],
        }
        yield ["-e", json.dumps(settings)]


@pytest.fixture(scope="module")
def proxied(moved: Play, proxy_alone: list[str], deployment: Deployment) -> Play:
    """Of the site's surroundings only the proxy is left; a notebook proves that the hub works with it."""
    return deployment.play("--diff", *proxy_alone)


if "proxied" in AGAIN_AFTER:

    def test_then_nothing_is_left_to_do_either(proxied, proxy_alone, deployment):
        again = deployment.play(*proxy_alone)
        assert again.code == 0, again.output[-6000:]
        assert again.changed == 0, again.changed_tasks()


@pytest.mark.parametrize("image", [MINE, ELSEWHERE])
def test_nodes_pull_an_image_made_by_hand_with_its_own_layer(proxied, deployment, image):
    """Notebooks have it, too: site.yml ends with one that somebody opens."""
    deployment.kubectl(
        "-n", "default", "run", "made-by-hand", f"--image={image}", "--restart=Never",
        "--overrides", json.dumps({"spec": {"nodeName": WORKERS[0]}}), "--command", "--", "cat", "/etc/made-by-hand",
    )  # fmt: skip
    phase = ("-n", "default", "get", "pod", "made-by-hand", "-o", "jsonpath={.status.phase}")
    wait_for("the pod ends", lambda: deployment.kubectl(*phase) == "Succeeded")
    assert deployment.kubectl("-n", "default", "logs", "made-by-hand") == "by hand\n"
    deployment.kubectl("-n", "default", "delete", "pod", "made-by-hand", "--now")


@pytest.mark.parametrize("host", NODES)
def test_containerd_runs_with_the_proxy(proxied, proxy, deployment, host):
    assert proxied.code == 0, proxied.output[-6000:]
    found = environment(deployment, host)
    assert found.keys() == {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}
    assert found["HTTPS_PROXY"] == found["http_proxy"] == proxy.settings["gpuhub_http_proxy"]
    assert {NODES[HEAD], NODES[host], "10.1.0.0/16", "10.152.183.0/24", ".svc"} <= {*found["NO_PROXY"].split(",")}


@pytest.mark.parametrize("host", NODES)
def test_the_password_is_in_no_file_that_everybody_may_read(proxied, proxy, deployment, host):
    find = (
        "find /etc /var/snap/microk8s/current/args /var/snap/microk8s/common/etc /var/lib/gpuhub -type f -size -1024k"
    )
    holding = f"-exec grep -lF '{proxy.quoted}' {{}} +"
    assert CONTAINERD_ENV.partition("args")[2] in deployment.on(host, f"{find} {holding}", check=False)
    assert deployment.on(host, f"{find} -perm /004 {holding}", check=False) == ""


def test_the_head_s_images_are_pulled_without_the_proxy(proxied, proxy, deployment):
    """Nor has anything else asked it so far: three plays, two registries, a hub and a notebook."""
    deployment.on(WORKERS[0], f"/snap/bin/microk8s ctr images rm --sync {SINGLEUSER}")
    pull(deployment, SINGLEUSER, "Succeeded")
    assert proxy.requests() == []


def test_what_is_outside_is_asked_of_the_proxy(proxied, proxy, deployment):
    """The control: containerd, the hub and a notebook each ask for a name outside, with the password."""
    pull(deployment, "registry.example.org/no/such:1", "ErrImagePull")
    assert proxy.asked("registry.example.org:443", NODES[WORKERS[0]])
    ask = "import urllib.request as r\ntry: r.urlopen('http://{}/', timeout=5)\nexcept OSError as error: print(error)"
    in_the_hub = ("-n", "jhub", "exec", "deploy/hub", "--", "python3", "-c")
    assert "Noted" in deployment.kubectl(*in_the_hub, ask.format("a.example.org"))
    assert proxy.asked("http://a.example.org/")
    token = f"Authorization: token {deployment.secret('jupyterhub-smoke-token')}"
    server = f"{HUB}/hub/api/users/gpuhub-smoke/server"
    deployment.http(server, "-H", token, "-X", "POST")
    try:
        api = f"{HUB}/user/gpuhub-smoke/api"
        wait_for("the notebook answers", lambda: deployment.http(api, "-H", token)[0] == 200)
        (pod,) = deployment.objects("pods", "-n", "jhub", "-l", "component=singleuser-server")
        assert proxy.quoted not in json.dumps(pod)
        run = ("-n", "jhub", "exec", pod["metadata"]["name"], "--", "python3", "-c")
        assert "Noted" in deployment.kubectl(*run, ask.format("b.example.org"))
        assert proxy.asked("http://b.example.org/")
        for inside in ("hub:8081", "proxy-public.jhub.svc.cluster.local", "10.152.183.1"):
            assert "Noted" not in deployment.kubectl(*run, ask.format(inside))
    finally:
        deployment.http(server, "-H", token, "-X", "DELETE")
    outside = {"registry.example.org:443", "http://a.example.org/", "http://b.example.org/"}
    assert {request["target"] for request in proxy.requests()} == outside


def test_without_the_settings_everything_is_as_before(proxied, site, proxy, before, ended, deployment):
    site.back.append(deployment.play("--diff", "-ejupyterhub_smoke_test=never"))
    assert site.back[0].code == 0, site.back[0].output[-6000:]
    # The hub's Deployment, as it was before, would wait ten minutes for the pod of that time that has ended.
    assert ended not in hubs(deployment)
    for password in (proxy.password, proxy.quoted):
        assert password not in site.back[0].output
    assert traces(deployment) == before
    assert deployment.kubectl("-n", "jhub", "get", "configmap", "gpuhub-ca", "--ignore-not-found") == ""
    for host in NODES:
        assert environment(deployment, host) == {}
        places = "/etc /var/snap/microk8s/current/args /var/snap/microk8s/common/etc /var/lib/gpuhub/*.json"
        assert deployment.on(host, f"grep -rlF '{proxy.quoted}' {places}", check=False) == ""
