"""The doubles of snap and MicroK8s keep the contract of facts that the roles rely on; one head, one worker, as root.

The tests are one story on one lab instance and run in the order in which they stand; test_microk8s_gpus.py goes on from
it, and ends with the removal of MicroK8s.
"""

from __future__ import annotations

import base64
import json
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from ipaddress import ip_address, ip_network

import pytest
import yaml
from microk8s_hosts import BUSYBOX, COMMON, DATA, HEAD, HOSTS, WORKER, Result, archive, catalogue, snaps, wait

pytestmark = pytest.mark.usefixtures("hosts")
ADDRESS = {HEAD: "10.77.0.11", WORKER: "10.77.0.12"}
SNAPD, CORE, MICROK8S = (snap.stem for snap in snaps.SNAPS)
MIRROR = "http://127.0.0.1:5999"
TOKEN = "0123456789abcdef0123456789abcdef"
LAUNCH = {
    "version": "0.1.0",
    "extraKubeAPIServerArgs": {
        "--authorization-mode": "RBAC,Node",
        "--enable-admission-plugins": "EventRateLimit,NodeRestriction",
        "--event-ttl": None,
    },
    "extraKubeletArgs": {"--cluster-domain": "cluster.local", "--cluster-dns": "10.152.183.10"},
    "extraContainerdEnv": {"HTTPS_PROXY": "http://u:p%40ss@127.0.0.1:5998", "NO_PROXY": "127.0.0.1,10.3.0.0/16"},
    "extraSANs": ["hub.example", "10.77.0.99"],
    "extraCNIEnv": {"IPv4_SUPPORT": True, "IPv4_CLUSTER_CIDR": "10.3.0.0/16", "IPv4_SERVICE_CIDR": "10.152.183.0/24"},
    # A file with `server` alone, without a host, is ignored by containerd 1.7.
    "containerdRegistryConfigs": {"quay.io": f'server = "{MIRROR}"\n[host."{MIRROR}"]\n'},
    "extraConfigFiles": {"audit-policy.yaml": "rules: []\n"},
    "persistentClusterToken": TOKEN,
    "notAKey": 1,
}
run = HOSTS.run


def kubectl(words: str, code: int | None = 0, stdin: bytes | None = None) -> Result:
    return run(HEAD, f"/snap/bin/microk8s kubectl {words}", code, stdin)


Row = tuple[str, int, str]
_BATCH = """
import json, subprocess, sys
print(json.dumps([
    (done.returncode, done.stdout) for done in (
        subprocess.run(["bash", "-c", c], stdout=-1, stderr=subprocess.STDOUT, text=True) for c in json.load(sys.stdin)
    )
]))
"""


@cache
def outcomes(host: str, commands: tuple[str, ...]) -> list[tuple[int, str]]:
    """Exit code and output of commands, run one after the other in one visit to the host."""
    return json.loads(run(host, f"python3 -c '{_BATCH}'", stdin=json.dumps(commands).encode()))


