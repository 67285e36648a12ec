"""Accounts, through the forms of a real hub."""

from __future__ import annotations

import pytest
from traitlets.config import Config

ADMIN_PASSWORD = "Kq7vWmZr2tXbNc4e"
GOOD = "correct-horse-7"
ADMINS = {"admin": ADMIN_PASSWORD}


def test_accounts_that_wait_for_approval(hub):
    hub.start(ADMINS, "admin")
    admin = hub.browser()
    assert admin.login("admin", ADMIN_PASSWORD)
    assert admin.is_administrator()

    refused = {
        "too short": ("alice", "short-7"),
        "common": ("alice", "password123"),
        "longer than bcrypt takes": ("alice", "ä" * 37),
        "an administrator's name": ("admin", GOOD),
        "an administrator's name in capitals": ("ADMIN", GOOD),
        "the platform's own name": ("gpuhub-smoke", GOOD),
        "parent folder": ("..", GOOD),
        "path": ("../bob", GOOD),
        "repeated separators": ("alice..b", GOOD),
        "line break": ("alice\n", GOOD),
        "template": ("{unescaped_username}", GOOD),
        "longer than a name may be": ("a" * 49, GOOD),
        "empty": ("", GOOD),
    }
    answers = {what: hub.browser().sign_up(name, password) for what, (name, password) in refused.items()}
    assert {what: answer for what, answer in answers.items() if "danger" not in answer} == {}

    user = hub.browser()
    assert "has been sent to the admin" in user.sign_up("alice", GOOD)
    assert not user.login("alice", GOOD)
    assert "already in use" in hub.browser().sign_up("alice", GOOD)
    assert "alice" in admin.get("authorize").text
    admin.get("authorize/alice")
    assert user.login("alice", GOOD)
    assert not user.is_administrator()
    assert not hub.browser().login("admin", GOOD)


def test_open_sign_up_still_protects_names_that_the_hub_knows(hub):
    hub.start(ADMINS, "auto")
    user = hub.browser()
    assert "successful" in user.sign_up("bob", GOOD)
    assert user.login("bob", GOOD)
    smoke = {"Authorization": "token " + "a" * 64}
    assert user.session.post(f"{hub.url}/hub/api/users/gpuhub-smoke", headers=smoke, timeout=10).status_code == 201
    # Outside its scope the hub answers as if there were nothing.
    assert user.session.post(f"{hub.url}/hub/api/users/carol", headers=smoke, timeout=10).status_code == 404
    admin = hub.browser()
    assert admin.login("admin", ADMIN_PASSWORD)
    token = admin.session.cookies.get("_xsrf", path="/hub/")
    added = admin.session.post(f"{hub.url}/hub/api/users/carol", headers={"X-XSRFToken": token}, timeout=10)
    assert added.status_code == 201, added.text
    stranger = hub.browser()
    stranger.sign_up("carol", GOOD)
    assert not stranger.login("carol", GOOD)


def test_lock_out(hub):
    hub.start(ADMINS, "admin")
    attacker = hub.browser()
    for _ in range(3):
        assert not attacker.login("admin", "guess-guess-guess")
    assert not hub.browser().login("admin", ADMIN_PASSWORD)
    # Control: it is the lock-out that refused.
    hub.stop()
    hub.start(ADMINS, "admin")
    assert hub.browser().login("admin", ADMIN_PASSWORD)


def test_lock_out_ends(hub):
    hub.start(ADMINS, "admin", allowed_failed_logins=1, lockout_seconds=-1)
    assert not hub.browser().login("admin", "guess-guess-guess")
    assert hub.browser().login("admin", ADMIN_PASSWORD)


def test_administrators_across_restarts(hub):
    hub.start(ADMINS, "admin")
    assert "sent to the admin" in hub.browser().sign_up("dave", GOOD)
    admin = hub.browser()
    assert admin.login("admin", ADMIN_PASSWORD)
    hub.stop()
    # Somebody asked for dave's name before dave became an administrator; admin's password does not fall back.
    hub.start({"admin": "another-initial-one", "dave": "initial-of-dave"}, "admin")
    assert hub.browser().login("admin", ADMIN_PASSWORD)
    assert not hub.browser().login("admin", "another-initial-one")
    assert not hub.browser().login("dave", GOOD)
    dave = hub.browser()
    assert dave.login("dave", "initial-of-dave")
    assert dave.is_administrator()


@pytest.mark.parametrize("mode", ["dummy", "", "github"])
def test_an_unknown_mode_stops_the_hub(archive, mode):
    import gpuhub_hub

    with pytest.raises(ValueError, match=f"auth.mode is '{mode}'"):
        gpuhub_hub.setup(Config(), {"auth": {"mode": mode}})


def test_change_password(hub):
    hub.start(ADMINS, "admin")
    admin = hub.browser()
    assert admin.login("admin", ADMIN_PASSWORD)
    answer = admin._post(
        "change-password", old_password=ADMIN_PASSWORD, new_password=GOOD, new_password_confirmation=GOOD
    )
    assert answer.status_code == 200, answer.text
    assert "changed successfully" in answer.text
    assert hub.browser().login("admin", GOOD)
