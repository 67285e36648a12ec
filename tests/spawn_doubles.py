"""What a hub talks to when it starts servers: an API server of Kubernetes, notebooks and a usage portal, on loopback.

The API server knows pods, which run as soon as they are made unless a test holds them, and claims. The portal is exact:
it sees pods at once, unless it is told to fall behind, and decides without a gap. Both run in a thread of their own.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web
from ansible_collections.gpuhub.platform.plugins.module_utils import quota_profiles
from ansible_collections.gpuhub.platform.plugins.module_utils.pod_requests import NodeAccount, pod_requests
from ansible_collections.gpuhub.platform.plugins.module_utils.quantities import (
    Limits,
    Resources,
    format_cores,
    format_gib,
)

LABEL = "gpuhub.io/reservation"
TOKEN = "portal-token"
SIZES = {"sizes": [1, 2, 4, 8], "cpu_sizes": [{"cpu": 1, "memory": "1Gi"}], "cpu_per_gpu": 1, "memory_per_gpu": "1Gi"}
GIB = 2**30


def _now() -> datetime:
    return datetime.now(UTC)


def _stamp() -> str:
    return _now().strftime("%Y-%m-%dT%H:%M:%SZ")


class Server:
    """An aiohttp application on a port of its own, in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def serve(self, app: web.Application, port: int = 0) -> int:
        """Return the port."""

        async def start() -> int:
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", port)
            await site.start()
            return site._server.sockets[0].getsockname()[1]

        return self.run(start())

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def stop(self) -> None:
        async def cancel() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            # aiohttp's own may go on; they end with the loop.
            if tasks:
                await asyncio.wait(tasks, timeout=1)

        self.run(cancel())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)