def rows(table: list[Row]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", range(len(table)), ids=[command for command, *_ in table])


def check(host: str, table: list[Row], row: int) -> None:
    """Row `row` of a table (command, exit code, part of its output); all rows run at the first one."""
    command, code, text = table[row]
    found, output = outcomes(host, tuple(command for command, *_ in table))[row]
    assert found == code, f"{command}: {found}\n{output}"
    assert text in output


# --- snap ------------------------------------------------------------------------------------------------------------


SNAP: list[Row] = [
    ("snap list", 0, "No snaps are installed yet."),
    ("snap list microk8s", 1, "error: no matching snaps installed"),
    ("snap info microk8s", 1, 'error: no snap found for "microk8s"'),
    ("snap version", 0, "snapd   2.57.6"),
    ("snap install microk8s --classic", 1, "lookup api.snapcraft.io: Temporary failure in name resolution"),
    ("snap ack /opt/snaps/none.assert", 1, "error: open /opt/snaps/none.assert: no such file or directory"),
    (f"snap install --classic /opt/snaps/{MICROK8S}.snap", 1,
     f'error: cannot find signatures with metadata for snap "/opt/snaps/{MICROK8S}.snap"'),
    (f"snap ack /opt/snaps/{MICROK8S}.assert", 0, ""),
    (f"snap ack /opt/snaps/{CORE}.assert", 0, ""),
    (f"snap ack /opt/snaps/{SNAPD}.assert", 0, ""),
    (f"cp /opt/snaps/{MICROK8S}.snap /opt/bad.snap; echo >> /opt/bad.snap; snap install --classic /opt/bad.snap", 1,
     'error: cannot find signatures with metadata for snap "/opt/bad.snap"'),
    (f"snap install /opt/snaps/{MICROK8S}.snap", 1, "repeat the command including --classic"),
    (f"snap install --classic /opt/snaps/{MICROK8S}.snap", 1,
     'Ensure prerequisites for "microk8s" are available (cannot install snap base "core22"'),
    (f"snap install /opt/snaps/{CORE}.snap", 1, "assumes unsupported features: snapd2.61"),
    ("snap refresh --hold microk8s", 1, "error: unknown flag `hold'"),
    (f"snap install /opt/snaps/{SNAPD}.snap", 0, "snapd 2.71 from Canonical** installed"),
    (f"snap install /opt/snaps/{CORE}.snap", 0, "installed"),
    (f"snap install /opt/snaps/{CORE}.snap", 0, 'snap "core22" is already installed, see \'snap help refresh\''),
    ("snap set system refresh.timer=sun5,04:00 && snap get system refresh.timer", 0, "sun5,04:00"),
    ("snap get system refresh.none", 1, 'error: snap "system" has no "refresh.none" configuration option'),
    ("snap remove core18", 0, 'snap "core18" is not installed'),
]  # fmt: skip


@rows(SNAP)
def test_snap(row: int) -> None:
    check(HEAD, SNAP, row)


def test_faulty_launch_configuration_fails_the_installation() -> None:
    run(HEAD, "echo 'version: [' > /etc/microk8s.yaml")
    said = run(HEAD, f"snap install --classic /opt/snaps/{MICROK8S}.snap", 1)
    assert '- Run install hook of "microk8s" snap if present' in said
    assert "could not parse configuration" in said
    run(HEAD, "snap list microk8s", 1)
    # The administrator's own files stay.
    run(HEAD, f"test -f {COMMON}/sideload/bootstrap.tar && ! test -e {DATA} && ! test -e /snap/microk8s")


# --- installation ----------------------------------------------------------------------------------------------------


def test_install_with_and_without_launch_configuration() -> None:
    """The head has one; the worker has none and its installation is killed on the way."""
    run(HEAD, "cat > /etc/microk8s.yaml", stdin=yaml.safe_dump(LAUNCH).encode())

    def head() -> None:
        said = run(HEAD, f"snap install --classic /opt/snaps/{MICROK8S}.snap")
        assert "microk8s v1.34.4 from Canonical** installed" in said

    def worker() -> None:
        run(WORKER, f"cd /opt/snaps; for s in {SNAPD} {CORE} {MICROK8S}; do snap ack $s.assert; done; "
                    f"snap install {SNAPD}.snap; snap install {CORE}.snap")  # fmt: skip
        for landmark in ("/snap/microk8s/.*.partial/meta", "/var/snap/microk8s/*/certs/ca.crt"):
            run(WORKER, f"snap install --classic /opt/snaps/{MICROK8S}.snap & "
                        f"until ls -d {landmark} >/dev/null 2>&1; do sleep 0.01; done; kill -9 $!")  # fmt: skip
            run(WORKER, "snap list microk8s", 1)
        run(WORKER, f"snap install --classic /opt/snaps/{MICROK8S}.snap")

    with ThreadPoolExecutor() as pool:
        for done in (pool.submit(head), pool.submit(worker)):
            done.result()
    for host in ADDRESS:
        run(host, "/snap/bin/microk8s status --wait-ready --timeout 90")
    listed = run(HEAD, "snap list microk8s")
    assert re.fullmatch(
        r"Name +Version +Rev +Tracking +Publisher +Notes\nmicrok8s  v1\.34\.4  \d+  - +canonical\*\*  classic\n", listed
    )
    again = run(HEAD, f"snap install --classic /opt/snaps/{MICROK8S}.snap")
    assert again == "snap \"microk8s\" is already installed, see 'snap help refresh'\n"
    assert 'General refreshes of "microk8s" held indefinitely' in run(HEAD, "snap refresh --hold microk8s")
    assert "classic,held" in run(HEAD, "snap list microk8s")


@pytest.mark.parametrize(
    ("file", "present", "absent"),
    [
        ("args/kube-apiserver", "--authorization-mode=RBAC,Node", "AlwaysAllow"),
        ("args/kube-apiserver", "--enable-admission-plugins=EventRateLimit,NodeRestriction", "--event-ttl"),
        ("args/kube-controller-manager", "--cluster-cidr=10.3.0.0/16", "10.1.0.0"),
        ("args/kube-proxy", "--cluster-cidr=10.3.0.0/16", "10.1.0.0"),
        ("args/kubelet", "--root-dir=${SNAP_COMMON}/var/lib/kubelet", "--node-ip"),
        ("args/cni-network/cni.yaml", 'value: "10.3.0.0/16"', "10.1.0.0"),
        ("args/certs.d/quay.io/hosts.toml", "127.0.0.1:5999", "https"),
        ("args/certs.d/docker.io/hosts.toml", 'server = "https://docker.io"', "127.0.0.1"),
        ("args/audit-policy.yaml", "rules: []", "null"),
        ("args/containerd.toml", f'bin_dir = "/var/snap/microk8s/{snaps.SNAPS[2].revision}/opt/cni/bin"', "${SNAP"),
        ("certs/csr.conf", "hub.example", "#MOREIPS"),
        ("credentials/client.config", "server: https://127.0.0.1:16443", "10.77.0.11"),
    ],
)
def test_launch_configuration_is_applied_before_the_first_start(file: str, present: str, absent: str) -> None:
    text = run(HEAD, f"cat {DATA}/{file}")
    assert present in text
    assert absent not in text


@pytest.mark.parametrize("host", [HEAD, WORKER])
def test_units_files_ports(host: str) -> None:
    units = ["containerd", "k8s-dqlite", "kubelite", "cluster-agent", "apiserver-kicker"]
    run(host, "systemctl is-active " + " ".join(f"snap.microk8s.daemon-{unit}.service" for unit in units))
    run(host, "systemctl is-enabled snap.microk8s.daemon-apiserver-proxy.service")
    listening = run(host, "ss -Hlntu | awk '{print $5}'")
    for port in ("*:16443", "0.0.0.0:25000", "127.0.0.1:19001", "*:10250", "127.0.0.1:1338", "0.0.0.0:4789"):
        assert port in listening.splitlines()
    run(host, f"test -S {COMMON}/run/containerd.sock; test -d {COMMON}/var/lib/kubelet/pods; getent group microk8s")
    run(host, f"test -L /var/snap/microk8s/current; test {DATA} -ef /var/snap/microk8s/{snaps.SNAPS[2].revision}")


def test_sideloaded_images_are_there_without_a_pull() -> None:
    run(HEAD, f"test -f {COMMON}/etc/sideload/bootstrap.tar.loaded; ! test -e {COMMON}/etc/sideload/bootstrap.tar")
    run(HEAD, f"! ls -A {COMMON}/etc/sideload | grep half")  # a shell's * passes hidden files over
    listed = run(HEAD, "/snap/bin/microk8s ctr images ls -q").splitlines()
    assert {BUSYBOX, *catalogue.load()["calico"]["images"]} <= set(listed)
    for host in ADDRESS:
        assert "PullImage" not in run(host, "journalctl -u snap.microk8s.daemon-containerd --no-pager")


def test_sideload_folder_is_watched() -> None:
    content = archive([catalogue.load()["registry"]["image"]])
    run(HEAD, f"cat > {COMMON}/etc/.late && mv {COMMON}/etc/.late {COMMON}/etc/sideload/late.tar", stdin=content)
    wait(lambda: run(HEAD, f"test -f {COMMON}/etc/sideload/late.tar.loaded", None).code == 0, "import", 20)
    assert catalogue.load()["registry"]["image"] in run(HEAD, "/snap/bin/microk8s ctr images ls -q")


def test_registry_configuration_is_honoured() -> None:
    """A pull goes to the host of hosts.toml, as the event of the pod shows."""
    kubectl("run stranger --image=quay.io/not/there:1 --restart=Never")
    wait(lambda: "127.0.0.1:5999" in kubectl("get events --field-selector=involvedObject.name=stranger"), "event")
    kubectl("delete pod stranger --now")


def test_containerd_has_its_environment_from_the_first_start() -> None:
    unit = "snap.microk8s.daemon-containerd"
    # The installation that failed before this one had to be undone, and for that containerd started too.
    since = f"--since @$(stat -c %Y {DATA}/var/lock/installed.lock)"
    starts = run(HEAD, f"journalctl -u {unit} --no-pager {since} | grep Started")
    assert starts.count("\n") == 1, starts
    environment = run(HEAD, f"tr '\\0' '\\n' < /proc/$(systemctl show -P MainPID {unit})/environ").splitlines()
    assert {f"{name}={value}" for name, value in LAUNCH["extraContainerdEnv"].items()} <= set(environment)
    assert not [line for line in run(WORKER, f"cat {DATA}/args/containerd-env").splitlines() if line.startswith("HTTP")]


def test_the_cni_is_applied_by_itself_and_dns_only_by_default() -> None:
    run(HEAD, f"test -e {DATA}/var/lock/cni-loaded")
    kubectl("-n kube-system rollout status daemonset/calico-node deployment/calico-kube-controllers --timeout=300s")
    kubectl("-n kube-system get deployment coredns", 1)
    on_worker = run(
        WORKER, "/snap/bin/microk8s kubectl -n kube-system rollout status deployment/coredns --timeout=300s"
    )
    assert "successfully rolled out" in on_worker


def _may(host: str, verb_path: str) -> str:
    """Status of a request with a token of a plain service account."""
    server = "https://127.0.0.1:16443"
    return run(
        host,
        "token=$(/snap/bin/microk8s kubectl create token default); curl -sk -o /dev/null -w '%{http_code}' "
        f'-H "Authorization: Bearer $token" {server}{verb_path}',
    )


@pytest.mark.parametrize("path", ["/api/v1/secrets", "/api/v1/nodes", "/api/v1/namespaces/kube-system/pods"])
def test_always_allow_unless_configured(path: str) -> None:
    assert _may(WORKER, path) == "200"
    assert _may(HEAD, path) == "403"


def test_enable_rbac_restarts_the_api_server_with_it() -> None:
    said = run(WORKER, "/snap/bin/microk8s enable rbac")
    assert said.splitlines()[-4:] == [
        "Enabling RBAC", "Reconfiguring apiserver", "Restarting apiserver", "RBAC is enabled",
    ]  # fmt: skip
    assert "--authorization-mode=RBAC,Node" in run(WORKER, f"cat {DATA}/args/kube-apiserver")
    assert _may(WORKER, "/api/v1/secrets") == "403"


# --- status and other commands ---------------------------------------------------------------------------------------


def test_status_yaml() -> None:
    status = yaml.safe_load(run(HEAD, "/snap/bin/microk8s status --format yaml"))
    assert status["microk8s"] == {"running": True}
    assert status["high-availability"] == {"enabled": True, "nodes": [{"address": "127.0.0.1:19001", "role": "voter"}]}
    addons = {addon["name"]: addon for addon in status["addons"]}
    assert addons["rbac"]["status"] == "enabled"
    assert addons["dns"] == {"name": "dns", "repository": "core", "description": "CoreDNS", "version": "1.12.3",
                             "status": "disabled"}  # fmt: skip


ON_THE_HEAD: list[Row] = [
    ("/snap/bin/microk8s status --format short", 0, "microk8s is running\naddons:\ncore/"),
    ("/snap/bin/microk8s status", 0, "high-availability: no\n  datastore master nodes: 127.0.0.1:19001\n"),
    ("/snap/bin/microk8s status -a rbac", 0, "enabled"),
    ("/snap/bin/microk8s status -a core/dns", 0, "disabled"),
    ("/snap/bin/microk8s status -a nothing", 0, "disabled"),
    ("/snap/bin/microk8s status --format json", 2, "invalid choice"),
    ("/snap/bin/microk8s enable rbac", 0, "Addon core/rbac is already enabled"),
    ("/snap/bin/microk8s enable foo", 1, "Addon foo was not found in any repository"),
    ("/snap/bin/microk8s enable core/foo", 0, "Addon core/foo not found"),
    ("/snap/bin/microk8s enable dns:1.2.3.999", 1, "is not a valid and reachable IP address"),
    ("/snap/bin/microk8s config", 0, "server: https://10.77.0.11:16443"),
    ("/snap/bin/microk8s config --use-loopback", 0, "server: https://127.0.0.1:16443"),
    ("/snap/bin/microk8s version", 0, "MicroK8s v1.34.4 revision"),
    ("/snap/bin/microk8s helm3 version", 0, 'Version:"v3.19.5"'),
    ("/snap/bin/microk8s helm list", 0, "NAME"),
    ("/snap/bin/microk8s nonsense", 1, "'nonsense' is not a valid MicroK8s subcommand."),
    ("/snap/bin/microk8s leave", 1, "This MicroK8s deployment is not acting as a node in a cluster."),
    ("/snap/bin/microk8s remove-node", 1, "Please provide the node you want to remove."),
    ("/snap/bin/microk8s remove-node nobody", 1, "Node nobody does not exist in Kubernetes."),
    ("/snap/bin/microk8s remove-node nobody again", 1, "Please provide the node and the optional --force flag."),
    ("/snap/bin/microk8s add-node --token short", 1, "Invalid token size.  It must be 32 characters long."),
    ("/snap/bin/microk8s join example.org:25000/x/y", 1, "Invalid connection: Invalid master IP"),
    ("/snap/bin/microk8s join 10.77.0.12", 1, "Invalid connection: Expected format"),
]


@rows(ON_THE_HEAD)
def test_microk8s_on_the_head(row: int) -> None:
    check(HEAD, ON_THE_HEAD, row)


# --- tokens and join -------------------------------------------------------------------------------------------------


def _new_token(words: str = "") -> str:
    """TOKEN/FINGERPRINT"""
    return json.loads(run(HEAD, f"/snap/bin/microk8s add-node --format json {words}"))["token"]


def _join(check: str, words: str = "--worker", code: int | None = None) -> Result:
    return run(WORKER, f"/snap/bin/microk8s join {ADDRESS[HEAD]}:25000/{check} {words}", code)


def test_add_node() -> None:
    tokens = f"{DATA}/credentials/cluster-tokens.txt"
    told = json.loads(run(HEAD, "/snap/bin/microk8s add-node --format json"))
    token, fingerprint = told["token"].split("/")
    assert told["urls"] == [f"10.77.0.11:25000/{token}/{fingerprint}"]
    served = run(HEAD, "openssl s_client -connect 127.0.0.1:25000 </dev/null 2>/dev/null "
                       "| openssl x509 -outform der | sha256sum")  # fmt: skip
    assert served.startswith(fingerprint)
    assert run(HEAD, f"cat {tokens}").splitlines()[-1] == token
    run(HEAD, f"/snap/bin/microk8s add-node --token {token} --token-ttl 60")
    assert re.fullmatch(rf"{token}\|\d+", run(HEAD, f"cat {tokens}").splitlines()[-1])
    assert len(run(HEAD, "/snap/bin/microk8s add-node --format token").strip()) == 32
    assert "--worker" in run(HEAD, "/snap/bin/microk8s add-node")
    assert yaml.safe_load(run(HEAD, "/snap/bin/microk8s add-node --format yaml"))["urls"]
    assert run(HEAD, "/snap/bin/microk8s add-node --format token-check").strip().endswith(fingerprint)


def test_refused_joins() -> None:
    lock = f"{DATA}/var/lock/join-in-progress"
    token, fingerprint = _new_token().split("/")
    refused = _join(f"{token}/{'0' * 12}", code=4)
    assert "Joining cluster failed. Could not verify the identity of 10.77.0.11" in refused
    unknown = _join(f"{'f' * 32}/{fingerprint}", code=6)
    assert unknown.endswith("Connection failed. Invalid token (500).\n")
    dead = _new_token("--token-ttl 0")
    _join(dead, code=6)
    itself = run(HEAD, f"/snap/bin/microk8s join 10.77.0.11:25000/{token}/{fingerprint} --worker", 6)
    assert "The joining node has the same IP (10.77.0.11) as the node we contact (503)." in itself
    # A failed join leaves its lock, and has used up the token.
    run(HEAD, f"rm {lock}")
    run(WORKER, f"test -e {lock}")
    assert "Invalid token (500)" in _join(f"{token}/{fingerprint}", code=6)
    closed = run(WORKER, f"/snap/bin/microk8s join {ADDRESS[HEAD]}:25001/{token}/{fingerprint} --worker", 1)
    assert "Traceback" in closed


def test_join() -> None:
    # --node-labels is the head's line, then the worker's own; everything else of the worker's file is lost.
    run(WORKER, f"echo --max-pods=17 >> {DATA}/args/kubelet")
    run(HEAD, f"echo --v=1 >> {DATA}/args/kubelet")
    assert "first-found" in run(HEAD, f"cat {DATA}/args/cni-network/cni.yaml")
    once = _new_token()
    said = _join(once, code=0)
    assert said.splitlines()[0] == "Contacting cluster at 10.77.0.11"
    assert "WARNING: Joining a cluster that has a different CIDR." in said
    assert said.endswith("Successfully joined the cluster.\n")
    assert "Invalid token (500)" in _join(once, code=6)
    run(WORKER, f"rm {DATA}/var/lock/join-in-progress; test -e {DATA}/var/lock/clustered.lock")
    arguments = run(WORKER, f"cat {DATA}/args/kubelet")
    assert "--v=1" in arguments
    assert "--max-pods" not in arguments
    assert "--client-ca-file=${SNAP_DATA}/certs/ca.remote.crt" in arguments
    assert "10.77.0.11:16443" in run(WORKER, f"cat {DATA}/args/traefik/provider.yaml")
    assert 'value: "can-reach=10.77.0.12"' in run(HEAD, f"cat {DATA}/args/cni-network/cni.yaml")
    assert "datastore master nodes: 10.77.0.11:19001" in run(HEAD, "/snap/bin/microk8s status")
    wait(lambda: _ready(WORKER), "worker Ready")
    labels = json.loads(kubectl(f"get node {WORKER} -o json"))["metadata"]["labels"]
    assert labels["node.kubernetes.io/microk8s-worker"] == "microk8s-worker"
    assert "node.kubernetes.io/microk8s-controlplane" not in labels
    kubectl("-n kube-system rollout status daemonset/calico-node --timeout=300s")


def _ready(node: str) -> bool:
    path = """'{.status.conditions[?(@.type=="Ready")].status}'"""
    return kubectl(f"get node {node} -o jsonpath={path}", None) == "True"


ON_A_WORKER: list[Row] = [
    (
        "/snap/bin/microk8s status",
        0,
        "This MicroK8s deployment is acting as a node in a cluster.\nPlease use the control plane node.",
    ),
    ("/snap/bin/microk8s kubectl get nodes", 0, "Please use the microk8s kubectl on the master."),
    ("/snap/bin/microk8s config", 0, "Please use the microk8s config on the master."),
    ("/snap/bin/microk8s helm list", 0, "Please use the microk8s helm on the master."),
    ("/snap/bin/microk8s start", 0, "Use 'snap start microk8s' to start services on this node."),
    ("/snap/bin/microk8s stop", 0, "Use 'snap stop microk8s' to stop services on this node."),
    ("/snap/bin/microk8s add-node", 1, "Please use the microk8s add-node on the master."),
    ("/snap/bin/microk8s enable dns", 1, "This MicroK8s deployment is acting as a node in a cluster."),
    ("/snap/bin/microk8s remove-node head", 1, "Please use microk8s leave."),
    ("/snap/bin/microk8s ctr version", 0, "Server:"),
]


@rows(ON_A_WORKER)
def test_microk8s_on_a_worker(row: int) -> None:
    check(WORKER, ON_A_WORKER, row)


# --- the network -----------------------------------------------------------------------------------------------------


def _pod(name: str, node: str, command: list[str]) -> dict:
    container = {"name": "main", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": command}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container]},
    }


POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "closed"},
    "spec": {"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"]},
}


