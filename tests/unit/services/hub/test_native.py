"""Accounts, through the forms of a real hub."""

from __future__ import annotations

import pytest
from traitlets.config import Config

GOOD = "correct-horse-7"
# Each test has an administrator of its own, so that one hub serves several.
ADMINS = {"admin": "initial-of-admin", "erin": "initial-of-erin", "frank": "initial-of-frank"}


@pytest.fixture(scope="module")
def hub(make_hub):
    """A hub where sign-ups wait for approval."""
    hub = make_hub()
    hub.start(ADMINS, "admin")
    return hub


@pytest.fixture(scope="module")
def open_hub(make_hub):
    """A hub where sign-up is open, and a lock lasts no time."""
    hub = make_hub()
    hub.start(ADMINS, "auto", allowed_failed_logins=1, lockout_seconds=-1)
    return hub


def test_refused_sign_ups(hub):
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
    browser = hub.browser()
    answers = {what: browser.sign_up(name, password) for what, (name, password) in refused.items()}
    assert {what: answer for what, answer in answers.items() if "danger" not in answer} == {}
    assert not browser.login("admin", GOOD)


def test_an_account_waits_for_approval(hub):
    admin, user = hub.browser(), hub.browser()
    assert admin.login("admin", ADMINS["admin"])
    assert admin.is_administrator()
    assert "has been sent to the admin" in user.sign_up("alice", GOOD)
    assert not user.login("alice", GOOD)
    assert "already in use" in hub.browser().sign_up("alice", GOOD)
    assert "alice" in admin.get("authorize").text
    admin.get("authorize/alice")
    assert user.login("alice", GOOD)
    assert not user.is_administrator()


def test_change_password(hub):
    frank = hub.browser()
    assert frank.login("frank", ADMINS["frank"])
    answer = frank.post(
        "change-password", old_password=ADMINS["frank"], new_password=GOOD, new_password_confirmation=GOOD
    )
    assert "changed successfully" in answer.text
    assert not hub.browser().login("frank", ADMINS["frank"])
    assert hub.browser().login("frank", GOOD)


def test_lock_out(hub):
    attacker = hub.browser()
    for _ in range(3):
        assert not attacker.login("erin", "guess-guess-guess")
    assert not hub.browser().login("erin", ADMINS["erin"])
    # Control: others are not locked out, and the password was the right one.
    assert hub.browser().login("admin", ADMINS["admin"])
    hub.stop()
    hub.start(ADMINS, "admin")
    assert hub.browser().login("erin", ADMINS["erin"])


def test_a_lock_ends(open_hub):
    assert not open_hub.browser().login("erin", "guess-guess-guess")
    assert open_hub.browser().login("erin", ADMINS["erin"])


def test_open_sign_up(open_hub):
    user = open_hub.browser()
    assert "successful" in user.sign_up("bob", GOOD)
    assert user.login("bob", GOOD)
    assert not user.is_administrator()


def test_open_sign_up_opens_no_user_that_the_hub_knows(open_hub):
    admin, stranger = open_hub.browser(), open_hub.browser()
    assert admin.login("admin", ADMINS["admin"])
    assert admin.api("POST", "users/carol").status_code == 201
    stranger.sign_up("carol", GOOD)
    assert not stranger.login("carol", GOOD)
    admin.get("authorize/carol")
    assert stranger.login("carol", GOOD)


def test_the_smoke_test_s_token(open_hub):
    smoke = open_hub.browser()
    smoke.session.headers["Authorization"] = "token " + "a" * 64
    assert smoke.api("POST", "users/gpuhub-smoke").status_code == 201
    # Outside its scope the hub answers as if there were nothing.
    assert smoke.api("POST", "users/mallory").status_code == 404
    assert smoke.api("POST", "users/admin/server").status_code == 404
    assert smoke.api("PATCH", "users/gpuhub-smoke", {"admin": True}).status_code == 403
    assert [user["name"] for user in smoke.api("GET", "users").json()] == ["gpuhub-smoke"]


def test_administrators_across_restarts(make_hub):
    hub = make_hub()
    hub.start({"admin": ADMINS["admin"]}, "admin")
    assert "sent to the admin" in hub.browser().sign_up("dave", GOOD)
    assert hub.browser().login("admin", ADMINS["admin"])
    hub.stop()
    # Somebody asked for dave's name before dave became an administrator; admin's password does not change.
    hub.start({"admin": "another-initial-one", "dave": "initial-of-dave"}, "admin")
    assert hub.browser().login("admin", ADMINS["admin"])
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
