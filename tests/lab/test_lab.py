"""The lab's hosts and network, on an instance of their own: needs root; under a minute once the template is built."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPOSITORY / "lab"))

from gpuhub_lab import instance, sink, storage, template
from gpuhub_lab.cache import CACHE

NAME = "labtest"
NEIGHBOUR = "labtest-b"
RUN = Path("/run/gpuhub-lab", NAME)


def lab(*arguments: str, name: str = NAME, code: int | None = 0, stdin: str | None = None, seconds: float = 600) -> str:
    """Run the lab's command line and return what it printed; `code` is the exit code it must have (None: any)."""
    done = subprocess.run(
        [sys.executable, REPOSITORY / "lab" / "lab", *arguments],
        env={**os.environ, "GPUHUB_LAB_NAME": name},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert code is None or done.returncode == code, f"lab {' '.join(arguments)}: {done.returncode}\n{done.stderr}"
    return done.stdout + done.stderr


def wait_until(condition: Callable[[], object], seconds: float = 300) -> None:
    """Wait for a condition; fail if it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


def releases(name: str = NAME) -> dict[str, str]:
    """What each host says it is; that the lab says the same is checked."""
    hosts = {host["name"]: host["os"] for host in json.loads(lab("status", "--json", name=name))["hosts"]}
    for host, suite in hosts.items():
        assert f"VERSION_CODENAME={suite}\n" in lab("exec", host, "cat", "/etc/os-release", name=name)
    return hosts


def boots(name: str = NAME) -> dict[str, str]:
    """Boot id of each host, which changes whenever it starts."""
    hosts = [host["name"] for host in json.loads(lab("status", "--json", name=name))["hosts"]]
    return {host: lab("exec", host, "cat", "/proc/sys/kernel/random/boot_id", name=name) for host in hosts}


def cgroups(name: str) -> list[str]:
    """Folders of an instance in the hierarchies of cgroups."""
    return [
        str(Path(path, folder))
        for path, folders, _ in os.walk("/sys/fs/cgroup")
        for folder in folders
        if folder == f"gpuhub-lab.{name}"
    ]


def processes(name: str) -> set[int]:
    """Everything that runs for an instance: hosts, their supervisors, the network's daemons, the bastion's commands."""
    found = set()
    for folder in cgroups(name):
        # What ends meanwhile takes its folder along: os.walk passes it over.
        for path, _, _ in os.walk(folder):
            with suppress(FileNotFoundError):
                found.update(int(pid) for pid in Path(path, "cgroup.procs").read_text().split())
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"/run/gpuhub-lab/{name}/".encode() in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
        except FileNotFoundError:
            continue
    if Path(f"/run/netns/{name}-sw").exists():
        listed = subprocess.run(["ip", "netns", "pids", f"{name}-sw"], capture_output=True, text=True)
        found.update(int(pid) for pid in listed.stdout.split())
    return found


def kill_everything(name: str) -> None:
    """End all processes of an instance the hard way; mounts, namespaces, cgroups and files stay."""
    while left := processes(name):
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def remains(name: str) -> dict[str, list[str]]:
    """What there is of an instance on this machine, by kind; only kinds of which there is something."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    loops = subprocess.run(
        ["losetup", "--list", "--noheadings", "--output", "BACK-FILE"], capture_output=True, text=True
    )
    pattern = re.compile(rf"/gpuhub-lab/{name}(/|\.btrfs|$)")
    found = {
        "processes": sorted(str(pid) for pid in processes(name)),
        "mounts": [path for path in mounts if pattern.search(path)],
        "loop devices": [line for line in loops.stdout.splitlines() if pattern.search(line)],
        "namespaces": [
            path.name
            for path in Path("/run").glob("netns/*")
            if re.fullmatch(rf"{name}-(sw|head|worker\d+)", path.name)
        ],
        "cgroups": cgroups(name),
        "files": [
            str(path)
            for parent in ("/run/gpuhub-lab", "/var/lib/gpuhub-lab")
            for path in Path(parent).glob(f"{name}*")
            if path.name in (name, f"{name}.btrfs")
        ],
    }
    return {kind: items for kind, items in found.items() if items}