def _reaches() -> bool:
    address = kubectl("get pod server -o jsonpath={.status.podIP}")
    return kubectl(f"exec client -- wget -q -T 1 -O - http://{address}:8080/", None).strip() == "server"


def test_pods_of_two_hosts_and_a_policy() -> None:
    serve = "mkdir /tmp/w; hostname > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w"
    pods = [_pod("server", HEAD, ["sh", "-c", serve]), _pod("client", WORKER, ["sleep", "1000000"])]
    kubectl("create -f -", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}).encode())
    kubectl("wait pod server client --for=condition=Ready --timeout=300s")
    assert kubectl("get pod server -o jsonpath={.status.podIP}").startswith("10.3.")
    for pod in ("server", "client"):
        # The underlay's 1500 less VXLAN's 50, also on the node that `can-reach` names.
        assert kubectl(f"exec {pod} -- cat /sys/class/net/eth0/mtu").strip() == "1450"
    wait(_reaches, "pod to pod", 20)
    kubectl("create -f -", stdin=json.dumps(POLICY).encode())
    wait(lambda: not _reaches(), "policy", 20)
    kubectl("delete networkpolicy closed")
    wait(_reaches, "policy gone", 20)


# --- restarts --------------------------------------------------------------------------------------------------------


def _started(pod: str) -> str:
    return kubectl(f"get pod {pod} -o jsonpath={{.status.containerStatuses[0].containerID}}")


