"""site.yml is cut off again and again; the run that is left alone ends in the state of one that was never disturbed."""

from __future__ import annotations

import itertools
import json
import os
import random
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import HEAD, LAB, REPOSITORY, WORKERS, Deployment, Play, wait_for
from sample import SEED, SOAK
from state import differences, kept_outline, outline

# A soak takes hours: GPUHUB_SOAK_PART=2/4 cuts at the second of every four tasks.
PART, PARTS = (int(number) for number in os.environ.get("GPUHUB_SOAK_PART", "1/1").split("/"))
# Of the more than 125 tasks that begin in a run from bare hosts, about those from the first that changes something to
# the last. One that is included from two places counts twice.
CHANGING = range(38, 119)
# Seconds that a run may go on after a host, a cable or a disk has failed it.
PATIENCE = 12
FAILED, UNREACHABLE = 2, 4
# By the lab's command, which is killed soon after Ansible or still comes to tell that it was.
KILLED = {-9, 128 + 9}


@dataclass(frozen=True)
class Harm:
    """What happens besides the end of the control node, and what makes it good: commands of the lab."""

    name: str
    does: tuple[str, ...] = ()
    undoes: tuple[str, ...] = ()


NONE = Harm("the control node is lost")
# All hosts' disks are one file system of this machine: it is nearly full for all of them.
FILL = "fallocate -l $(( $(df -B1 --output=avail / | tail -n 1) - (64 << 20) )) /var/filled"
HARMS = [
    *(Harm(f"{host} is killed", ("kill", host), ("start", host)) for host in [HEAD, *WORKERS]),
    *(
        Harm(f"the cable of {host} is cut", (*command, "down"), (*command, "up"))
        for host in [HEAD, *WORKERS]
        for command in [("run", "ip", "link", "set", host)]
    ),
    Harm("the disks are full", ("exec", HEAD, "sh", "-c", FILL), ("exec", HEAD, "rm", "-f", "/var/filled")),
]


@dataclass(frozen=True)
class Cut:
    """One interruption: at which task of the chain, how many seconds after its begin, by what."""

    at: int
    after: float
    harm: Harm = NONE

    def __str__(self) -> str:
        return f"{self.harm.name} {self.after:.1f} s after task {self.at} begins"


def cuts(generator: random.Random) -> Iterator[Cut]:
    """Three drawn ones: before a task, in the middle of one, and with more harm; in a soak one at every task."""
    if not SOAK:
        kinds = [(0, NONE), (generator.uniform(0.2, 3), NONE), (generator.uniform(0.2, 3), generator.choice(HARMS))]
        generator.shuffle(kinds)
        places = sorted(generator.sample(CHANGING, len(kinds)))
        yield from (Cut(at, *kind) for at, kind in zip(places, kinds, strict=True))
        return
    harms = itertools.cycle(generator.sample(HARMS, len(HARMS)))
    for number, at in enumerate(itertools.count(PART, PARTS), start=1):
        harm = NONE if number % 5 else next(harms)
        yield Cut(at, generator.uniform(0.2, 3) if number % 2 or harm is not NONE else 0, harm)


# The state that a chain starts from, and the settings of its runs. The last run has none: what others have changed of
# the nodes' files, of the cluster's and of the hub's is changed back.
CHAINS = {
    "bare": {},
    "deployed": {
        "microk8s_extra_sans": ["hub.example"],
        "gpuhub_dns_servers": ["10.77.0.1", "10.77.0.2"],
        "jupyterhub_native_minimum_password_length": 13,
    },
}


@dataclass(frozen=True)
class Story:
    """What was done, what the last run printed, and what came of it."""

    cuts: list[str]
    last: Play
    outline: dict[str, str]


def cut_off(deployment: Deployment, cut: Cut, story: Path, settings: dict[str, Any]) -> bool:
    """Run until the cut and make good its harm; False if the run has come to its end before."""
    interruption = {
        "story": str(story),
        "at": cut.at,
        "after": cut.after,
        "harm": shlex.join([str(LAB), *cut.harm.does]) if cut.harm.does else "",
        "patience": PATIENCE,
    }
    play = deployment.play(
        "-e",
        json.dumps(settings),
        ANSIBLE_CALLBACK_PLUGINS=str(REPOSITORY / "tests/callback"),
        ANSIBLE_CALLBACKS_ENABLED="gpuhub.platform.progress,gpuhub.platform.changes,interrupt",
        GPUHUB_INTERRUPT=json.dumps(interruption),
    )
    reached = story.exists() and len(story.read_text().splitlines()) == cut.at
    if reached and cut.harm.undoes:
        deployment.lab(*cut.harm.undoes)
    # Nothing but its own cut may stop a run: what earlier ones left behind is in nobody's way.
    expected = KILLED if reached else {0}
    if reached and cut.harm is not NONE:
        expected = expected | {FAILED, UNREACHABLE}
    assert play.code in expected | ({0} if SOAK else set()), f"{cut}: {play.code}: {play.output[-6000:]}"
    return reached


@pytest.fixture(scope="module")
def deployment() -> Deployment:
    """The lab, whatever is on it: each chain begins with a state that it loads."""
    return Deployment()


@pytest.fixture(scope="module")
def undisturbed(deployment: Deployment) -> dict[str, str]:
    """The outline of what test_1_deploy.py has deployed."""
    return kept_outline(deployment, "deployed")


@pytest.fixture(scope="module", params=list(CHAINS) if SOAK else ["bare"], ids=lambda start: f"{start}-seed-{SEED}")
def story(deployment: Deployment, request, tmp_path_factory) -> Story:
    """Runs that are cut off, each further on than the one before, and one that is not."""
    deployment.load(request.param)
    file, done = tmp_path_factory.mktemp("killed") / "story", []
    for cut in cuts(random.Random(SEED)):
        if not cut_off(deployment, cut, file, CHAINS[request.param]):
            break
        done.append(str(cut))
        print(f"seed {SEED}, from {request.param}: {cut}", flush=True)
    last = deployment.play()
    wait_for("everything runs", deployment.works)
    return Story(done, last, outline(deployment))


def test_the_next_run_ends_in_the_state_of_an_undisturbed_one(story, undisturbed):
    assert story.cuts, "nothing was cut off"
    assert story.last.code == 0, story.last.output[-6000:]
    assert differences(undisturbed, story.outline) == []


if SOAK:
    # Else that the state is that of an undisturbed run, after which nothing is left to do, is enough.
    def test_then_nothing_is_left_to_do(story, deployment):
        again = deployment.play()
        assert again.code == 0, again.output[-6000:]
        assert again.changed == 0, again.changed_tasks()


def test_the_comparison_sees_small_differences(story, deployment):
    """The control: a mode, a line, a file too many and a label."""
    label = "/snap/bin/microk8s kubectl -n jhub label configmap gpuhub-core"
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
        "ConfigMap jhub/gpuhub-core": (f"{label} by=hand", f"{label} by-"),
    }
    before = outline(deployment)
    deployment.on(HEAD, "\n".join(plant for plant, _ in planted.values()))
    found = differences(before, outline(deployment))
    deployment.on(HEAD, "\n".join(remove for _, remove in planted.values()))
    assert sorted(line.partition(": '")[0] for line in found) == sorted(planted)
