"""Artefacts `template-SUITE`: the root file system of hosts, Debian as a bare server has it, and our doubles."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import gpus
from .cache import LAB, artefact, fingerprint, say
from .instance import GATEWAY, MAX_WORKERS, address, names, number
from .process import LabError, sh

# What hosts are installed with that nothing is said of, and what the lab's images, snaps and packages come from.
SUITE = "trixie"
SUITES = (SUITE, "bookworm")
FILES = LAB / "host"
SNAP_DOUBLE = LAB / "doubles" / "snap"

# Neither containerd nor runc nor pip: what is not on a bare server must come with the product.
PACKAGES = (
    "systemd", "systemd-sysv", "libpam-systemd", "dbus", "openssh-server", "sudo", "kmod", "procps",
    "python3", "python3-apt", "python3-yaml", "openssl", "ca-certificates", "curl",
    "iproute2", "iptables", "nftables", "conntrack", "ipset", "ethtool", "iputils-ping", "socat",
    "tar", "zstd", "squashfs-tools", "ufw", "firewalld",
)  # fmt: skip

# Timers that would look up mirrors by themselves, and services that a container cannot have.
MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer",
          "systemd-timesyncd.service", "getty@.service", "console-getty.service")  # fmt: skip

# There, as on many servers, and not active: Debian enables it with its installation (ufw it does not).
DISABLED = ("firewalld.service",)


@dataclass(frozen=True)
class Mirror:
    """A Debian archive as this machine's apt is set up to use it."""

    uri: str
    keyring: str | None


def parse(text: str) -> tuple[str, str]:
    """Host and suite of `HOST=SUITE`; ValueError says what is wrong."""
    host, _, suite = text.partition("=")
    try:
        number(host)
    except LabError as error:
        raise ValueError(str(error)) from None
    if suite not in SUITES:
        raise ValueError(f"no release that hosts can have is called {suite!r}: there are {' and '.join(SUITES)}")
    return host, suite


def of(host: str, chosen: Mapping[str, str]) -> str:
    """The suite of a host: as `chosen` (host: suite) says, else SUITE."""
    return chosen.get(host, SUITE)


def _stanzas(folder: Path) -> list[dict[str, str]]:
    """Entries of an apt configuration folder, one-line or deb822, by the field names of deb822 in lower case."""
    found = []
    lists = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*.list"))]
    for line in (line for path in lists if path.is_file() for line in path.read_text().splitlines()):
        kind, _, rest = line.partition("#")[0].strip().partition(" ")
        options = {}
        if rest.lstrip().startswith("["):
            inside, _, rest = rest.lstrip()[1:].partition("]")
            options = dict(option.split("=", 1) for option in inside.split() if "=" in option)
        words = rest.split()
        if kind == "deb" and len(words) >= 2:
            uri, suite, *components = words
            found.append(
                {
                    "types": kind,
                    "uris": uri,
                    "suites": suite,
                    "components": " ".join(components),
                    "signed-by": options.get("signed-by", ""),
                }
            )
    for path in sorted((folder / "sources.list.d").glob("*.sources")):
        for block in path.read_text().split("\n\n"):
            fields: dict[str, str] = {}
            name = ""
            for line in block.splitlines():
                if line.startswith("#"):
                    continue
                if line[:1] in (" ", "\t"):
                    fields[name] += "\n" + line.strip()
                elif ":" in line:
                    name, _, value = line.partition(":")
                    name = name.strip().lower()
                    fields[name] = value.strip()
            if "uris" in fields and fields.get("enabled", "yes").lower() != "no":
                found.append(fields)
    return found


def mirror(folder: Path = Path("/etc/apt"), release: Path = Path("/etc/os-release")) -> Mirror:
    """The Debian mirror that this machine's apt uses; GPUHUB_LAB_DEBIAN_MIRROR names another one."""
    named = os.environ.get("GPUHUB_LAB_DEBIAN_MIRROR")
    if named:
        return Mirror(named, None)
    machine = dict(line.split("=", 1) for line in release.read_text().splitlines() if "=" in line)
    own_suite = machine.get("VERSION_CODENAME") if machine.get("ID") == "debian" else None
    for fields in _stanzas(folder):
        keyring = fields.get("signed-by", "")
        if (
            "deb" in fields.get("types", "").split()
            and "main" in fields.get("components", "").split()
            and not all("security" in suite for suite in fields.get("suites", "").split())
            and (own_suite in fields.get("suites", "").split() or "debian-archive-keyring" in keyring)
        ):
            return Mirror(fields["uris"].split()[0], keyring if re.fullmatch(r"/\S+", keyring) else None)
    raise LabError(
        f"the apt configuration in {folder} names no Debian mirror; "
        f"set GPUHUB_LAB_DEBIAN_MIRROR to one that has {' and '.join(SUITES)}"
    )


