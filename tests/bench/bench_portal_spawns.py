"""Servers that a hub starts at once, with the platform's spawner, grants and reservations, against KubeSpawner alone.

Real hubs; the API server, the notebooks and the portal are the doubles of the hub's tests, the portal in a process of
its own as in a cluster, with answers that lie ready.
"""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from ansible_collections.gpuhub.platform.plugins.module_utils import core_archive
from bench import compare
from portals import REPOSITORY
from spawn_doubles import SIZES, TOKEN, Kube
from unit.services.hub.conftest import SPAWNING_CONFIG, SpawningHub

SERVERS, ROUNDS = 40, 5
# The API answers when a server has started.
PATIENT = {"SLOW_SPAWN": "120", "START_TIMEOUT": "120"}
# What a portal computes has its own benchmarks; here it would take the cores that are the hub's.
_PORTAL = """
import sys
from aiohttp import web
from spawn_doubles import Portal

class ReadyPortal(Portal):
    answer = situation = None

    async def _profiles(self, request):
        if self.answer is None:
            self.answer = (await super()._profiles(request)).text
        return web.Response(text=self.answer, content_type="application/json")

    def _situation(self, username, home_node=""):
        self.situation = self.situation or super()._situation(username, home_node)
        return self.situation

portal = ReadyPortal()
portal.nodes = {"node-1": 10**6}
print(portal.url, flush=True)
sys.stdin.read()
"""


class PlainHub(SpawningHub):
    """KubeSpawner as it is."""

    config = (
        SPAWNING_CONFIG
        + """
c.JupyterHub.spawner_class = "kubespawner.KubeSpawner"
c.KubeSpawner.pod_name_template = "jupyter-{username}--{servername}"
"""
    )


def seconds(hub: SpawningHub, body: object) -> float:
    """Time until all servers have started; they are stopped again."""
    users = [f"user-{index}" for index in range(SERVERS)]
    with ThreadPoolExecutor(SERVERS) as threads:
        began = time.perf_counter()
        answers = list(threads.map(lambda user: hub.ask(user, body), users))
        taken = time.perf_counter() - began
        assert {answer.status_code for answer in answers} == {201}, [answer.text for answer in answers][:3]
        list(threads.map(hub.end_server, users))
    return taken


def main() -> None:
    with TemporaryDirectory() as folder:
        archive = Path(folder, core_archive.FILE_NAME)
        archive.write_bytes(core_archive.pack(core_archive.members(REPOSITORY)))
        portal = subprocess.Popen(
            [sys.executable, "-c", _PORTAL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        kubes, hubs = [Kube(), Kube()], []
        try:
            for kind in (SpawningHub, PlainHub):
                home = Path(folder, kind.__name__)
                home.mkdir()
                hubs.append(kind(home, archive, {}))
            ours, plain = hubs
            token = Path(folder, "token")
            token.write_text(TOKEN)
            address = {"url": portal.stdout.readline().strip(), "token_file": str(token)}
            # All else as it is by default.
            state = {"state_file": str(ours.folder / "gpuhub.sqlite")}
            ours.begin(kubes[0], {"portal": {**address, **state}, "sizes": SIZES}, **PATIENT)
            plain.begin(kubes[1], {}, **PATIENT)
            bodies = {ours: {"profile": "cpu-1-1"}, plain: {}}
            for hub, body in bodies.items():
                hub.add(*(f"user-{index}" for index in range(SERVERS)))
                # Its first start makes what all later ones use.
                seconds(hub, body)
            compare(
                f"{SERVERS} servers started at once (s), against KubeSpawner without the platform's hooks",
                lambda: seconds(ours, bodies[ours]),
                lambda: seconds(plain, bodies[plain]),
                goal=0.98,
                rounds=ROUNDS,
            )
        finally:
            for hub in hubs:
                hub.stop()
            for kube in kubes:
                kube.stop()
            portal.communicate()


if __name__ == "__main__":
    main()