@pytest.mark.parametrize("unit", ["kubelite", "containerd"])
def test_pods_outlive_a_restart_of(unit: str) -> None:
    before = _started("server")
    run(HEAD, f"systemctl restart snap.microk8s.daemon-{unit}")
    wait(lambda: run(HEAD, "/snap/bin/microk8s status", None).code == 0 and _ready(HEAD), f"{unit} restarted")
    wait(_reaches, "pod to pod", 30)
    assert _started("server") == before


def test_worker_comes_back_after_a_reboot() -> None:
    before = _started("client")
    HOSTS.reboot(WORKER)
    wait(lambda: run(WORKER, "systemctl is-active snap.microk8s.daemon-kubelite", None).strip() == "active", "kubelite")
    wait(lambda: _ready(WORKER) and _started("client") not in ("", before), "pod after the reboot")
    wait(_reaches, "pod to pod", 60)


def test_stopped_and_started() -> None:
    run(HEAD, "/snap/bin/microk8s stop")
    stopped = run(HEAD, "/snap/bin/microk8s status")
    assert stopped == "microk8s is not running, try microk8s start\n"
    run(HEAD, "! systemctl is-active --quiet snap.microk8s.daemon-containerd && ! pgrep -f '[c]ontainerd-shim'")
    assert "microk8s is not running, try microk8s start" in run(HEAD, "/snap/bin/microk8s kubectl get nodes", 1)
    run(HEAD, "/snap/bin/microk8s start && /snap/bin/microk8s status --wait-ready --timeout 60")
    wait(lambda: _ready(HEAD) and _ready(WORKER), "nodes Ready")


