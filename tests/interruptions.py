"""Runs of site.yml that are cut off by the end of the control node, alone or with that of a host, a cable or a disk."""

from __future__ import annotations

import itertools
import json
import random
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import HEAD, LAB, REPOSITORY, WORKERS, Deployment, Play
from sample import SEED, SOAK

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


def drawn(generator: random.Random) -> Iterator[Cut]:
    """Three: before a task, in the middle of one, and with more harm."""
    kinds = [(0, NONE), (generator.uniform(0.2, 3), NONE), (generator.uniform(0.2, 3), generator.choice(HARMS))]
    generator.shuffle(kinds)
    places = sorted(generator.sample(CHANGING, len(kinds)))
    yield from (Cut(at, *kind) for at, kind in zip(places, kinds, strict=True))


def everywhere(generator: random.Random, part: int, parts: int) -> Iterator[Cut]:
    """One at every task, or at each of its part."""
    harms = itertools.cycle(generator.sample(HARMS, len(HARMS)))
    for number, at in enumerate(itertools.count(part, parts), start=1):
        harm = NONE if number % 5 else next(harms)
        yield Cut(at, generator.uniform(0.2, 3) if number % 2 or harm is not NONE else 0, harm)


def chain(deployment: Deployment, cuts: Iterator[Cut], folder: Path, settings: dict[str, Any]) -> list[Play]:
    """Runs that are cut off, each further on than the one before, as long as there is something to cut off."""
    plays = []
    for cut in cuts:
        play = cut_off(deployment, cut, folder / "story", settings)
        if play is None:
            break
        plays.append(play)
        print(f"seed {SEED}: {cut}", flush=True)
    return plays


def cut_off(deployment: Deployment, cut: Cut, story: Path, settings: dict[str, Any]) -> Play | None:
    """Run until the cut and make good its harm; None if the run has come to its end before."""
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
    return play if reached else None