class Kube(Server):
    """Pods. `held` says of a pod whether it stays pending; `created` has every pod ever made."""

    def __init__(self) -> None:
        super().__init__()
        self.pods: dict[str, dict[str, Any]] = {}
        self.created: list[dict[str, Any]] = []
        # Whoever has it finds a pod in both of them, or in neither.
        self.making = threading.Lock()
        self.held: Callable[[dict], bool] = lambda pod: False
        self.on_create: Callable[[], None] = lambda: None
        # Annotations of claims by name.
        self.claims: dict[str, dict[str, str]] = {}
        # Part of the names of pods that cannot be made.
        self.fail = ""
        self._watches: list[asyncio.Queue] = []
        self._version = 1
        app = web.Application()
        base = "/api/v1/namespaces/{namespace}"
        app.router.add_get(f"{base}/pods", self._list)
        app.router.add_post(f"{base}/pods", self._create)
        app.router.add_delete(f"{base}/pods/{{name}}", self._delete)
        app.router.add_get(f"{base}/events", self._no_events)
        app.router.add_get(f"{base}/persistentvolumeclaims/{{name}}", self._claim)
        self.port = self.serve(app)
        notebook = web.Application()
        notebook.router.add_route("*", "/{any:.*}", self._notebook)
        self.notebook_port = self.serve(notebook)

    def kubeconfig(self) -> str:
        server = f"http://127.0.0.1:{self.port}"
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": server}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            }
        )

    def gpus(self, username: str | None = None) -> int:
        """GPUs of pods that there are."""
        return sum(pod_requests(pod).gpu for pod in self.of(username))

    def of(self, username: str | None = None) -> list[dict[str, Any]]:
        return [pod for pod in list(self.pods.values()) if username in (None, _owner(pod))]

    def release(self, name: str) -> None:
        """Let a held pod run."""

        async def run() -> None:
            self._run(self.pods[name])
            self._tell("MODIFIED", self.pods[name])

        self.run(run())

    def lose(self, name: str) -> None:
        """Take a pod away as a lost node does."""

        async def lose() -> None:
            self._tell("DELETED", self.pods.pop(name))

        self.run(lose())

    def end(self, name: str, reason: str, containers: bool = False) -> None:
        """Let a pod fail: with its containers, or refused by its node or evicted."""

        async def end() -> None:
            status = self.pods[name]["status"]
            status.update(phase="Failed", reason=reason, message=f"Words of {reason}")
            statuses = status.pop("containerStatuses", [])
            if containers:
                ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
                status["containerStatuses"] = [{**one, "state": ended} for one in statuses]
            self._tell("MODIFIED", self.pods[name])

        self.run(end())

    async def _claim(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.claims:
            return web.json_response({"kind": "Status", "reason": "NotFound"}, status=404)
        return web.json_response({"metadata": {"name": name, "annotations": self.claims[name]}})

    def _tell(self, kind: str, pod: dict) -> None:
        self._version += 1
        pod["metadata"]["resourceVersion"] = str(self._version)
        for queue in self._watches:
            queue.put_nowait({"type": kind, "object": json.loads(json.dumps(pod))})

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") not in ("true", "True"):
            return web.json_response(
                {"items": list(self.pods.values()), "metadata": {"resourceVersion": str(self._version)}}
            )
        queue: asyncio.Queue = asyncio.Queue()
        for pod in self.pods.values():
            if int(pod["metadata"]["resourceVersion"]) > int(request.query.get("resourceVersion") or 0):
                queue.put_nowait({"type": "MODIFIED", "object": pod})
        self._watches.append(queue)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        try:
            while True:
                await response.write(json.dumps(await queue.get()).encode() + b"\n")
        except (ConnectionError, asyncio.CancelledError):
            return response
        finally:
            self._watches.remove(queue)

    async def _create(self, request: web.Request) -> web.Response:
        pod = await request.json()
        metadata = pod["metadata"]
        if self.fail and self.fail in metadata["name"]:
            return web.json_response({"kind": "Status", "reason": "Forbidden"}, status=403)
        if metadata["name"] in self.pods:
            return web.json_response({"kind": "Status", "reason": "AlreadyExists"}, status=409)
        metadata.update(uid=str(uuid.uuid4()), namespace="jhub", creationTimestamp=_stamp())
        pod["spec"]["nodeName"] = "node-1"
        condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": _stamp()}
        pod["status"] = {"phase": "Pending", "conditions": [condition]}
        with self.making:
            self.pods[metadata["name"]] = pod
            self.created.append(pod)
        if not self.held(pod):
            self._run(pod)
        self._tell("ADDED", pod)
        self.on_create()
        return web.json_response(pod, status=201)

    @staticmethod
    def _run(pod: dict) -> None:
        status = {"name": "notebook", "image": "i", "imageID": "i", "restartCount": 0, "ready": True}
        status["state"] = {"running": {"startedAt": _stamp()}}
        pod["status"].update(phase="Running", podIP="127.0.0.1", containerStatuses=[status])

    async def _delete(self, request: web.Request) -> web.Response:
        pod = self.pods.pop(request.match_info["name"], None)
        if pod is None:
            return web.json_response({"kind": "Status"}, status=404)
        self._tell("DELETED", pod)
        return web.json_response({"kind": "Status", "status": "Success"})

    async def _no_events(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") in ("true", "True"):
            response = web.StreamResponse()
            await response.prepare(request)
            await asyncio.sleep(3600)
        return web.json_response({"items": [], "metadata": {"resourceVersion": "1"}})

    async def _notebook(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "1"})


def _owner(pod: dict) -> str:
    return pod["metadata"]["annotations"]["hub.jupyter.org/username"]


def _requests(pods: list[dict[str, Any]]) -> Resources:
    return sum(map(pod_requests, pods), Resources())


class Seen:
    """The pods of a cluster as somebody saw them at some time."""

    def __init__(self, kube: Any) -> None:
        self.making = threading.Lock()
        with kube.making:
            self._pods, self.created = kube.of(), list(kube.created)

    def of(self, username: str | None = None) -> list[dict[str, Any]]:
        return [pod for pod in self._pods if username in (None, _owner(pod))]


class Portal(Server):
    """A usage portal.

    `limits` GPUs by user (others have 2), `nodes` GPUs by name. `mode`: up, down (no connection is answered), slow,
    error (500), or a function that makes an answer of a path. `external`: only what every portal has, and its use is
    `external_use` (GPUs by user), which nobody keeps up to date.
    """

    def __init__(self, kube: Any = None, external: bool = False) -> None:
        super().__init__()
        self.kube, self.external = kube, external
        self.mode: Any = "up"
        self.behind, self.behind_since = False, {}
        self.limits: dict[str, int | None] = {}
        self.nodes = {"node-1": 8}
        self.external_use: dict[str, int] = {}
        self.seconds = 60.0
        self.reservations: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str]] = []
        # Bodies of POST /reservations, and nodes of homes that profiles were asked for.
        self.wishes: list[dict[str, Any]] = []
        self.home_nodes: list[str] = []
        # Connections of those who wait for an answer of a slow portal.
        self.waiting: list[asyncio.Transport] = []
        self.witness: dict[str, dict[str, Any]] = {}
        self.witness_calls = 0
        self.ends: list[dict[str, Any]] = []
        self.refuse: Callable[[dict], dict | None] = lambda wish: None
        self._folder = tempfile.TemporaryDirectory()
        self.token_file = Path(self._folder.name, "token")
        self.set_token(TOKEN)
        app = web.Application(middlewares=[self._behave])
        app.router.add_get("/users/{user}/limits", self._limits)
        if not external:
            app.router.add_get("/users/{user}/profiles", self._profiles)
            app.router.add_post("/reservations", self._reserve)
            app.router.add_put("/reservations/{id}/renew", self._renew)
            app.router.add_delete("/reservations/{id}", self._release)
            app.router.add_post("/witness", self._witness)
            app.router.add_get("/enforcement", self._enforcement)
        self.port = self.serve(app)
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        super().stop()
        self._folder.cleanup()

    def set_token(self, token: str) -> None:
        """Take this token from now on; it comes into its file as a Secret's do, by a new file."""
        self.token = token
        new = self.token_file.with_name("new")
        new.write_text(f"{token}\n")
        new.rename(self.token_file)

    def fall_behind(self) -> None:
        """Let the collector see no change of a pod from now on."""

        async def freeze() -> None:
            self._now_seen, self.kube, self.behind = self.kube, Seen(self.kube), True

        self.run(freeze())

    def catch_up(self) -> None:
        """Let it see the pods again."""

        async def look() -> None:
            self.kube, self.behind = self._now_seen, False

        self.run(look())

    def asked(self, method: str, part: str = "") -> int:
        return sum(one == method and part in path for one, path in self.requests)

    def active(self, username: str | None = None) -> list[dict[str, Any]]:
        """Reservations that count."""
        return [
            one
            for one in list(self.reservations.values())
            if self._state(one) == "active" and username in (None, one["username"])
        ]

    def _labels(self) -> set[str]:
        return {pod["metadata"]["labels"].get(LABEL) for pod in (self.kube.created if self.kube else [])}

    def _state(self, one: dict[str, Any]) -> str:
        if one["id"] in self._labels():
            return "settled"
        return "expired" if one["state"] == "active" and one["until"] <= _now() else one["state"]

    @web.middleware
    async def _behave(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        mode = self.mode
        if mode == "down":
            request.transport.abort()
            raise web.HTTPServiceUnavailable
        if mode == "slow":
            self.waiting.append(request.transport)
            await asyncio.sleep(30)
        if mode == "error":
            return web.json_response({"detail": "out of order"}, status=500)
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"code": "unauthorized"}, status=401)
        if callable(mode):
            answer = mode(request.path)
            if answer is not None:
                return web.Response(body=answer, content_type="application/json")
        return await handler(request)

    def _at_once(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Reservations that count and pods, of one moment: another thread makes pods, and one would count twice."""
        with self.kube.making if self.kube else nullcontext():
            return self.active(), self.kube.of() if self.kube else []

    def _situation(self, username: str, home_node: str = "") -> quota_profiles.Situation:
        active, pods = self._at_once()
        used = _requests(pods).gpu
        nodes = []
        for name, gpu in self.nodes.items():
            whole = Resources(1000_000, 1000 * GIB, gpu)
            taken = Resources(gpu=min(used, gpu))
            used -= taken.gpu
            nodes.append(NodeAccount(name, "A100", "NVIDIA-A100-SXM4-80GB", whole, whole, taken, {}))
        return quota_profiles.Situation(
            limits=Limits(gpu=self.limits.get(username, 2)),
            used=_requests([pod for pod in pods if _owner(pod) == username]),
            reserved=sum((one["request"].resources for one in active if one["username"] == username), Resources()),
            nodes=tuple(nodes),
            pending=tuple(one["request"] for one in active),
            home_node=home_node,
        )

    def _limits_of(self, username: str) -> dict[str, Any]:
        situation = self._situation(username)
        use = situation.used + situation.reserved
        if self.external:
            use = Resources(gpu=self.external_use.get(username, 0))
        return {
            "cpu_limit_cores": None,
            "memory_limit_gib": None,
            "gpu_limit": situation.limits.gpu,
            "usage": {
                "cpu_cores": format_cores(use.cpu_milli),
                "memory_gib": format_gib(use.memory_bytes),
                "gpu": use.gpu,
            },
        }

    async def _limits(self, request: web.Request) -> web.Response:
        return web.json_response(self._limits_of(request.match_info["user"]))

    def _free(self) -> dict[str, Any]:
        active, pods = self._at_once()
        reserved = sum(one["request"].resources.gpu for one in active)
        free = max(sum(self.nodes.values()) - reserved - _requests(pods).gpu, 0)
        return {"gpu_types": [{"gpu_type": kind, "free": free} for kind in ("A100", "any")]}

    async def _profiles(self, request: web.Request) -> web.Response:
        user = request.match_info["user"]
        self.home_nodes.append(request.query.get("home_node", ""))
        found = quota_profiles.profiles(self._situation(user, self.home_nodes[-1]), quota_profiles.settings(SIZES))
        items = [profile.as_dict() for profile in found]
        return web.json_response({"items": items, "limits": self._limits_of(user), "capacity": self._free()})

    async def _reserve(self, request: web.Request) -> web.Response:
        wish, key = await request.json(), request.headers["Idempotency-Key"]
        self.wishes.append(dict(wish))
        granted, known = wish.pop("granted", False), self.reservations.get(key)
        if known and known["wish"] != wish:
            return web.json_response({"code": "idempotency_key_reused"}, status=409)
        if key in self._labels():
            return web.json_response({"id": key, "state": "settled"}, status=201)
        if known and granted and self._state(known) == "expired":
            known.update(state="active", until=_now() + timedelta(seconds=self.seconds))
        if known and self._state(known) != "active":
            return web.json_response({"code": "reservation_over", "state": self._state(known)}, status=409)
        if self.behind and not granted:
            return web.json_response({"code": "collector_behind", **self.behind_since}, status=503)
        if known is None:
            resources = Resources(wish["cpu_milli"], wish["memory_bytes"], wish["gpu"])
            asked = quota_profiles.Request(resources, wish["gpu_type"] if wish["gpu"] else "")
            problem = self.refuse(wish)
            if not granted:
                situation = self._situation(wish["username"], wish.get("home_node", ""))
                reason = quota_profiles.refusal(asked, situation, quota_profiles.settings(SIZES))
                problem = {**reason.as_dict(), "detail": reason.text_en} if reason else problem
            if problem:
                return web.json_response(problem, status=409, content_type="application/problem+json")
            known = self.reservations[key] = {
                "id": key,
                "wish": wish,
                "username": wish["username"],
                "request": asked,
                "state": "active",
                "until": _now() + timedelta(seconds=self.seconds),
            }
        return web.json_response(self._told(known), status=201)

    def _told(self, one: dict[str, Any]) -> dict[str, Any]:
        return {"id": one["id"], "state": self._state(one), "expires_at": one["until"].isoformat()}

    async def _renew(self, request: web.Request) -> web.Response:
        one = self.reservations.get(request.match_info["id"])
        if one is None:
            return web.json_response({"code": "not_found"}, status=404)
        if self._state(one) != "active":
            return web.json_response({"code": "reservation_over", "state": self._state(one)}, status=409)
        one["until"] = _now() + timedelta(seconds=self.seconds)
        return web.json_response(self._told(one))

    async def _release(self, request: web.Request) -> web.Response:
        one = self.reservations.get(request.match_info["id"])
        if one is None:
            return web.json_response({"code": "not_found"}, status=404)
        one["state"] = "released"
        return web.Response(status=204)

    async def _witness(self, request: web.Request) -> web.Response:
        self.witness_calls += 1
        events = (await request.json())["events"]
        for event in events:
            self.witness.setdefault(event["event_id"], event)
        return web.json_response({"new": len(events), "known": 0})

    async def _enforcement(self, request: web.Request) -> web.Response:
        return web.json_response({"items": self.ends})