def test_not_ready_is_an_error() -> None:
    run(HEAD, "systemctl stop snap.microk8s.daemon-kubelite")
    try:
        for words in ("status", "status --wait-ready --timeout 1"):
            told = run(HEAD, f"/snap/bin/microk8s {words}", 1)
            assert told == "microk8s is not running. Use microk8s inspect for a deeper inspection.\n"
        status = yaml.safe_load(run(HEAD, "/snap/bin/microk8s status --format yaml", 1))
        assert status["microk8s"]["running"] is False
        assert "addons" not in status
    finally:
        run(HEAD, "systemctl start snap.microk8s.daemon-kubelite")
    wait(lambda: run(HEAD, "/snap/bin/microk8s status", None).code == 0, "API server")


def test_enable_dns_and_launch_configuration_of_a_running_node() -> None:
    said = run(HEAD, "/snap/bin/microk8s enable dns")
    for line in ("Enabling DNS", "Applying manifest", "CoreDNS service deployed with IP address 10.152.183.10",
                 "DNS is enabled"):  # fmt: skip
        assert line in said.splitlines()
    # An add-on counts as enabled once its pod exists, as with the real one.
    wait(lambda: "pod/coredns" in kubectl("get pods -n kube-system -o name", code=None), "CoreDNS has a pod")
    assert run(HEAD, "/snap/bin/microk8s enable dns:10.77.0.1") == (
        "Infer repository core for addon dns\nAddon core/dns is already enabled\n"
    )
    config = {"version": "0.1.0", "extraKubeAPIServerArgs": {"--service-node-port-range": "29781-32767"}}
    run(HEAD, f"snap set microk8s config='{json.dumps(config)}'")
    wait(lambda: "29781-32767" in run(HEAD, "ps -eo args"), "API server with the new argument", 60)
    wait(lambda: "snap-config" in run(HEAD, f"ls {COMMON}/etc/launcher/*.applied"), "applied", 10)
    wait(lambda: _ready(HEAD), "head Ready")


