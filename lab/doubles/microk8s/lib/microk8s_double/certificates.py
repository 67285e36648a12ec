"""Keys, certificates and kubeconfigs of one node. Keys are of the curve P-256: MicroK8s' own are RSA 2048."""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
import subprocess
from pathlib import Path

from . import arguments
from .network import addresses, hostname
from .snapenv import CERTS, CREDENTIALS, SNAP, share, write

_DAYS = "3650"
_CLIENTS = {
    # File name: subject, kubeconfig, user of the kubeconfig.
    "client": ("/CN=admin/O=system:masters", "client.config", "admin"),
    "proxy": ("/CN=system:kube-proxy", "proxy.config", "system:kube-proxy"),
    "scheduler": ("/CN=system:kube-scheduler", "scheduler.config", "system:kube-scheduler"),
    "controller": ("/CN=system:kube-controller-manager", "controller.config", "system:kube-controller-manager"),
    "apiserver-kubelet-client": ("/CN=kube-apiserver-kubelet-client/O=system:masters", None, None),
}


def _openssl(*words: object, stdin: str | None = None) -> str:
    done = subprocess.run(["openssl", *map(str, words)], input=stdin, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {' '.join(map(str, words))}: {done.stderr.strip()}")
    return done.stdout


def _key(name: str) -> Path:
    path = CERTS / f"{name}.key"
    if not path.exists():
        # Not PKCS #8: kube-apiserver reads the public half of serviceaccount.key from the older form only.
        write(path, _openssl("ecparam", "-genkey", "-name", "prime256v1", "-noout"), 0o600)
    return path


def _authority(name: str, subject: str) -> None:
    path = CERTS / f"{name}.crt"
    if not path.exists():
        made = _openssl(
            "req", "-x509", "-new", "-key", _key(name), "-days", _DAYS, "-subj", subject,
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip
        write(path, made)


def request(name: str, subject: str, names: bool = False) -> str:
    """A certificate request for key `name`, with this host's name and addresses where `names`."""
    extra = []
    if names:
        sans = ",".join([f"DNS:{hostname()}", *(f"IP:{ip}" for ip in addresses())])
        extra = ["-addext", f"subjectAltName={sans}"]
    return _openssl("req", "-new", "-key", _key(name), "-subj", subject, *extra)


def sign(csr: str, authority: str = "ca") -> str:
    """Sign a request with an authority of this node."""
    return _openssl(
        "x509", "-req", "-in", "/dev/stdin", "-CA", CERTS / f"{authority}.crt", "-CAkey", CERTS / f"{authority}.key",
        "-days", _DAYS, "-copy_extensions", "copy", stdin=csr,
    )  # fmt: skip


def fingerprint() -> str:
    """What a joining node compares: the first 12 hexadecimal digits of the server certificate's SHA-256."""
    der = ssl.PEM_cert_to_DER_cert((CERTS / "server.crt").read_text())
    return hashlib.sha256(der).hexdigest()[:12]


def write_template(names: list[str]) -> None:
    """csr.conf.template with further DNS names and addresses (extraSANs of the launch configuration)."""
    text = (SNAP / "certs/csr.conf.template").read_text()
    kinds = {"IP": [n for n in names if re.fullmatch(r"[0-9.]+|[0-9a-fA-F:]+", n)]}
    kinds["DNS"] = [n for n in names if n not in kinds["IP"]]
    for kind, values in kinds.items():
        first = 1 + max(int(n) for n in re.findall(rf"^{kind}\.(\d+)", text, re.MULTILINE))
        lines = "".join(f"{kind}.{first + i} = {value}\n" for i, value in enumerate(values))
        text = text.replace("#MOREIPS", f"{lines}#MOREIPS")
    write(CERTS / "csr.conf.template", text)


def produce() -> bool:
    """Make what is missing; True if the server certificate is a new one (addresses or names have changed)."""
    _authority("ca", "/CN=10.152.183.1")
    _authority("front-proxy-ca", "/CN=front-proxy-ca")
    _key("serviceaccount")
    if not (CERTS / "front-proxy-client.crt").exists():
        write(CERTS / "front-proxy-client.crt", sign(request("front-proxy-client", "/CN=front-proxy-client"),
                                                     "front-proxy-ca"))  # fmt: skip
    template = (CERTS / "csr.conf.template").read_text()
    first = 1 + max(int(n) for n in re.findall(r"^IP\.(\d+)", template, re.MULTILINE))
    more = "\n".join(f"IP.{first + i} = {ip}" for i, ip in enumerate(addresses()))
    wanted = template.replace("#MOREIPS", more)
    conf = CERTS / "csr.conf"
    if conf.exists() and conf.read_text() == wanted and (CERTS / "server.crt").exists():
        return False
    write(CERTS / "csr.conf.rendered", wanted)
    csr = _openssl("req", "-new", "-key", _key("server"), "-config", CERTS / "csr.conf.rendered")
    write(CERTS / "server.crt", sign(csr))
    # Last: a run that is killed before this line is done again.
    write(conf, wanted)
    return True


def kubeconfig(name: str, user: str, certificate: str, authority: str = "ca.crt", port: str = "") -> None:
    """credentials/<name>, for the API server on this node's loopback."""
    encoded = {
        key: base64.b64encode((CERTS / file).read_bytes()).decode()
        for key, file in (("ca", authority), ("crt", f"{certificate}.crt"), ("key", f"{certificate}.key"))
    }
    port = port or arguments.get("kube-apiserver", "--secure-port") or "16443"
    text = f"""\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {encoded["ca"]}
    server: https://127.0.0.1:{port}
  name: microk8s-cluster
contexts:
- context:
    cluster: microk8s-cluster
    user: {user}
  name: microk8s
current-context: microk8s
kind: Config
preferences: {{}}
users:
- name: {user}
  user:
    client-certificate-data: {encoded["crt"]}
    client-key-data: {encoded["key"]}
"""
    write(CREDENTIALS / name, text)


def create_users() -> None:
    """Certificates and kubeconfigs of all components, signed by this node's own authority."""
    for name, (subject, config, user) in _CLIENTS.items():
        write(CERTS / f"{name}.crt", sign(request(name, subject)))
        share(CERTS / f"{name}.key")
        if config and user:
            kubeconfig(config, user, name)
    node = f"system:node:{hostname()}"
    write(CERTS / "kubelet.crt", sign(request("kubelet", f"/CN={node}/O=system:nodes", names=True)))
    kubeconfig("kubelet.config", node, "kubelet")


def create_worker_configs() -> None:
    """Kubeconfigs of a worker: the cluster's authority, and certificates that the head has signed."""
    kubeconfig("proxy.config", "system:kube-proxy", "proxy", "ca.remote.crt", "16443")
    kubeconfig("kubelet.config", f"system:node:{hostname()}", "kubelet", "ca.remote.crt", "16443")