def _debian(folder: Path, suite: str) -> None:
    """Fill `folder` with `root.tar`: the suite's packages, untouched."""
    source = mirror()
    say(f"installing Debian {suite} from {source.uri} into a root file system, about a minute")
    keyring = ["--keyring", source.keyring] if source.keyring else []
    proxies = [line for line in sh("apt-config", "dump").splitlines() if re.match(r"Acquire::https?::Proxy\b", line)]
    done = subprocess.run(
        [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            '--aptopt=Acquire::Languages "none"',
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            *keyring,
            *(f"--aptopt={line}" for line in proxies),
            f"--include={','.join(PACKAGES)}",
            suite,
            str(folder / "root.tar"),
            source.uri,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise LabError(f"mmdebstrap ended with {done.returncode}:\n{done.stdout[-3000:]}")


def _fill(root: Path, debian: Path, programs: Path) -> None:
    """Unpack Debian into `root` and add what makes it a host of the lab; `programs` has that of its GPUs."""
    sh("tar", "-C", root, "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xf", debian / "root.tar")
    root.chmod(0o755)
    hosts = [f"{address(host)} {host}" for host in names(MAX_WORKERS)]
    (root / "etc/hosts").write_text("\n".join(["127.0.0.1 localhost", "::1 ip6-localhost ip6-loopback", *hosts]) + "\n")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_text(f"nameserver {GATEWAY}\n")
    # A host gets an identity of its own when it is made.
    for path in (root / "etc/machine-id", root / "etc/apt/sources.list", root / "etc/default/locale"):
        path.write_text("")
    for path in (root / "etc/ssh").glob("ssh_host_*"):
        path.unlink()
    for folder in ("root/.ssh", "var/snap", "mnt/shared"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "root/.ssh").chmod(0o700)
    for unit in MASKED:
        (root / "etc/systemd/system" / unit).unlink(missing_ok=True)
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    sh("systemctl", f"--root={root}", "--quiet", "disable", *DISABLED)
    for source in sorted(p for p in FILES.rglob("*") if p.is_file()):
        target = root / source.relative_to(FILES)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
    if (SNAP_DOUBLE / "snap").is_file():
        shutil.copyfile(SNAP_DOUBLE / "snap", root / "usr/bin/snap")
        (root / "usr/bin/snap").chmod(0o755)
    shutil.copyfile(programs / gpus.PROGRAM, root / "usr/local/bin" / gpus.PROGRAM)
    (root / "usr/local/bin" / gpus.PROGRAM).chmod(0o755)
    for unit in gpus.UNITS:
        shutil.copyfile(gpus.SOURCE / unit, root / "usr/lib/systemd/system" / unit)
    sh("systemctl", f"--root={root}", "--quiet", "enable", gpus.UNITS[0])


def _inputs(suite: str) -> list[Path | str]:
    double = [SNAP_DOUBLE] if (SNAP_DOUBLE / "snap").is_file() else []
    return [suite, " ".join(PACKAGES), Path(__file__), FILES, *double, *gpus.inputs()]


def is_newest(suite: str, folder: Path) -> bool:
    """Whether `folder` is what `build` would return."""
    return folder.name.endswith(f"-{fingerprint(_inputs(suite))}")


def debian(suite: str = SUITE) -> Path:
    """Folder with `root.tar`, Debian as a bare server has it. It is kept apart, so that a change of our own files takes
    seconds."""
    return artefact(f"debian-{suite}", [suite, " ".join(PACKAGES)], lambda folder: _debian(folder, suite))


def build(suite: str = SUITE) -> Path:
    """Build the artefact of a suite."""
    untouched, programs = debian(suite), gpus.build()
    return artefact(f"template-{suite}", _inputs(suite), lambda folder: _fill(folder, untouched, programs))