@pytest.fixture(scope="module", autouse=True)
def up() -> Iterator[None]:
    """One lab of two hosts, one of each release, for all tests; each leaves both running."""
    lab("clean")
    lab("up", "--workers", "1", "--os", "worker1=bookworm")
    yield
    lab("clean")
    assert remains(NAME) == {}


def test_second_up_changes_nothing() -> None:
    before = boots()
    assert sorted(before) == ["head", "worker1"]
    said = lab("up")
    assert "starting" not in said
    assert boots() == before


def test_hosts_are_whole_and_distinct() -> None:
    seen = {}
    for host in ("head", "worker1"):
        # Strict host key checking: each host has the key that the lab wrote down.
        seen[host] = lab("ssh", host, "hostname; cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub").split()[:4]
        assert seen[host][0] == host
        assert lab("ssh", host, "systemctl is-system-running --wait").strip() == "running"
        lab("exec", host, "python3", "-m", "venv", "--without-pip", "/tmp/venv")
        assert lab("exec", host, "sh", "-c", "modprobe br_netfilter && ! modprobe not_a_module").count("FATAL") == 1
    assert seen["head"][1] != seen["worker1"][1]
    assert seen["head"][3] != seen["worker1"][3]
    lab("exec", "worker1", "python3", "-c", "import socket; socket.create_connection(('head', 22), 3)")


def test_hosts_differ_in_their_release() -> None:
    assert releases() == {"head": "trixie", "worker1": "bookworm"}
    before = boots()
    lab("up", "--os", "worker1=bookworm", "--os", "worker2=bookworm")
    for wrong, code, text in (
        ("worker1=sid", 2, "is called 'sid': there are trixie and bookworm"),
        ("worker1", 2, "is called '': there are trixie and bookworm"),
        ("node1=trixie", 2, "no host is called 'node1'"),
        ("worker1=trixie", 1, "worker1 is installed with bookworm and stays so; for trixie begin with `lab clean`"),
    ):
        assert text in lab("up", "--os", wrong, code=code)
    assert boots() == before
    # Remembered of a host that is made later only.
    assert storage.Storage(instance.Instance(NAME)).facts()["os"] == {"worker1": "bookworm", "worker2": "bookworm"}


def test_exit_codes_and_input_pass_through() -> None:
    lab("exec", "head", "sh", "-c", "exit 7", code=7)
    lab("ssh", "head", "exit 8", code=8)
    assert lab("exec", "head", "cat", stdin="text") == "text"
    lab("exec", "nobody", "true", code=1)


def test_run_is_the_bastion() -> None:
    said = lab("run", "sh", "-c", f"cat /etc/resolv.conf; ssh -F {RUN}/ssh_config worker1 hostname; exit 9", code=9)
    assert said.splitlines() == ["nameserver 10.77.0.1", "worker1"]
    # The labs' mounts are not kept busy by it, and lab commands in it still act on the machine.
    assert " /run/gpuhub-lab/" in Path("/proc/mounts").read_text()
    assert " /run/gpuhub-lab/" not in lab("run", "cat", "/proc/mounts")
    inside = ("run", sys.executable, str(REPOSITORY / "lab" / "lab"))
    lab(*inside, "kill", "worker1")
    assert f"{RUN}/worker1/root" not in remains(NAME)["mounts"]
    lab(*inside, "start", "worker1")
    assert f"{RUN}/worker1/root" in remains(NAME)["mounts"]
    assert lab("ssh", "worker1", "hostname") == "worker1\n"


def test_a_reboot_keeps_identity_and_files_only() -> None:
    identity = ("cat", "/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub", "/root/kept", "/var/snap/kept")
    lab("exec", "worker1", "sh", "-c", "echo kept | tee /root/kept /var/snap/kept /run/lost; iptables -N LOST")
    before, boot = lab("exec", "worker1", *identity), boots()["worker1"]
    lab("ssh", "worker1", "systemctl reboot", code=None)
    wait_until(lambda: lab("ssh", "worker1", "cat /proc/sys/kernel/random/boot_id", code=None) not in ("", boot))
    wait_until(lambda: "up" in lab("ssh", "worker1", "echo up", code=None))
    assert lab("exec", "worker1", *identity) == before
    lab("exec", "worker1", "test", "-e", "/run/lost", code=1)
    lab("exec", "worker1", "iptables", "-nL", "LOST", code=1)


