"""People log in by a real JupyterHub, and see what is theirs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from portals import free_port, problem, wait_for

CLIENT_SECRET = "planted-client-secret-" + "5" * 24
COOKIE_SECRET = "planted-cookie-secret-" + "7" * 24
COOKIE = "gpuhub-usage-portal"
CONFIG = """
import os
from jupyterhub.proxy import Proxy

class NoProxy(Proxy):
    should_start = False
    async def add_route(self, routespec, target, data): pass
    async def delete_route(self, routespec): pass
    async def get_all_routes(self): return {}

c.JupyterHub.proxy_class = NoProxy
c.JupyterHub.authenticator_class = "dummy"
c.JupyterHub.spawner_class = "simple"
c.JupyterHub.hub_bind_url = c.JupyterHub.bind_url = os.environ["HUB_URL"]
c.JupyterHub.cookie_secret = bytes(32)
c.JupyterHub.cleanup_servers = False
c.JupyterHub.services = [{
    "name": "usage-portal",
    "api_token": os.environ["CLIENT_SECRET"],
    "oauth_client_id": "service-usage-portal",
    "oauth_redirect_uri": os.environ["PORTAL_URL"] + "/api/v1/auth/callback",
    "oauth_no_confirm": True,
    "oauth_client_allowed_scopes": ["read:users!user"],
}]
c.JupyterHub.load_roles = [{"name": "user", "scopes": ["self", "access:services!service=usage-portal"]}]
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {"root"}
c.DummyAuthenticator.password = "secret"
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub on loopback with the portal as a service; `hub.portal_port` is where it expects that."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "config.py").write_text(CONFIG)
    url, portal_port = f"http://127.0.0.1:{free_port()}", free_port()
    environment = {
        **os.environ,
        "HUB_URL": url,
        "PORTAL_URL": f"http://127.0.0.1:{portal_port}",
        "CLIENT_SECRET": CLIENT_SECRET,
        "CONFIGPROXY_AUTH_TOKEN": "x",
    }
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "jupyterhub", "--config", "config.py"]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return httpx.get(f"{url}/hub/api/").status_code == 200
        except httpx.TransportError:
            return False

    wait_for("the hub answers", answers, 60)
    yield url, portal_port
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="module")
def people(hub, make_portal, database, tmp_path_factory):
    """A portal with that hub."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "client").write_text(CLIENT_SECRET)
    (folder / "cookie").write_text(COOKIE_SECRET)
    url, port = hub
    portal = make_portal(
        database,
        port=port,
        public_url=f"http://127.0.0.1:{port}",
        hub_url=f"{url}/hub",
        hub_client_secret_file=folder / "client",
        cookie_secret_file=folder / "cookie",
    )
    return portal.start()


def browser() -> httpx.Client:
    """Cookies of a host go to all its ports, as in browsers."""
    return httpx.Client(timeout=60, follow_redirects=False, verify=False)


def follow(client: httpx.Client, answer: httpx.Response, times: int = 10) -> httpx.Response:
    while answer.is_redirect and times:
        answer, times = client.send(answer.next_request), times - 1
    return answer


def log_in(client: httpx.Client, hub, portal, username: str, next_path: str = "/capacity") -> httpx.Response:
    """Log in to the hub and then to the portal; the answer that sets the portal's cookie."""
    form = client.get(f"{hub[0]}/hub/login")
    xsrf = re.search(r'name="_xsrf" value="([^"]+)"', form.text)[1]
    client.post(f"{hub[0]}/hub/login", data={"username": username, "password": "secret", "_xsrf": xsrf})
    answer = client.get(f"{portal.url}/api/v1/auth/login", params={"next": next_path})
    while not (urlsplit(str(answer.request.url)).path.endswith("/auth/callback") and answer.request.url.port == hub[1]):
        assert answer.is_redirect, answer.text
        answer = client.send(answer.next_request)
    return answer


