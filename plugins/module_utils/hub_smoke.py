"""A user's way through JupyterHub: start a server, run a cell in it, stop it. Talks through what it is given."""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

CELL = "import socket\nprint(socket.gethostname())"

POLL_SECONDS = 1
CLEAN_UP_SECONDS = 60
# Until the proxy has its way to a hub that is ready.
HUB_SECONDS = 60


class SmokeTestError(Exception):
    """A step that did not work; the text says which, what was answered and where to look."""


class StillStarting(Exception):  # noqa: N818 - no error
    """The server is not ready yet, and the caller wanted to be told; the text is one line."""


class Pod(NamedTuple):
    """A notebook's pod as the API server reports it."""

    name: str
    node: str


def foundation(workloads: list[dict[str, Any]], nodes: list[dict[str, Any]]) -> str:
    """Return a digest of what notebooks stand on.

    `workloads` are objects whose `metadata.generation` counts changes of their `spec`. It differs after any of them was
    changed, made anew, added or removed, and after a node was, or got another kubelet. Restarts leave it as it is.
    """
    about = [[item["kind"], item["metadata"]["uid"], item["metadata"].get("generation")] for item in workloads]
    about += [["Node", item["metadata"]["uid"], item["status"]["nodeInfo"]["kubeletVersion"]] for item in nodes]
    return hashlib.sha256(json.dumps(sorted(about)).encode()).hexdigest()