# --- the end ---------------------------------------------------------------------------------------------------------


def test_leave_and_remove_node() -> None:
    assert "so it cannot leave the cluster" in run(HEAD, "/snap/bin/microk8s leave", 3)
    said = run(WORKER, "/snap/bin/microk8s leave")
    lines = [line.strip() for line in said.splitlines()]
    assert lines[:2] == ["Configuring services.", "Generating new cluster certificates."]
    assert lines[2].startswith("Waiting for node to start.")
    run(WORKER, f"! test -e {DATA}/var/lock/clustered.lock && /snap/bin/microk8s status --wait-ready --timeout 60")
    # It does not delete the node.
    kubectl(f"get node {WORKER}")
    assert run(HEAD, f"/snap/bin/microk8s remove-node {ADDRESS[WORKER]}") == ""
    kubectl(f"get node {WORKER}", 1)
    # What waits for the node must not start in the network of the cluster that the node was alone in.
    kubectl("create -f -", stdin=json.dumps(_pod("early", WORKER, ["sleep", "1000000"])).encode())
    persistent = f"{TOKEN}/{_new_token().split('/')[1]}"
    for _ in range(2):
        _join(persistent, code=0)
    kubectl("wait pod early --for=condition=Ready --timeout=300s")
    subnet = ip_network(kubectl(f"get node {WORKER} -o jsonpath={{.spec.podCIDR}}"))
    assert ip_address(kubectl("get pod early -o jsonpath={.status.podIP}")) in subnet


def test_certificate_names_an_extra_address() -> None:
    certificate = run(HEAD, f"cat {DATA}/certs/server.crt")
    assert base64.b64decode("".join(certificate.splitlines()[1:-1]))
    names = run(HEAD, f"openssl x509 -noout -ext subjectAltName -in {DATA}/certs/server.crt")
    for name in ("DNS:hub.example", "IP Address:10.77.0.99", "IP Address:10.77.0.11", "IP Address:10.152.183.1"):
        assert name in names