def test_kill_is_a_crash_and_start_boots() -> None:
    lab("exec", "worker1", "systemd-run", "--unit=witness", "-p", "ExecStop=touch /root/in-order", "sleep", "infinity")
    head = boots()["head"]
    lab("kill", "worker1")
    assert [h["state"] for h in json.loads(lab("status", "--json"))["hosts"]] == ["up", "down"]
    lab("exec", "worker1", "true", code=1)
    lab("start", "worker1")
    lab("ssh", "worker1", "test ! -e /root/in-order")
    assert boots()["head"] == head
    # The control: a shutdown in order does run it.
    lab("exec", "worker1", "systemd-run", "--unit=witness", "-p", "ExecStop=touch /root/in-order", "sleep", "infinity")
    lab("down")
    assert set(remains(NAME)) == {"mounts", "loop devices", "files"}
    lab("up")
    lab("exec", "worker1", "rm", "/root/in-order")


def test_save_and_load() -> None:
    places = ("/root/file", "/var/snap/file", "/mnt/shared/file")
    lab("exec", "worker1", "sh", "-c", f"echo saved | tee {' '.join(places)}")
    lab("save", "before")
    for host in ("head", "worker1"):
        assert lab("exec", host, "cat", "/mnt/shared/file") == "saved\n"
    lab("exec", "worker1", "sh", "-c", f"echo later | tee {' '.join(places)}; rm -r /etc/ssh/moduli; touch /root/new")
    lab("load", "before")
    assert lab("ssh", "worker1", f"cat {' '.join(places)}") == "saved\n" * 3
    lab("ssh", "worker1", "test -s /etc/ssh/moduli && ! test -e /root/new")
    assert json.loads(lab("status", "--json"))["saves"] == ["before"]
    before = boots()
    lab("load", "before", "--from", NAME, name=NEIGHBOUR)
    assert lab("ssh", "worker1", f"cat {' '.join(places)}", name=NEIGHBOUR) == "saved\n" * 3
    assert releases(NEIGHBOUR) == releases()
    pinned = {path.name.rpartition("-")[0] for path in (CACHE / "builds/.pins" / NEIGHBOUR).iterdir()}
    assert pinned == {"template-trixie", "template-bookworm"}
    assert "no save 'absent'" in lab("load", "absent", "--from", NAME, name=NEIGHBOUR, code=1)
    lab("clean", name=NEIGHBOUR)
    assert "no save 'absent'" in lab("load", "absent", code=1)
    assert "cannot name a lab" in lab("load", "before", "--from", "../x", code=1)
    assert "cannot name a save" in lab("save", "../x", code=1)
    assert boots() == before


def test_attempts_to_get_out_are_counted() -> None:
    connect = "import socket; socket.create_connection(('{}', 443), 5)"
    datagram = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('{}', 99))"
    lab("attempts", "--reset")
    assert json.loads(lab("attempts")) == {"lookups": [], "packets": []}
    places = {"10.77.0.1": ("run", sys.executable), "10.77.0.12": ("exec", "worker1", "python3")}
    for number, place in enumerate(places.values()):
        lab(*place, "-c", f"import socket; socket.getaddrinfo('planted{number}.example', 80)", code=1)
        lab(*place, "-c", connect.format("192.0.2.77"), code=1)
        lab(*place, "-c", datagram.format("198.51.100.7"), code=None)
    lab("exec", "worker1", "ping", "-c1", "-W1", "203.0.113.9", code=1)
    # What stays inside is not counted.
    lab("exec", "worker1", "ping", "-c1", "head")
    lab("run", sys.executable, "-c", "import socket; socket.create_connection(('10.77.0.11', 22), 3)")
    counted = json.loads(lab("attempts", "--reset"))
    assert {(look["source"], look["name"], look["type"]) for look in counted["lookups"]} == {
        (source, f"planted{number}.example.", kind) for number, source in enumerate(places) for kind in ("A", "AAAA")
    }
    assert {tuple(packet.values()) for packet in counted["packets"]} == {
        *((source, "192.0.2.77", "tcp", 443, 1) for source in places),
        *((source, "198.51.100.7", "udp", 99, 1) for source in places),
        ("10.77.0.12", "203.0.113.9", "icmp", None, 1),
    }
    assert json.loads(lab("attempts")) == {"lookups": [], "packets": []}
    # By TCP too, for resolvers that prefer it.
    query = (
        b"\x00\x1d"
        + b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
        + b"\x03tcp\x07planted\x00"
        + b"\x00\x10\x00\x01"
    )
    ask = (
        f"import socket; s = socket.create_connection(('10.77.0.1', 53), 3); s.sendall({query!r}); print(s.recv(99)[5])"
    )
    assert lab("exec", "head", "python3", "-c", ask) == "131\n"  # recursion available, no such name
    assert [(look["name"], look["type"]) for look in json.loads(lab("attempts"))["lookups"]] == [
        ("tcp.planted.", "TXT")
    ]


