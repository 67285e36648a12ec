"""site.yml is cut off again and again; the run that is left alone ends in the state of another deployment.

In a soak that is one that was never disturbed. `make test` leaves this part out: there the deployment of
test_1_deploy.py has itself been cut off.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

import interruptions
import pytest
from harness import HEAD, Deployment, Play, wait_for
from sample import SEED, SOAK
from state import differences, kept_outline, outline

# A soak takes hours: GPUHUB_SOAK_PART=2/4 cuts at the second of every four tasks.
PART, PARTS = (int(number) for number in os.environ.get("GPUHUB_SOAK_PART", "1/1").split("/"))
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
    """How many runs were cut off, what the last one printed, and what came of it."""

    cuts: int
    last: Play
    outline: dict[str, str]


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
    # Other cuts than those of test_1_deploy.py.
    generator = random.Random(SEED + 1)
    cuts = interruptions.everywhere(generator, PART, PARTS) if SOAK else interruptions.drawn(generator)
    cut_off = interruptions.chain(deployment, cuts, tmp_path_factory.mktemp("killed"), CHAINS[request.param])
    last = deployment.play()
    wait_for("everything runs", deployment.works)
    return Story(len(cut_off), last, outline(deployment))


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