class SmokeTest:
    """One run against one hub.

    `http` behaves like requests.Session, `connect(url, headers, timeout)` opens a WebSocket with `send`, `recv` and
    `close`, `pods(user)` returns the pods of a user's servers. `timeout` bounds the whole run, in seconds;
    `explain(user)` returns lines for the error on what those pods do.

    With a `pause` of some seconds `run` raises StillStarting when the server is not ready by then; a new SmokeTest that
    is told how many seconds were `waited` so far goes on from there.
    """

    def __init__(
        self,
        url: str,
        token: str,
        user: str,
        http: Any,
        connect: Callable[[str, dict[str, str], float], Any],
        pods: Callable[[str], list[Pod]],
        timeout: float,
        pause: float = 0,
        waited: float = 0,
        explain: Callable[[str], list[str]] = lambda user: [],
    ) -> None:
        self._url, self._user, self._http, self._connect, self._pods = url.rstrip("/"), user, http, connect, pods
        self._headers = {"Authorization": f"token {token}"}
        self._began = time.monotonic() - waited
        self._timeout, self._deadline = timeout, self._began + timeout
        self._resumed, self._pause = waited > 0, time.monotonic() + pause if pause else None
        self._explain = explain
        self._server = f"/hub/api/users/{user}/server"
        self.events: list[str] = []

    def run(self) -> dict[str, Any]:
        """Return `pod`, `node`, `output`, `seconds`, `events`; raise SmokeTestError. The server is stopped again."""
        if not self._resumed:
            self.await_hub()
            self._call("user", "POST", f"/hub/api/users/{self._user}", accept=(201, 409))
            # One that an interrupted run has left behind would say nothing about starting.
            self._stop()
        try:
            if not self._resumed:
                self._call("start", "POST", self._server, accept=(201, 202))
            self._await_ready()
            output = self._run_cell()
            pods = self._pods(self._user)
        except SmokeTestError as failure:
            # What went wrong first is what must be told. Cleaning up has time of its own.
            failure = SmokeTestError("\n".join([str(failure), *self._explain(self._user)]))
            self._deadline = max(self._deadline, time.monotonic() + CLEAN_UP_SECONDS)
            try:
                self._stop()
            except SmokeTestError as error:
                self.events.append(f"and the server could not be stopped: {error}")
            raise failure from None
        self._stop()
        if len(pods) != 1:
            raise SmokeTestError(f"the API server reports {len(pods)} pods for user {self._user}, expected one: {pods}")
        if output != pods[0].name:
            raise SmokeTestError(f"the cell ran on '{output}', but the API server reports pod '{pods[0].name}'")
        return {
            "pod": pods[0].name,
            "node": pods[0].node,
            "output": output,
            "seconds": round(time.monotonic() - self._began, 1),
            "events": self.events,
        }

    def _left(self, step: str) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise SmokeTestError(f"{step}: not done in time ({self._timeout:.0f} s for everything). {self._told()}")
        return left

    def _told(self) -> str:
        return "The hub said: " + " | ".join(self.events[-4:]) if self.events else "The hub said nothing."

    def _call(self, step: str, method: str, path: str, accept: tuple, **options: Any) -> Any:
        address = self._url + path
        try:
            answer = self._http.request(
                method, address, headers=self._headers, timeout=min(60, self._left(step)), **options
            )
        except OSError as error:  # requests' exceptions are OSErrors
            raise SmokeTestError(f"{step}: {method} {address}: {error}") from error
        if answer.status_code not in accept:
            raise SmokeTestError(f"{step}: {method} {address} answered {answer.status_code}: {brief(answer.text)}")
        return answer

    def await_hub(self) -> None:
        """Wait until the hub answers through its proxy; raise SmokeTestError if it does not."""
        while True:
            try:
                self._call("hub", "GET", "/hub/api", accept=(200,))
                return
            except SmokeTestError:
                if time.monotonic() > self._began + HUB_SECONDS:
                    raise
                time.sleep(POLL_SECONDS)

    def _await_ready(self) -> None:
        """Follow the hub's progress events until the server is ready."""
        answer = self._call("progress", "GET", f"{self._server}/progress", accept=(200,), stream=True)
        for event in self._sent_events(answer):
            message = event.get("message", "")
            if message and message not in self.events:
                self.events.append(message)
            if event.get("failed"):
                raise SmokeTestError(f"the server did not start. {self._told()}")
            if event.get("ready"):
                return
        raise SmokeTestError(f"progress: the hub ended its report before the server was ready. {self._told()}")

    def _sent_events(self, answer: Any) -> Iterator[dict[str, Any]]:
        try:
            for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
                self._left("start")
                if self._pause and time.monotonic() > self._pause:
                    last = self.events[-1] if self.events else "the hub has said nothing yet"
                    raise StillStarting(
                        f"{time.monotonic() - self._began:.0f} of {self._timeout:.0f} s: the server of {self._user} "
                        f"starts | {' '.join(last.split())}"
                    )
                if line.startswith("data:"):
                    yield json.loads(line[len("data:") :])
        except (OSError, ValueError) as error:
            raise SmokeTestError(f"progress: {error}. {self._told()}") from error
        finally:
            answer.close()

    def _run_cell(self) -> str:
        """Run the cell in a new kernel and return what it printed, without the line's end."""
        notebook = f"/user/{self._user}/api/kernels"
        kernel = self._call("kernel", "POST", notebook, accept=(201,), json={}).json()["id"]
        session, message = uuid.uuid4().hex, uuid.uuid4().hex
        address = f"ws{self._url[len('http') :]}{notebook}/{kernel}/channels?session_id={session}"
        try:
            socket = self._connect(address, self._headers, self._left("cell"))
            try:
                socket.send(json.dumps(execute_request(CELL, session, message)))
                return self._printed(socket, message).strip()
            finally:
                socket.close()
        except SmokeTestError:
            raise
        except Exception as error:  # the WebSocket library's own exceptions have no common base with OSError
            raise SmokeTestError(f"cell: {address}: {type(error).__name__}: {error}") from error

    def _printed(self, socket: Any, message: str) -> str:
        printed = ""
        while True:
            self._left("cell")
            answer = json.loads(socket.recv())
            if answer.get("parent_header", {}).get("msg_id") != message:
                continue
            kind, content = answer["msg_type"], answer["content"]
            if kind == "stream":
                printed += content["text"]
            elif kind == "error":
                raise SmokeTestError(f"cell: {content['ename']}: {content['evalue']}")
            elif kind == "status" and content["execution_state"] == "idle":
                return printed

    def _model(self) -> dict[str, Any] | None:
        user = self._call("user", "GET", f"/hub/api/users/{self._user}", accept=(200,)).json()
        return user.get("servers", {}).get("")

    def _stop(self) -> None:
        """Stop the server if there is one, and wait until the hub has seen it stop.

        The hub refuses with 400 or 500 while it is busy with the server, as after its own restart; then it is asked
        again.
        """
        while self._model():
            self._call("stop", "DELETE", self._server, accept=(202, 204, 400, 404, 500))
            time.sleep(POLL_SECONDS)


def brief(body: str) -> str:
    """Return an HTTP answer's body as one short line; of a page only its text, of the hub's error page the error."""
    _before, heading, rest = body.partition('<div class="error">')
    text = re.sub(r"<[^>]+>", " ", rest if heading else re.sub(r"(?s)<(script|style|head)\b.*?</\1>", " ", body))
    return " ".join(text.split())[:300]


def execute_request(code: str, session: str, message: str) -> dict[str, Any]:
    """Return the message that asks a kernel to run `code` (Jupyter messaging 5.3)."""
    return {
        "channel": "shell",
        "header": {
            "msg_id": message,
            "msg_type": "execute_request",
            "username": "",
            "session": session,
            "version": "5.3",
        },
        "parent_header": {},
        "metadata": {},
        "content": {"code": code, "silent": False, "store_history": False, "allow_stdin": False},
    }
