"""Nothing is kept on the control node: another administrator, with a clone and no cache, finds everything as it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import CACHE, HUB, LAB, REPOSITORY, Deployment, Play

OTHER = 65534  # nobody


@pytest.fixture(scope="module")
def desk() -> Iterator[Path]:
    """The other administrator's home: a clone, a key to the hosts, the bundle."""
    with tempfile.TemporaryDirectory(prefix="gpuhub-desk-", dir="/var/tmp") as folder:
        furnish(Path(folder))
        yield Path(folder)


def furnish(home: Path) -> None:
    subprocess.run(["git", "clone", "-q", REPOSITORY, home / "platform"], check=True)
    run = Path("/run/gpuhub-lab", os.environ.get("GPUHUB_LAB_NAME") or "lab")
    (home / "access").mkdir()
    for name in ("id", "known_hosts"):
        shutil.copy(run / name, home / "access" / name)
    (home / "access/ssh_config").write_text((run / "ssh_config").read_text().replace(str(run), f"{home}/access"))
    shutil.copytree(CACHE / "bundle", home / "bundle", copy_function=os.link)
    home.chmod(0o755)
    for path in [home, home / "platform", home / "access", *(home / "access").iterdir()]:
        os.chown(path, OTHER, OTHER)
    subprocess.run(["chown", "-R", f"{OTHER}:{OTHER}", home / "platform"], check=True)


def play(desk: Path) -> Play:
    """site.yml as the other administrator. The capability is for reading the tools in root's cache, nothing else."""
    command = [
        LAB, "run", "setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups",
        "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
        "ansible-playbook", "-i", "inventories/lab", "playbooks/site.yml",
        "-e", f"lab_run={desk}/access", "-e", f"offline_images_bundle={desk}/bundle",
    ]  # fmt: skip
    settings = {**os.environ, "HOME": str(desk), "ANSIBLE_SSH_CONTROL_PATH_DIR": f"{desk}/ssh", "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(
        command, cwd=desk / "platform", env=settings, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return Play(done.returncode, done.stdout)


def hub_pod(deployment: Deployment) -> str:
    pods = deployment.objects("pods", "-n", "jhub", "-l", "component=hub")
    return pods[0]["metadata"]["uid"]


def logs_in(deployment: Deployment, password: str, jar: Path) -> bool:
    deployment.http(f"{HUB}/hub/login", "-c", str(jar))
    token = next(line.split("\t")[6] for line in jar.read_text().splitlines() if "\t_xsrf\t" in line)
    form = ["--data-urlencode", f"_xsrf={token}", "--data-urlencode", "username=admin", "--data-urlencode"]
    status, _ = deployment.http(f"{HUB}/hub/login?_xsrf={token}", "-b", str(jar), *form, f"password={password}")
    return status == 302


def test_another_clone_by_another_user_changes_nothing(deployment, desk, tmp_path):
    pod, password = hub_pod(deployment), deployment.secret("jupyterhub-password-admin")
    found = play(desk)
    assert found.code == 0, found.output[-6000:]
    assert found.changed == 0, found.changed_tasks()
    assert hub_pod(deployment) == pod
    assert logs_in(deployment, password, tmp_path / "right")
    assert not logs_in(deployment, password + "x", tmp_path / "wrong")