def test_people_see_their_own_and_administrators_everything(hub, people, ledger):
    ledger.session("s1", "alice", "job", "2026-01-01T00:00Z", None)
    ledger.session("s2", "bob", "job", "2026-01-01T00:00Z", None)
    api = f"{people.url}/api/v1"
    with browser() as alice, browser() as root:
        answer = log_in(alice, hub, people, "alice")
        assert answer.status_code == 302 and answer.headers["Location"] == f"{people.url}/capacity"
        assert alice.get(f"{api}/me").json() == {"name": "alice", "username": "alice", "admin": False, "scopes": []}
        assert alice.get(f"{api}/users/alice/limits").status_code == 200
        assert alice.get(f"{api}/users/alice/profiles").status_code == 200
        assert [item["id"] for item in alice.get(f"{api}/sessions").json()["items"]] == ["s1"]
        assert alice.get(f"{api}/sessions/s1").status_code == 200 and alice.get(f"{api}/capacity").status_code == 200
        problem(alice.get(f"{api}/sessions/s2"), 404, "not_found")
        for path in ("users/bob/limits", "users/bob/profiles", "sessions?username=bob", "reservations?username=bob"):
            problem(alice.get(f"{api}/{path}"), 403, "forbidden")
        for path in ("audit", "tokens", "policy/users", "policy/rates"):
            problem(alice.get(f"{api}/{path}"), 403, "forbidden")
        origin = {"Origin": people.url}
        problem(alice.put(f"{api}/policy/users/alice", json={"gpu": 9}, headers=origin), 403, "forbidden")
        problem(
            alice.post(f"{api}/reservations", json={"username": "alice"}, headers={**origin, "Idempotency-Key": "1"}),
            403,
            "forbidden",
        )

        log_in(root, hub, people, "root")
        assert root.get(f"{api}/me").json()["admin"] is True
        assert len(root.get(f"{api}/sessions").json()["items"]) == 2
        assert root.put(f"{api}/policy/users/alice", json={"gpu": 2}, headers=origin).status_code == 200
        assert root.get(f"{api}/audit").json()["items"][0]["actor"] == "root"


def test_the_cookie_is_kept_close(hub, people, ledger):
    with browser() as alice:
        cookies = log_in(alice, hub, people, "alice").headers.get_list("set-cookie")
        (cookie,) = [cookie for cookie in cookies if cookie.startswith(f"{COOKIE}=")]
        parts = {part.strip().lower() for part in cookie.split(";")[1:]}
        # Not for /user/alice on the hub's port, whose server would read it.
        assert {"httponly", "samesite=lax", "path=/api/v1"} <= parts
        assert not any(part.startswith("domain") for part in parts)
        value = alice.cookies[COOKIE]
        # Its first letter: of the last one, base64 leaves two bits out.
        login, signature = value.rsplit(".", 1)
        forged = f"{login}.{'a' if signature[0] != 'a' else 'b'}{signature[1:]}"
        for wrong in (forged, "x", "", login, "\u00e9".encode().decode("latin-1")):
            with browser() as stranger:
                answer = stranger.get(
                    f"{people.url}/api/v1/me", headers={"Cookie": f"{COOKIE}={wrong}".encode("latin-1")}
                )
                problem(answer, 401, "unauthorized")
        # What is in the database does not make a cookie.
        assert value.encode() not in ledger.sql("SELECT digest FROM login")[0][0]


def test_pages_of_others_cannot_change_anything(hub, people, ledger):
    with browser() as root:
        log_in(root, hub, people, "root")
        for origin in (None, hub[0], "https://evil.example", "null", people.url.replace("127.0.0.1", "localhost")):
            headers = {"Origin": origin} if origin else {}
            answer = root.put(f"{people.url}/api/v1/policy/users/eve", json={"gpu": 99}, headers=headers)
            problem(answer, 403, "cross_origin")
            problem(root.post(f"{people.url}/api/v1/auth/logout", headers=headers), 403, "cross_origin")
        problem(root.get(f"{people.url}/api/v1/policy/users/eve"), 404, "not_found")
        assert (
            "access-control-allow-origin" not in root.get(f"{people.url}/api/v1/me", headers={"Origin": hub[0]}).headers
        )


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/%09/evil.example",
        "/\t/evil.example",
        "/\nLocation: https://evil.example",
        "javascript:alert(1)",
        "evil.example",
        "https:evil.example",
        "@evil.example",
    ],
)
def test_nobody_is_sent_elsewhere(hub, people, ledger, target):
    with browser() as alice:
        answer = log_in(alice, hub, people, "alice", target)
        location = answer.headers["Location"]
        assert location.startswith(f"{people.url}/") and urlsplit(location).netloc == urlsplit(people.url).netloc
        assert urlsplit(location).path in ("/", "/%09/evil.example")


