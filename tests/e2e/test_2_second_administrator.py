"""Another administrator: another user with nothing but keys, bundle, inventory and the collection from its archive.

Nothing is kept on the control node, and what users install is whole: everything is found as it is. The run comes after
what test_2_repair.py has had repaired, and is also the one that finds nothing left of it.
"""

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
    """The other administrator's home, which is no clone: what the README leads to, keys to the hosts, the bundle."""
    with tempfile.TemporaryDirectory(prefix="gpuhub-desk-", dir="/var/tmp") as folder:
        furnish(Path(folder))
        yield Path(folder)


def furnish(home: Path) -> None:
    archive = run(REPOSITORY / ".ci/collection", home).stdout.strip()
    run("ansible-galaxy", "collection", "install", "--offline", "-p", home / "collections", archive)
    shutil.copy(home / "collections/ansible_collections/gpuhub/platform/ansible.cfg", home)
    shutil.copytree(REPOSITORY / "inventories/lab", home / "inventory")
    lab = Path("/run/gpuhub-lab", os.environ.get("GPUHUB_LAB_NAME") or "lab")
    (home / "access").mkdir()
    for name in ("id", "known_hosts"):
        shutil.copy(lab / name, home / "access" / name)
    (home / "access/ssh_config").write_text((lab / "ssh_config").read_text().replace(str(lab), f"{home}/access"))
    home.chmod(0o755)
    run("chown", "-R", f"{OTHER}:{OTHER}", home)
    # Hard links, which share their owner with the cache.
    shutil.copytree(CACHE / "bundle", home / "bundle", copy_function=os.link)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def play(desk: Path, playbook: str | Path, *arguments: str) -> Play:
    """A playbook as the other administrator. The capability is for reading the tools in root's cache, nothing else."""
    command = [
        LAB, "run", "setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups",
        "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
        "ansible-playbook", "-i", "inventory", playbook,
        "-e", f"lab_run={desk}/access", "-e", f"offline_images_bundle={desk}/bundle", *arguments,
    ]  # fmt: skip
    settings = {**os.environ, "HOME": str(desk), "ANSIBLE_SSH_CONTROL_PATH_DIR": f"{desk}/ssh", "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(command, cwd=desk, env=settings, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
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


def test_the_installed_collection_run_by_another_user_changes_nothing(deployment, desk, tmp_path):
    pod, password = hub_pod(deployment), deployment.secret("jupyterhub-password-admin")
    found = play(desk, "gpuhub.platform.site")
    assert found.code == 0, found.output[-6000:]
    assert found.changed == 0, found.changed_tasks()
    assert set(found.recap) > {"head.lab", "worker1.lab"}, found.recap
    assert "PLAY RECAP" in (desk / "deployment.log").read_text(), "a log of the deployment stays"
    assert hub_pod(deployment) == pod
    assert logs_in(deployment, password, tmp_path / "right")
    assert not logs_in(deployment, password + "x", tmp_path / "wrong")


def test_what_it_deploys_is_its_own_and_nothing_else_differs(deployment, desk):
    """Not the clone's: a hub whose code differs in the installed collection would be deployed anew."""
    code = desk / "collections/ansible_collections/gpuhub/platform/services/hub/gpuhub_hub/__init__.py"
    code.write_text(code.read_text() + "\n# edited\n")
    roles = '{"roles_to_run": ["usage_portal", "jupyterhub"], "tasks_from": "main"}'
    found = play(desk, REPOSITORY / "tests/e2e/role.yml", "--check", "-e", roles)
    assert found.code == 0, found.output[-6000:]
    changed = found.changed_tasks()
    assert "gpuhub.platform.jupyterhub : What the hub and notebooks mount is in the cluster" in changed
    assert [task for task in changed if not task.startswith("gpuhub.platform.jupyterhub : ")] == []
