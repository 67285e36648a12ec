"""site.yml is cut off again and again: the run that is left alone ends in the state of one that was never disturbed."""

from __future__ import annotations

import itertools
import os
import random
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import HEAD, REPOSITORY, WORKERS, Deployment, Play, wait_for
from state import differences, outline

SEED = int(os.environ.get("GPUHUB_SEED") or random.SystemRandom().randrange(10**6))
SOAK = bool(os.environ.get("GPUHUB_SOAK"))
# Tasks of a run from nothing and of a later one, places of inclusion told apart; a chain ends by itself where it is
# longer than this, and the last points are not reached where it is shorter.
FROM_NOTHING, LATER = 120, 75
# Seconds that a run may go on after a host, a cable or a disk has failed it.
LEAVE = 12
# What is changed in the second chain: something of the nodes' files, of the cluster's, of the hub's values.
OTHER_SETTINGS = (
    "-e", "microk8s_extra_sans=['hub.example']",
    "-e", '{"gpuhub_dns_servers": ["10.77.0.1", "10.77.0.2"]}',
    "-e", "jupyterhub_native_minimum_password_length=13",
)  # fmt: skip
# All hosts' disks are one file system of this machine: it is nearly full for all of them.
FILL = "fallocate -l $(( $(df -B1 --output=avail / | tail -n 1) - (64 << 20) )) /var/filled"


@dataclass(frozen=True)
class Harm:
    """What happens beside the control node: a shell command on the bastion that does it, and how it is made good."""

    name: str
    command: str
    heal: Callable[[Deployment], object]


KILLED = Harm("the control node is lost", "", lambda d: None)
HARMS = [
    *(
        Harm(f"{host} is killed", f"lab/lab kill {host}", lambda d, host=host: d.lab("start", host))
        for host in [HEAD, *WORKERS]
    ),
    *(
        Harm(
            f"the cable of {host} is cut",
            f"ip link set {host} down",
            lambda d, host=host: d.lab("run", "ip", "link", "set", host, "up"),
        )
        for host in [HEAD, *WORKERS]
    ),
    Harm("the disks are full", f"lab/lab exec head sh -c '{FILL}'", lambda d: d.on(HEAD, "rm -f /var/filled")),
]


@dataclass(frozen=True)
class Cut:
    """One interruption: when so many tasks of the chain have begun, so many seconds after that, by what."""

    at: int
    after: float
    harm: Harm

    def __str__(self) -> str:
        return f"{self.harm.name} {self.after:.1f} s after task {self.at} begins"


def cuts(tasks: int, generator: random.Random, soak: bool = SOAK) -> list[Cut]:
    """A chain's interruptions, in order: three kinds at three drawn tasks; in a soak one or two at every task."""
    if not soak:
        places = sorted(generator.sample(range(2, tasks - 10), 3))
        chain = [
            Cut(0, 0, KILLED),
            Cut(0, generator.uniform(0.2, 3), KILLED),
            Cut(0, generator.uniform(0.2, 3), generator.choice(HARMS)),
        ]
        generator.shuffle(chain)
        return [Cut(at, cut.after, cut.harm) for at, cut in zip(places, chain, strict=True)]
    harms = itertools.cycle(generator.sample(HARMS, len(HARMS)))
    every = [Cut(at, generator.choice([0, generator.uniform(0.2, 3)]), KILLED) for at in range(1, tasks)]
    return sorted([*every, *(Cut(at, 1, next(harms)) for at in range(5, tasks, 5))], key=lambda cut: cut.at)


class Chain:
    """Runs of site.yml that are cut off one after the other, each further on than the one before."""

    def __init__(self, deployment: Deployment, folder: Path, *settings: str) -> None:
        self._deployment, self._settings, self._story = deployment, settings, folder / f"story-{uuid.uuid4().hex}"
        self.done: list[str] = []

    def begun(self) -> int:
        """How many different tasks have begun in the runs so far."""
        return len(self._story.read_text().splitlines()) if self._story.exists() else 0

    def cut(self, cut: Cut) -> None:
        """Run until the cut, and make good what it did besides."""
        if cut.at <= self.begun():
            return
        environment = {
            "ANSIBLE_CALLBACK_PLUGINS": str(REPOSITORY / "tests/callback"),
            "ANSIBLE_CALLBACKS_ENABLED": "gpuhub.platform.progress,interrupt",
            "GPUHUB_INTERRUPT_STORY": str(self._story),
            "GPUHUB_INTERRUPT_AT": str(cut.at),
            "GPUHUB_INTERRUPT_AFTER": str(cut.after),
            "GPUHUB_INTERRUPT_BY": cut.harm.command,
            "GPUHUB_INTERRUPT_LEAVE": str(LEAVE),
            "GPUHUB_INTERRUPT_RUN": uuid.uuid4().hex,
        }
        play = self._deployment.play(*self._settings, **environment)
        cut.harm.heal(self._deployment)
        assert play.code != 0 or self.begun() < cut.at or cut.after, f"{cut}: nothing happened"
        # Without harm to anything else no run may fail by itself.
        assert play.code in (0, -9, 137) or cut.harm.command, f"{cut}: {play.output[-4000:]}"
        self.done.append(f"{cut}{'' if play.code else ' (too late)'}")