def test_where_to_go_is_configured_and_not_said_by_the_request(people):
    headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    begun = httpx.get(f"{people.url}/api/v1/auth/login", params={"next": "/me"}, headers=headers)
    assert begun.headers["Location"] == f"{people.url}/api/v1/auth/login?next=%2Fme&moved=true"
    assert "set-cookie" not in begun.headers
    # Also when whoever sends it on goes on saying so, as a proxy of the site may.
    location = httpx.get(begun.headers["Location"], headers=headers).headers["Location"]
    asked = parse_qs(urlsplit(location).query)
    assert asked["redirect_uri"] == [f"{people.url}/api/v1/auth/callback"]
    assert asked["code_challenge_method"] == ["S256"] and len(asked["code_challenge"][0]) == 43
    assert "evil" not in location


def test_a_login_begun_at_another_address_ends_at_the_public_one(hub, people, ledger):
    """As at the port without HTTPS: its cookie must be where the hub sends the browser back to."""
    other = people.url.replace("127.0.0.1", "localhost")
    with browser() as alice:
        log_in(alice, hub, people, "alice")
        alice.post(f"{people.url}/api/v1/auth/logout", headers={"Origin": people.url})
        answer = alice.get(f"{other}/api/v1/auth/login", params={"next": "/api/v1/me"})
        answer = follow(alice, answer)
        assert answer.url == f"{people.url}/api/v1/me" and answer.json()["username"] == "alice"


def test_a_login_that_was_not_begun_here_is_refused(hub, people, ledger):
    with browser() as alice, browser() as victim:
        begun = alice.get(f"{people.url}/api/v1/auth/login")
        state = parse_qs(urlsplit(begun.headers["Location"]).query)["state"][0]
        callback = f"{people.url}/api/v1/auth/callback"
        # Somebody else's state: the victim would be logged in as the attacker.
        problem(victim.get(callback, params={"code": "x", "state": state}), 400, "login_state")
        problem(alice.get(callback, params={"code": "x", "state": "other"}), 400, "login_state")
        problem(alice.get(callback, params={"code": "x", "state": state}), 400, "login_refused")
        problem(alice.get(callback, params={"state": state}), 422, "invalid")
        problem(alice.get(callback, params={"error": "access_denied"}), 422, "invalid")
    assert ledger.sql("SELECT count(*) FROM login") == [(0,)]


def test_logged_out_the_cookie_is_worth_nothing(hub, people, ledger):
    api = f"{people.url}/api/v1"
    with browser() as alice, browser() as thief:
        log_in(alice, hub, people, "alice")
        stolen = {"Cookie": f"{COOKIE}={alice.cookies[COOKIE]}"}
        assert thief.get(f"{api}/me", headers=stolen).status_code == 200
        answer = alice.post(f"{api}/auth/logout", headers={"Origin": people.url})
        assert answer.status_code == 204 and "Max-Age=0" in answer.headers["set-cookie"]
        problem(thief.get(f"{api}/me", headers=stolen), 401, "unauthorized")
        problem(alice.get(f"{api}/me"), 401, "unauthorized")


def test_a_login_ends_by_itself(hub, people, ledger):
    with browser() as alice:
        log_in(alice, hub, people, "alice")
        ledger.sql("UPDATE login SET expires_at = now() - interval '1 s'")
        problem(alice.get(f"{people.url}/api/v1/me"), 401, "unauthorized")


def test_a_hub_that_does_not_answer_is_said(make_portal, database, people, tmp_path):
    (tmp_path / "secret").write_text(COOKIE_SECRET)
    portal = make_portal(
        database,
        hub_url=f"http://127.0.0.1:{free_port()}/hub",
        hub_client_secret_file=tmp_path / "secret",
        cookie_secret_file=tmp_path / "secret",
    ).start()
    with browser() as alice:
        # Its public address is another one, where nobody answers in this test.
        begun = alice.get(f"{portal.url}/api/v1/auth/login", params={"moved": "true"})
        state = parse_qs(urlsplit(begun.headers["Location"]).query)["state"][0]
        answer = alice.get(f"{portal.url}/api/v1/auth/callback", params={"code": "x", "state": state})
        problem(answer, 503, "hub_unavailable")
    portal.stop()


def test_no_secret_of_a_login_is_logged(hub, people, ledger):
    with browser() as alice:
        answer = log_in(alice, hub, people, "alice")
        code = parse_qs(urlsplit(str(answer.request.url)).query)["code"][0]
        secrets = [code, alice.cookies[COOKIE], CLIENT_SECRET, COOKIE_SECRET]
    text = people.log.read_text()
    assert "/auth/callback" in text and [secret for secret in secrets if secret in text] == []


def test_without_a_hub_there_is_no_login(portal):
    problem(httpx.get(f"{portal.url}/api/v1/auth/login"), 404, "no_login")
