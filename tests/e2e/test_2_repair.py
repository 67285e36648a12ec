"""What somebody changed by hand is reported by --check --diff and repaired by the next run; nothing else is touched."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from harness import HEAD, WORKERS, Deployment, wait_for
from sample import SEED, SOAK
from state import digest

ARGS = "/var/snap/microk8s/current/args"
MIRROR = f"{ARGS}/certs.d/quay.io/hosts.toml"


@dataclass(frozen=True)
class Fault:
    """Something done by hand, where, how `--check --diff` shows it, and how one sees that it is repaired."""

    role: str
    name: str
    break_it: Callable[[Deployment], Any]
    reported: str
    broken: Callable[[Deployment], bool]


def shell(host: str, script: str) -> Callable[[Deployment], Any]:
    return lambda d: d.on(host, script)


def says(host: str, script: str) -> Callable[[Deployment], bool]:
    """Whether a script on a host succeeds."""
    return lambda d: d.on(host, f"if {script}; then echo yes; fi", check=False).strip() == "yes"


def kubectl(*arguments: str) -> Callable[[Deployment], Any]:
    return lambda d: d.kubectl(*arguments)


def patch(namespace: str, what: str, change: dict[str, Any]) -> Callable[[Deployment], Any]:
    return kubectl("-n", namespace, "patch", what, "--type=merge", "-p", json.dumps(change))


def gone(namespace: str, what: str) -> Callable[[Deployment], bool]:
    return lambda d: d.kubectl("-n", namespace, "get", what, "--ignore-not-found", "-o", "name").strip() == ""


def shows(namespace: str, what: str, path: str, value: str) -> Callable[[Deployment], bool]:
    """Whether a field of an object contains a value."""
    return lambda d: value in d.kubectl("-n", namespace, "get", what, "-o", f"jsonpath={path}")


FAULTS = [
    Fault(
        "microk8s",
        "a line of a worker's args/kubelet is gone",
        shell(WORKERS[0], f"sed -i '/--cluster-dns/d' {ARGS}/kubelet"),
        "--cluster-dns",
        says(WORKERS[0], f"! grep -q -- --cluster-dns {ARGS}/kubelet"),
    ),
    Fault(
        "microk8s",
        "a line is added to a worker's args/kubelet",
        shell(WORKERS[1], f"echo --max-pods=5 >> {ARGS}/kubelet"),
        "--max-pods=5",
        says(WORKERS[1], f"grep -q -- --max-pods=5 {ARGS}/kubelet"),
    ),
    Fault(
        "microk8s",
        "everybody may do everything",
        shell(
            HEAD,
            f"sed -i 's/--authorization-mode=.*/--authorization-mode=AlwaysAllow/' {ARGS}/kube-apiserver"
            " && systemctl restart snap.microk8s.daemon-kubelite",
        ),
        "AlwaysAllow",
        says(HEAD, f"grep -q AlwaysAllow {ARGS}/kube-apiserver"),
    ),
    Fault(
        "microk8s",
        "kubelet is stopped on a worker",
        shell(WORKERS[0], "systemctl stop snap.microk8s.daemon-kubelite"),
        "snap.microk8s.daemon-kubelite restarted",
        says(WORKERS[0], "! systemctl -q is-active snap.microk8s.daemon-kubelite"),
    ),
    Fault(
        "microk8s",
        "the launch configuration is edited",
        shell(WORKERS[1], "sed -i 's/RBAC,Node/AlwaysAllow/' /etc/microk8s.yaml"),
        "/etc/microk8s.yaml",
        says(WORKERS[1], "grep -q AlwaysAllow /etc/microk8s.yaml"),
    ),
    Fault(
        "offline_images",
        "a mirror leads to the internet",
        shell(WORKERS[0], f"""sed -i 's#^server = .*#server = "https://quay.io"#' {MIRROR}"""),
        "https://quay.io",
        says(WORKERS[0], f"grep -q https://quay.io {MIRROR}"),
    ),
    Fault(
        "offline_images",
        "a mirror is gone",
        shell(WORKERS[1], f"rm -r {ARGS}/certs.d/quay.io"),
        MIRROR,
        says(WORKERS[1], f"! test -e {MIRROR}"),
    ),
    Fault(
        "offline_images",
        "a bootstrap image is gone from a worker",
        shell(WORKERS[0], "/snap/bin/microk8s ctr images rm docker.io/library/busybox:1.37.0"),
        "docker.io/library/busybox:1.37.0",
        says(WORKERS[0], "! /snap/bin/microk8s ctr images ls -q | grep -qx docker.io/library/busybox:1.37.0"),
    ),
    Fault(
        "offline_images",
        "the registry's authority is another",
        shell(WORKERS[1], "echo none > /etc/gpuhub/registry-ca.crt"),
        "/etc/gpuhub/registry-ca.crt",
        says(WORKERS[1], "grep -qx none /etc/gpuhub/registry-ca.crt"),
    ),
    Fault(
        "offline_images",
        "the registry is scaled away",
        kubectl("-n", "gpuhub-system", "scale", "deployment/registry", "--replicas=0"),
        "Deployment gpuhub-system/registry",
        shows("gpuhub-system", "deployment/registry", "{.spec.replicas}", "0"),
    ),
    Fault(
        "calico",
        "the network's DaemonSet is edited",
        patch(
            "kube-system", "daemonset/calico-node",
            {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 9}}}},
        ),
        "DaemonSet kube-system/calico-node",
        shows("kube-system", "daemonset/calico-node", "{.spec.template.spec.terminationGracePeriodSeconds}", "9"),
    ),
    Fault(
        "calico",
        "the network's configuration is gone",
        kubectl("-n", "kube-system", "delete", "configmap/calico-config"),
        "ConfigMap kube-system/calico-config",
        gone("kube-system", "configmap/calico-config"),
    ),
    Fault(
        "calico",
        "the network's rights are edited",
        patch("default", "clusterrole/calico-node", {"rules": []}),
        "ClusterRole calico-node",
        lambda d: not json.loads(d.kubectl("get", "clusterrole/calico-node", "-o", "json"))["rules"],
    ),
    Fault(
        "cluster_addons",
        "the DNS configuration is gone",
        kubectl("-n", "kube-system", "delete", "configmap/coredns"),
        "ConfigMap kube-system/coredns",
        gone("kube-system", "configmap/coredns"),
    ),
    Fault(
        "cluster_addons",
        "DNS is scaled away",
        kubectl("-n", "kube-system", "scale", "deployment/coredns", "--replicas=0"),
        "Deployment kube-system/coredns",
        shows("kube-system", "deployment/coredns", "{.spec.replicas}", "0"),
    ),
    Fault(
        "cluster_addons",
        "the class of homes is gone",
        kubectl("delete", "storageclass/gpuhub-home"),
        "StorageClass gpuhub-home",
        gone("default", "storageclass/gpuhub-home"),
    ),
    Fault(
        "cluster_addons",
        "homes would be deleted with their claims",
        patch("gpuhub-system", "configmap/local-path-config", {"data": {"teardown": "#!/bin/sh\nrm -rf $VOL_DIR\n"}}),
        "ConfigMap gpuhub-system/local-path-config",
        shows("gpuhub-system", "configmap/local-path-config", "{.data.teardown}", "rm -rf"),
    ),
    Fault(
        "jupyterhub",
        "the hub's Deployment is edited",
        patch("jhub", "deployment/hub", {"spec": {"revisionHistoryLimit": 3}}),
        "Deployment jhub/hub",
        shows("jhub", "deployment/hub", "{.spec.revisionHistoryLimit}", "3"),
    ),
    Fault(
        "jupyterhub",
        "the hub's public port is another",
        kubectl(
            "-n", "jhub", "patch", "service/proxy-public", "--type=json",
            "-p", '[{"op": "replace", "path": "/spec/ports/0/nodePort", "value": 30081}]',
        ),
        "Service jhub/proxy-public",
        shows("jhub", "service/proxy-public", "{.spec.ports[0].nodePort}", "30081"),
    ),
    Fault(
        "jupyterhub",
        "the hub's own code is gone",
        kubectl("-n", "jhub", "delete", "configmap/gpuhub-core"),
        "ConfigMap jhub/gpuhub-core",
        gone("jhub", "configmap/gpuhub-core"),
    ),
    Fault(
        "jupyterhub",
        "the portal's token is another in the hub's secret",
        patch("jhub", "secret/gpuhub-usage-portal", {"data": {"token": "bm90aGluZw=="}}),
        "Secret jhub/gpuhub-usage-portal",
        shows("jhub", "secret/gpuhub-usage-portal", "{.data.token}", "bm90aGluZw=="),
    ),
    Fault(
        "jupyterhub",
        "notebooks may reach everything",
        kubectl("-n", "jhub", "delete", "networkpolicy/singleuser"),
        "NetworkPolicy jhub/singleuser",
        gone("jhub", "networkpolicy/singleuser"),
    ),
    Fault(
        "jupyterhub",
        "a value of the chart is another",
        shell(
            HEAD,
            "cd /var/lib/gpuhub && /snap/microk8s/current/bin/helm"
            " --kubeconfig /var/snap/microk8s/current/credentials/client.config -n jhub upgrade jupyterhub"
            " charts/jupyterhub-*.tgz --reuse-values --set singleuser.storage.capacity=1Gi",
        ),
        "helm",
        says(
            HEAD,
            "/snap/microk8s/current/bin/helm --kubeconfig /var/snap/microk8s/current/credentials/client.config"
            " -n jhub get values jupyterhub -o json | grep -q '\"capacity\":\"1Gi\"'",
        ),
    ),
    Fault(
        "usage_portal",
        "the collector may read nothing",
        patch("default", "clusterrole/gpuhub-usage-portal-collector", {"rules": []}),
        "ClusterRole gpuhub-usage-portal-collector",
        lambda d: not json.loads(d.kubectl("get", "clusterrole/gpuhub-usage-portal-collector", "-o", "json"))["rules"],
    ),
    Fault(
        "usage_portal",
        "the portal is scaled away",
        kubectl("-n", "usage-portal", "scale", "deployment/usage-portal", "--replicas=0"),
        "Deployment usage-portal/usage-portal",
        shows("usage-portal", "deployment/usage-portal", "{.spec.replicas}", "0"),
    ),
    Fault(
        "usage_portal",
        "everybody may reach the database",
        kubectl("-n", "usage-portal", "delete", "networkpolicy/usage-portal-database"),
        "NetworkPolicy usage-portal/usage-portal-database",
        gone("usage-portal", "networkpolicy/usage-portal-database"),
    ),
    Fault(
        "usage_portal",
        "the hub's token is another in the portal's secret",
        patch("usage-portal", "secret/usage-portal", {"data": {"hub-token": "bm90aGluZw=="}}),
        "Secret usage-portal/usage-portal",
        shows("usage-portal", "secret/usage-portal", "{.data.hub-token}", "bm90aGluZw=="),
    ),
]  # fmt: skip


def rounds() -> list[list[Fault]]:
    """One round with one fault for each role, drawn by the seed; in a soak as many rounds as it takes to see all."""
    generator = random.Random(SEED)
    by_role = {role: [fault for fault in FAULTS if fault.role == role] for role in sorted({f.role for f in FAULTS})}
    for faults in by_role.values():
        generator.shuffle(faults)
    count = max(map(len, by_role.values())) if SOAK else 1
    return [[faults[number % len(faults)] for faults in by_role.values()] for number in range(count)]


@pytest.fixture(scope="module", params=rounds(), ids=lambda _: f"seed-{SEED}")
def story(deployment, request) -> dict[str, Any]:
    """Break one thing of each role, look with --check --diff, repair; in a soak run again."""
    faults = request.param
    print(f"seed {SEED}: {'; '.join(fault.name for fault in faults)}")
    before = digest(deployment)
    for fault in faults:
        assert not fault.broken(deployment), f"{fault.name}: broken before it was broken"
        fault.break_it(deployment)
        # Some restart it.
        deployment.await_api_server()
        assert fault.broken(deployment), f"{fault.name}: not broken by breaking it"
    broken = digest(deployment)
    looked = deployment.play("--check", "--diff")
    after_look = digest(deployment)
    repaired_by_looking = [fault.name for fault in faults if not fault.broken(deployment)]
    repaired = deployment.play("--diff")
    after = digest(deployment)
    return {
        "faults": faults,
        "before": before,
        "broken": broken,
        "looked": looked,
        "after_look": after_look,
        "repaired_by_looking": repaired_by_looking,
        "repaired": repaired,
        "after": after,
        # Else test_2_second_administrator.py finds nothing left to do.
        "again": deployment.play() if SOAK else None,
    }


def test_faults_are_reported(story):
    assert story["looked"].code == 0, story["looked"].output[-6000:]
    for fault in story["faults"]:
        assert fault.reported in story["looked"].output, f"{fault.name}: not reported"


def test_looking_changes_nothing(story):
    assert story["repaired_by_looking"] == []
    assert story["after_look"] == story["broken"]


def test_the_next_run_repairs(story, deployment):
    assert story["repaired"].code == 0, story["repaired"].output[-6000:]
    left = [fault.name for fault in story["faults"] if fault.broken(deployment)]
    assert left == []


def test_nothing_else_is_touched(story):
    before, after = story["before"], story["after"]
    different = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    assert different == []


if SOAK:

    def test_then_nothing_is_left_to_do(story):
        assert story["again"].code == 0, story["again"].output[-6000:]
        assert story["again"].changed == 0, story["again"].changed_tasks()


def test_an_image_deleted_on_a_worker_is_there_for_the_next_pod(deployment):
    """The registry on the head has it: kubelet pulls it again without any playbook."""
    image = "quay.io/jupyterhub/k8s-singleuser-sample:4.4.0"
    worker = WORKERS[0]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "image-is-back", "namespace": "default"},
        "spec": {
            "nodeName": worker,
            "restartPolicy": "Never",
            "containers": [{"name": "a", "image": image, "command": ["true"], "imagePullPolicy": "IfNotPresent"}],
        },
    }
    deployment.on(worker, f"/snap/bin/microk8s ctr images rm --sync {image}")
    try:
        deployment.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
        wait_for(
            "the pod ran", lambda: shows("default", "pod/image-is-back", "{.status.phase}", "Succeeded")(deployment)
        )
    finally:
        deployment.kubectl("delete", "pod", "image-is-back", "--ignore-not-found")
    assert says(worker, f"/snap/bin/microk8s ctr images ls -q | grep -qx {image}")(deployment)