def loaded(deployment: Deployment, name: str) -> None:
    deployment.lab("load", name)
    if name != "bare":
        wait_for("everything runs", deployment.works, 180)


def settled(deployment: Deployment) -> dict[str, str]:
    """The outline once everything runs."""
    wait_for("everything runs", deployment.works, 180)
    return outline(deployment)


@dataclass
class Story:
    """What was done and what came of it."""

    undisturbed: dict[str, str]
    cuts: list[str]
    last: Play
    after: dict[str, str]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gpuhub-killed-", dir="/var/tmp") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def undisturbed(deployment: Deployment) -> dict[str, str]:
    """The state that test_1_deploy.py has saved."""
    loaded(deployment, "deployed")
    return settled(deployment)


@pytest.fixture(scope="module")
def from_nothing(deployment: Deployment, undisturbed: dict[str, str], folder: Path) -> Story:
    """Bare hosts, runs that are cut off, one that is not."""
    loaded(deployment, "bare")
    chain = Chain(deployment, folder)
    for cut in cuts(FROM_NOTHING, random.Random(SEED)):
        chain.cut(cut)
    print(f"seed {SEED}, from nothing: {'; '.join(chain.done)}")
    last = deployment.play()
    return Story(undisturbed, chain.done, last, settled(deployment))


@pytest.fixture(scope="module")
def changed_settings(deployment: Deployment, from_nothing: Story, folder: Path) -> Story:
    """Settings that change, cut off, and change back: as if nothing had been."""
    chain = Chain(deployment, folder, *OTHER_SETTINGS)
    for cut in cuts(LATER, random.Random(SEED + 1))[: None if SOAK else 1]:
        chain.cut(cut)
    print(f"seed {SEED}, other settings: {'; '.join(chain.done)}")
    return Story(from_nothing.after, chain.done, deployment.play(), settled(deployment))


def test_runs_cut_off_from_nothing_on_are_completed_by_the_next(from_nothing):
    assert from_nothing.last.code == 0, from_nothing.last.output[-6000:]
    assert from_nothing.cuts, "nothing was cut off"
    assert differences(from_nothing.undisturbed, from_nothing.after) == []


def test_a_changed_setting_cut_off_and_changed_back_leaves_nothing(changed_settings):
    assert changed_settings.last.code == 0, changed_settings.last.output[-6000:]
    assert changed_settings.cuts, "nothing was cut off"
    assert differences(changed_settings.undisturbed, changed_settings.after) == []


def test_then_nothing_is_left_to_do(changed_settings, deployment):
    again = deployment.play()
    assert again.code == 0, again.output[-6000:]
    assert again.changed == 0, again.changed_tasks()


def test_the_comparison_sees_small_differences(changed_settings, deployment):
    """The control: a mode, a line, a file too many, and an edited object are all seen."""
    kubectl = "/snap/bin/microk8s kubectl -n jhub"
    planted = {
        f"{HEAD}: file /var/lib/gpuhub/secrets": (
            "chmod 755 /var/lib/gpuhub/secrets",
            "chmod 700 /var/lib/gpuhub/secrets",
        ),
        f"{HEAD}: file /etc/microk8s.yaml": (
            "echo '# by hand' >> /etc/microk8s.yaml",
            "sed -i '$d' /etc/microk8s.yaml",
        ),
        f"{HEAD}: file /var/tmp/left-behind": ("touch /var/tmp/left-behind", "rm /var/tmp/left-behind"),
        "ConfigMap jhub/gpuhub-core": (
            f"{kubectl} label configmap gpuhub-core by=hand",
            f"{kubectl} label configmap gpuhub-core by-",
        ),
    }
    for plant, _ in planted.values():
        deployment.on(HEAD, plant)
    found = differences(changed_settings.after, outline(deployment))
    for _, remove in planted.values():
        deployment.on(HEAD, remove)
    assert sorted(line.partition(": '")[0] for line in found) == sorted(planted)
    assert differences(changed_settings.after, outline(deployment)) == []