# A file that the head serves at each port that is published.
PAGES = {30080: Path("/usr/share/common-licenses/GPL-3"), 29781: Path("/etc/os-release")}


def fetch(port: int) -> str | None:
    """What this machine's loopback answers; None where nobody does."""
    url = f"http://127.0.0.1:{port}/{PAGES[port].name}"
    done = subprocess.run(["curl", "-sf", url], capture_output=True, text=True)
    return None if done.returncode == 7 else done.stdout


def test_publish() -> None:
    for port, page in PAGES.items():
        server = ["python3", "-m", "http.server", str(port), "-d", str(page.parent)]
        lab("exec", "head", "systemd-run", f"--unit=page-{port}", *server)
        wait_until(lambda port=port: lab("exec", "head", "ss", "-Hltn", "sport", "=", str(port)))
        assert fetch(port) is None
    for _ in range(2):
        assert lab("publish") == "http://127.0.0.1:30080/\n"
    for port, page in PAGES.items():
        assert fetch(port) == lab("exec", "head", "cat", str(page))
    lab("publish", "--stop")
    for port in PAGES:
        assert fetch(port) is None
        lab("exec", "head", "systemctl", "stop", f"page-{port}")


def test_labs_side_by_side() -> None:
    before = boots()
    try:
        lab("up", "--workers", "0", name=NEIGHBOUR)
        assert lab("ssh", "head", "hostname; ls /mnt/shared", name=NEIGHBOUR) == "head\n"
        assert boots(NEIGHBOUR)["head"] != before["head"]
    finally:
        lab("clean", name=NEIGHBOUR)
    assert remains(NEIGHBOUR) == {}
    assert boots() == before
    assert "starting" not in lab("up")


@pytest.mark.parametrize("point", [f"/run/netns/{NAME}-sw", f"{RUN}/head/root/etc", f"{RUN}/head/supervisor.lock", ""])
def test_up_after_everything_was_killed(point: str) -> None:
    """Killed while `up` had just made `point`, or (none) when all was up."""
    lab("exec", "head", "sh", "-c", "echo kept > /root/kept")
    if point:
        lab("down")
        Path(RUN, "head", "supervisor.lock").unlink()
        starting = subprocess.Popen(
            [sys.executable, REPOSITORY / "lab" / "lab", "up"],
            env={**os.environ, "GPUHUB_LAB_NAME": NAME},
            stderr=subprocess.DEVNULL,
        )
        wait_until(Path(point).exists)
        starting.kill()
        starting.wait()
    kill_everything(NAME)
    assert {"mounts", "namespaces"} <= set(remains(NAME))
    lab("up")
    mounts = remains(NAME)["mounts"]
    assert sorted(mounts) == sorted({*mounts})
    for host in ("head", "worker1"):
        assert lab("ssh", host, "hostname").strip() == host
    assert lab("exec", "head", "cat", "/root/kept") == "kept\n"


