"""What is asked of the API server, to the letter, and what is made of its answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import aiohttp
import pytest
import service_imports  # noqa: F401
from aiohttp import web
from aiohttp.test_utils import TestServer
from gpuhub_portal.collector import kube
from gpuhub_portal.collector.kube import NETWORK_ERRORS, NODES, PODS, ConflictError, GoneError, KubeApi

LEASES = "/apis/coordination.k8s.io/v1/namespaces/jhub/leases"


class _Server:
    """Answers one request after the other, and keeps them: (method, path, query), and bodies."""

    def __init__(self, *answers: web.Response | list[bytes]) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, str, dict]] = []
        self.bodies: list[object] = []
        self.headers: list[Mapping[str, str]] = []

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path, dict(request.query)))
        self.bodies.append(await request.json() if request.can_read_body else None)
        self.headers.append(request.headers)
        answer = self._answers.pop(0)
        if isinstance(answer, web.Response):
            return answer
        response = web.StreamResponse()
        await response.prepare(request)
        for part in answer:
            await response.write(part)
        return response

    def run(self, work, **options):
        """The result of `work(api)`, or the items of what it yields."""

        async def go():
            application = web.Application()
            application.router.add_route("*", "/{path:.*}", self._answer)
            async with TestServer(application) as server:
                api = KubeApi(kube.session(str(server.make_url("/"))), **options)
                try:
                    started = work(api)
                    return [item async for item in started] if hasattr(started, "__aiter__") else await started
                finally:
                    await api.close()
                    assert api._session.closed

        return asyncio.run(go())


def _listed(*names: str, token: str = "", version: str = "7") -> web.Response:
    metadata = {"resourceVersion": version} | ({"continue": token} if token else {})
    return web.json_response({"metadata": metadata, "items": [{"name": name} for name in names] or None})


def test_a_list_in_pages():
    server = _Server(_listed("a", "b", token="more"), _listed("c", version="8"))
    assert server.run(lambda api: api.list(PODS)) == ([{"name": "a"}, {"name": "b"}, {"name": "c"}], "8")
    page = {"limit": "500", "fieldSelector": "spec.nodeName!="}
    assert server.asked == [("GET", "/api/v1/pods", page), ("GET", "/api/v1/pods", {**page, "continue": "more"})]


def test_an_empty_list():
    server = _Server(_listed())
    assert server.run(lambda api: api.list(NODES)) == ([], "7")
    assert server.asked == [("GET", "/api/v1/nodes", {"limit": "500"})]


def test_the_version_of_now_is_asked_with_one_object():
    server = _Server(_listed("a", token="more"))
    assert server.run(lambda api: api.version(PODS)) == "7"
    assert server.asked == [("GET", "/api/v1/pods", {"limit": "1", "fieldSelector": "spec.nodeName!="})]


@pytest.mark.parametrize(
    ("resource", "selected"), [(PODS, {"fieldSelector": "spec.nodeName!="}), (NODES, {})], ids=lambda value: str(value)
)
def test_a_watch(resource, selected):
    lines = [{"type": "ADDED", "object": {"n": "\u2028 1"}}, {"type": "BOOKMARK", "object": {"n": 2}}]
    whole = b"\n".join(json.dumps(line, ensure_ascii=False).encode() for line in lines) + b'\n{"type": "CUT'
    # Wherever the network cuts it.
    server = _Server([whole[begin : begin + 7] for begin in range(0, len(whole), 7)])
    assert server.run(lambda api: api.watch(resource, "41")) == [
        ("OPEN", {}),
        ("ADDED", {"n": "\u2028 1"}),
        ("BOOKMARK", {"n": 2}),
    ]
    (asked,) = server.asked
    assert asked == (
        "GET",
        resource.path,
        {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": "41", "timeoutSeconds": "600", **selected},
    )


def test_a_line_comes_in_any_number_of_parts():
    class Response:
        def __init__(self, *chunks: bytes) -> None:
            self.content, self._chunks = self, chunks

        async def iter_any(self):
            for chunk in self._chunks:
                yield chunk

    async def lines(*chunks: bytes) -> list[bytes]:
        return [line async for line in kube._lines(Response(*chunks))]

    assert asyncio.run(lines(b"on", b"", b"e", b"\ntwo\nth", b"re", b"e", b"\n", b"cut")) == [b"one", b"two", b"three"]


ERROR = '{"type": "ERROR", "object": {"code": %s, "message": "%s"}}\n'


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (410, "too old"),
        (504, "Timeout: Too large resource version: 9, current: 1"),
        (200, ERROR % (410, "too old")),
        (200, ERROR % (504, "Too large resource version")),
    ],
)
def test_a_version_that_is_gone(status, text):
    with pytest.raises(GoneError, match=r"(?i)too (old|large)"):
        _Server(web.Response(status=status, text=text)).run(lambda api: api.watch(PODS, "1"))


@pytest.mark.parametrize(
    ("status", "text"),
    [(504, "gateway"), (500, "resource version"), (200, ERROR % (500, "etcd is away"))],
)
def test_other_errors_are_those_of_the_network(status, text):
    with pytest.raises(NETWORK_ERRORS, match="etcd is away" if status == 200 else str(status)):
        _Server(web.Response(status=status, text=text)).run(lambda api: api.watch(PODS, "1"))


def test_a_server_that_says_nothing(monkeypatch):
    """Requests have their time; a watch may be quiet for long, but not for ever."""
    asked = []
    request = aiohttp.ClientSession._request

    async def noting(self, *arguments, **options):
        asked.append(options.get("timeout", self.timeout))
        return await request(self, *arguments, **options)

    monkeypatch.setattr(aiohttp.ClientSession, "_request", noting)
    server = _Server([b""], _listed())
    server.run(lambda api: api.watch(PODS, "1"))
    server.run(lambda api: api.list(PODS))
    assert asked == [aiohttp.ClientTimeout(sock_connect=30, sock_read=100), aiohttp.ClientTimeout(total=30)]


def test_a_lease_is_read_made_and_replaced():
    lease = {"metadata": {"name": "c"}, "spec": {}}
    server = _Server(web.Response(status=404), web.json_response(lease))
    assert server.run(lambda api: api.read_lease("jhub", "c")) is None
    assert server.run(lambda api: api.read_lease("jhub", "c")) == lease
    assert server.asked == [("GET", f"{LEASES}/c", {})] * 2

    server = _Server(web.json_response(lease, status=201))
    assert server.run(lambda api: api.write_lease("jhub", "c", lease)) == lease
    assert (server.asked, server.bodies) == ([("POST", LEASES, {})], [lease])

    newer = {"metadata": {"name": "c", "resourceVersion": "3"}}
    server = _Server(web.json_response(newer))
    assert server.run(lambda api: api.write_lease("jhub", "c", newer)) == newer
    assert (server.asked, server.bodies) == ([("PUT", f"{LEASES}/c", {})], [newer])


def test_a_lease_that_is_anothers_by_now():
    with pytest.raises(ConflictError, match="lease jhub/c"):
        _Server(web.Response(status=409)).run(lambda api: api.write_lease("jhub", "c", {"metadata": {}}))
    for work in (lambda api: api.write_lease("jhub", "c", {"metadata": {}}), lambda api: api.read_lease("jhub", "c")):
        with pytest.raises(aiohttp.ClientResponseError):
            _Server(web.Response(status=403)).run(work)


@pytest.mark.parametrize(("host", "url"), [("10.0.0.1", "https://10.0.0.1:443"), ("fd00::1", "https://[fd00::1]:443")])
def test_in_a_cluster(host, url, tmp_path, monkeypatch):
    made = {}

    def session(address: str, connector: str):
        made.update(address=address, connector=connector)

    monkeypatch.setattr(kube, "_ACCOUNT", tmp_path)
    monkeypatch.setattr(kube, "session", session)
    monkeypatch.setattr(kube.aiohttp, "TCPConnector", lambda ssl: f"for one that {ssl}")
    monkeypatch.setattr(kube.ssl, "create_default_context", lambda cafile: f"trusts {cafile}")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    api = kube.in_cluster()
    assert made == {"address": url, "connector": f"for one that trusts {tmp_path}/ca.crt"}
    # Kubelet replaces the token's file.
    for token in ("first", "second"):
        (tmp_path / "token").write_text(f"{token}\n")
        assert api._token() == token


def test_the_token_of_now():
    tokens = iter(("first", "second"))
    server = _Server(_listed("a", token="more"), _listed("b"))
    server.run(lambda api: api.list(PODS), token=lambda: next(tokens))
    assert [headers["Authorization"] for headers in server.headers] == ["Bearer first", "Bearer second"]
    server = _Server(_listed())
    server.run(lambda api: api.list(PODS))
    assert "Authorization" not in server.headers[0]
