"""The Ansible module that brings a portal's policy to what a file says, against a portal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import yaml
from portals import ADMIN_TOKEN, REPOSITORY

from ....plugins.modules.runner import run

HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
FUTURE = (HOUR + timedelta(days=1)).isoformat().replace("+00:00", "Z")
POLICY = {
    "default": {"cpu": 8, "memory": "32Gi", "gpu": 1},
    "groups": {"vision lab": {"gpu": 4, "members": ["bob", "alice"]}},
    "users": {"carol": {"cpu": None, "budgets": [{"gpu_hours": 2.5, "every": "month"}]}},
    "rates": [{"from": "2026-01-01", "currency": "EUR", "gpu": {"A100": 2.5, "default": 1}}],
}


@pytest.fixture
def module(portal, ledger):
    """A function that runs the module."""

    def call(policy=POLICY, **arguments):
        return run("usage_portal_policy", **{"url": portal.url, "token": ADMIN_TOKEN, "policy": policy, **arguments})

    return call


def audited(admin) -> list[str]:
    return [entry["subject"] for entry in admin.get("/audit").json()["items"]][::-1]


def test_an_empty_portal_has_the_policy_afterwards(module, admin):
    predicted = module(check=True)
    assert predicted["changed"] and audited(admin) == [], "check mode changes nothing"
    result = module()
    assert result["changed"] and result["changes"] == predicted["changes"]
    assert result["changes"] == ["set rates", "set default", "set groups/vision lab", "set users/carol"]
    assert audited(admin) == ["2026-01-01T00:00:00Z", "default", "group/vision lab", "user/carol"]
    assert result["diff"] == predicted["diff"]
    assert result["diff"]["after"]["users"] == {
        "carol": {"cpu": "unlimited", "budgets": [{"gpu_hours": "2.5", "every": "month"}]}
    }
    assert admin.get("/users/bob/limits").json()["gpu_limit"] == 4
    assert admin.get("/users/carol/limits").json()["cpu_limit_cores"] is None
    assert admin.get("/policy/rates").json()["rates"][0]["gpu"] == {"a100": "2.5", "default": "1"}
    again = module()
    assert not again["changed"] and again["changes"] == [] and again["diff"]["before"] == again["diff"]["after"]
    assert len(audited(admin)) == 4


def test_only_what_differs_is_told_to_the_portal(module, admin):
    module()
    admin.put("/policy/users/carol", json={"cpu": 1})
    result = module()
    assert result["changes"] == ["set users/carol"]
    assert result["diff"]["before"]["users"]["carol"] == {"cpu": 1}
    assert audited(admin)[4:] == ["user/carol"] * 2


def test_what_the_policy_does_not_name_stays_or_is_purged(module, admin):
    module()
    for number in range(3):
        admin.put(f"/policy/users/u{number}", json={"gpu": number})
    admin.put("/policy/rates", json={"rates": [{"from": FUTURE, "currency": "EUR"}]})
    kept = module()
    assert not kept["changed"] and kept["kept"] == ["users/u0", "users/u1", "users/u2", f"rates/{FUTURE}"]
    purged = module(purge=True)
    assert purged["changes"] == [*(f"remove users/u{number}" for number in range(3)), f"remove rates/{FUTURE}"]
    assert [item["name"] for item in admin.get("/policy/users").json()["items"]] == ["carol"]
    assert not module(purge=True)["changed"]


def test_a_portal_of_many_users_is_read_in_pages(module, admin, monkeypatch):
    monkeypatch.setattr("ansible_collections.gpuhub.platform.plugins.modules.usage_portal_policy._PAGE", 2)
    for number in range(5):
        admin.put(f"/policy/users/u{number}", json={"gpu": number})
    assert module()["kept"] == [f"users/u{number}" for number in range(5)]


def test_prices_of_the_past_are_refused_by_name_and_nothing_is_changed(module, admin):
    module()
    before = audited(admin)
    rates = [{**POLICY["rates"][0], "gpu": 3}, {**POLICY["rates"][0], "from": "2026-02-01"}]
    result = module({**POLICY, "default": {"cpu": 1, "memory": "1Gi", "gpu": 0}, "rates": rates})
    assert result["failed"]
    assert "2026-01-01T00:00:00Z, which is past" in result["msg"] and "2026-02-01T00:00:00Z, which is" in result["msg"]
    assert [fault["path"] for fault in result["faults"]] == [["rates", 0, "from"], ["rates", 1, "from"]]
    assert audited(admin) == before


def test_what_the_portal_refuses_is_said_of_its_entry(module, admin, monkeypatch):
    types = {f"t{number}": 1 for number in range(101)} | {"default": 1}
    result = module({**POLICY, "rates": [{**POLICY["rates"][0], "gpu": types}]})
    assert result["failed"] and not result["changed"] and result["changes"] == []
    assert result["msg"].startswith("rates is refused by the portal: body.rates.0.gpu"), result
    # As if it took longer windows one day.
    monkeypatch.setattr("ansible_collections.gpuhub.platform.plugins.module_utils.portal_policy._MOST_DAYS", 3660)
    result = module({**POLICY, "users": {"carol": {"budgets": [{"gpu_hours": 1, "within": "1000d"}]}}})
    assert result["failed"] and result["changed"] and audited(admin)[-1] == "group/vision lab"
    assert result["changes"] == ["set rates", "set default", "set groups/vision lab"]
    assert result["faults"][0]["path"] == ["users", "carol"]


def test_before_a_portal_is_deployed_check_mode_says_that_there_would_be_a_policy(module):
    result = module(url="http://127.0.0.1:1", check=True)
    assert result["changed"] and not result.get("failed")
    assert "if it is still to be deployed, the policy will be set then" in result["warnings"][0]
    assert module(check=True, token="planted-wrong")["failed"], "one that is there is asked"


def test_the_scope_that_is_documented_is_enough(module, admin):
    token = admin.post("/tokens", json={"name": "ansible", "scopes": ["policy:write"]}).json()["token"]
    assert module(token=token)["changed"]
    poor = admin.post("/tokens", json={"name": "poor", "scopes": ["limits:read"]}).json()["token"]
    assert "it needs the scope policy:write" in module(token=poor)["msg"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"token": "planted-wrong"}, "does not know the token"),
        ({"token": "planted-wrong\nX-Header: 1"}, "token: is empty, or holds characters that no token has"),
        ({"token": ""}, "token: is empty"),
        ({"url": "http://127.0.0.1:1"}, "http://127.0.0.1:1 cannot be reached from"),
        ({"url": "ftp://127.0.0.1"}, "cannot be reached from"),
        ({"url": "http://[::1"}, "cannot be reached from"),
        ({"policy": None}, "policy: has no value"),
        ({"path": "policy.yml"}, "parameters are mutually exclusive: path|policy"),
    ],
)
def test_errors_say_what_to_do_and_hold_no_token(module, arguments, says):
    result = module(**arguments)
    assert result["failed"] and says in result["msg"], result
    assert "planted" not in json.dumps(result) and "Traceback" not in json.dumps(result)


@pytest.mark.parametrize(
    ("status", "headers", "body", "says"),
    [
        (200, {}, "<html>", "has no policy that can be set"),
        (200, {}, "[]", "has no policy that can be set"),
        (200, {}, '{"items": 1}', "has no policy that can be set"),
        (404, {}, "nothing", "has no policy that can be set"),
        (302, {"Location": "https://there/"}, "", "leads to https://there/"),
        (502, {}, "<html>", "answers 502: HTTP 502"),
        (503, {}, '{"code": "schema", "detail": "run migrate first"}', "answers 503: run migrate first"),
    ],
)
def test_what_is_no_portal_of_ours(module, status, headers, body, says):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        result = module(url=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert result["failed"] and says in result["msg"], result


@pytest.fixture
def play(portal, ledger, tmp_path):
    """A function that runs a playbook whose policy file is `text`; exit code and output, as one line."""

    def call(text, *arguments, url=portal.url):
        (tmp_path / "policy.yml").write_text(text)
        options = {"url": url, "token": ADMIN_TOKEN, "path": "policy.yml"}
        task = {"name": "policy", "gpuhub.platform.usage_portal_policy": options}
        book = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task]}]
        book[0]["vars"] = {"ansible_python_interpreter": sys.executable}
        (tmp_path / "play.yml").write_text(yaml.safe_dump(book))
        environment = {
            "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / "collections"),
            "ANSIBLE_LOG_PATH": str(tmp_path / "log"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOCALHOST_WARNING": "0",
        }
        command = ["ansible-playbook", "-i", "localhost,", "play.yml", "-vvv", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=120
        )
        # Ansible wraps its lines.
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    return call


def test_a_file_beside_the_playbook_and_its_lines(play, admin, tmp_path):
    text = "default: {cpu: 8, memory: 32Gi, gpu: 1}\nusers:\n  'no': {cpu: 0.1}\n"
    text += "rates: [{from: 2026-01-01, currency: EUR}]\n"
    code, output = play(text, "--check", "--diff")
    assert code == 0 and "changed=1" in output and "+ cpu: 100m" in output, output
    assert audited(admin) == []
    code, output = play(text)
    assert code == 0 and "changed=1" in output, output
    assert admin.get("/policy/users").json()["items"] == [{"name": "no", "entry": {"cpu": "100m"}}]
    assert "changed=0" in play(text)[1]
    assert ADMIN_TOKEN not in output
    # Wrong in itself: nobody is asked.
    wrong = text.replace("gpu: 1}", "gpus: 1}").replace("cpu: 0.1", "cpu: many")
    code, output = play(wrong, url="http://127.0.0.1:1")
    file = re.escape(str(tmp_path / "policy.yml"))
    assert code and re.search(rf"{file}: line 1: default lacks gpu", output), output
    assert re.search(rf"{file}: line 3: users.no.cpu is many", output) and "127.0.0.1:1 cannot" not in output
    # Wrong for this portal.
    code, output = play("\n" + text.replace("EUR", "EUR, gpu: 7"))
    assert code and re.search(rf"{file}: line 5: rates\[0\].from is 2026-01-01T00:00:00Z, which is past", output), (
        output
    )
    code, output = play("default: [\n")
    assert code and re.search(rf"{file}: line 2: not YAML", output), output


def test_a_policy_can_be_read_before_there_is_a_portal():
    right = run("usage_portal_policy", policy=POLICY, state="valid")
    assert not right.get("failed") and not right["changed"], right
    wrong = run("usage_portal_policy", policy={**POLICY, "users": {"carol": {"gpu": "many"}}}, state="valid")
    assert wrong["failed"] and "users.carol.gpu is many" in wrong["msg"]
    assert "url, token" in run("usage_portal_policy", policy=POLICY)["msg"]