def test_up_after_a_supervisor_was_killed() -> None:
    """The host goes on without it: nobody would start it again, nor shut it down."""
    before = boots()
    supervisor = next(
        pid for pid in processes(NAME) if f"{RUN}/worker1/supervisor.lock" in Path(f"/proc/{pid}/cmdline").read_text()
    )
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: [host["state"] for host in json.loads(lab("status", "--json"))["hosts"]] == ["up", "down"])
    lab("up")
    after = boots()
    assert after["head"] == before["head"]
    assert after["worker1"] != before["worker1"]
    running = subprocess.run(["ip", "netns", "pids", f"{NAME}-worker1"], capture_output=True, text=True).stdout.split()
    assert {Path(f"/proc/{pid}/ns/pid").readlink() for pid in running} == {
        Path(f"/proc/{running[0]}/ns/pid").readlink()
    }


def test_clean_after_everything_was_killed_leaves_nothing() -> None:
    assert len(remains(NAME)) == 6
    kill_everything(NAME)
    lab("clean")
    assert remains(NAME) == {}
    assert "no lab labtest" in lab("exec", "head", "true", code=1)
    lab("clean")
    lab("up", "--workers", "1")


# Parts


@pytest.mark.parametrize("btrfs", [True, False])
def test_storage_survives_a_killed_load(btrfs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance, "_STATE", tmp_path)
    monkeypatch.setattr(storage.Storage, "has_btrfs", staticmethod(lambda: btrfs))
    kept = storage.Storage(instance.Instance("labtest-storage"))
    try:
        kept.mount()
        assert kept.instance.state.is_mount() == btrfs
        kept.create()
        kept.use("trixie", tmp_path)
        (kept.live / "shared/file").write_text("saved")
        kept.save("one")
        (kept.live / "shared/file").write_text("later")
        # Killed between the two renames of a load.
        kept.live.rename(kept.instance.state / "live.old")
        kept.mount()
        assert (kept.live / "shared/file").read_text() == "later"
        kept.load("one")
        assert (kept.live / "shared/file").read_text() == "saved"
        kept.save("one")
        assert kept.names() == ["one"]
        tmp_path.joinpath("gone").mkdir()
        kept.note(templates={"trixie": str(tmp_path), "bookworm": str(tmp_path / "absent")})
        with pytest.raises(instance.LabError, match="absent, which is gone"):
            kept.templates()
    finally:
        kept.destroy()
    assert [path.name for path in tmp_path.iterdir()] == ["gone"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"sources.list": "deb [signed-by=/k.gpg arch=amd64] http://mirror.test/d bookworm main # near\n"},
            template.Mirror("http://mirror.test/d", "/k.gpg"),
        ),
        (
            {
                "sources.list": "# nothing\ndeb http://other.test/x stable main\n",
                "sources.list.d/debian.sources": """# a comment
Types: deb
URIs: http://mirror.test/s
Suites: bookworm-security
Components: main
Signed-By: /k/debian-archive-keyring.gpg

Types: deb deb-src
URIs:
 http://mirror.test/d
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By:
 -----BEGIN KEY-----
 x
""",
            },
            template.Mirror("http://mirror.test/d", None),
        ),
    ],
)
def test_mirror_of_the_machine(files: dict[str, str], expected: template.Mirror, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    release = tmp_path / "os-release"
    release.write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
    assert template.mirror(tmp_path, release) == expected


def test_no_mirror_names_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = tmp_path / "os-release"
    release.write_text("ID=ubuntu\nVERSION_CODENAME=noble\n")
    (tmp_path / "sources.list").write_text("deb http://archive.test/ubuntu noble main\n")
    with pytest.raises(instance.LabError, match="GPUHUB_LAB_DEBIAN_MIRROR"):
        template.mirror(tmp_path, release)
    monkeypatch.setenv("GPUHUB_LAB_DEBIAN_MIRROR", "http://mirror.test/d")
    assert template.mirror(tmp_path, release).uri == "http://mirror.test/d"


@pytest.mark.parametrize(
    "message", [b"", b"\0" * 11, b"\0" * 12, b"\0\0\1\0\0\1" + b"\0" * 6 + b"\x3fshort", b"\xff" * 40]
)
def test_sink_survives_what_is_no_question(message: bytes, tmp_path: Path) -> None:
    reply = sink.answer(message, "10.77.0.11", tmp_path / "log")
    assert (reply is None) == (len(message) < 12)
    if reply:
        assert reply[3] & 15 == 1
        assert json.loads((tmp_path / "log").read_text())["type"] == ""
