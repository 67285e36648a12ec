"""Accounts, through the forms of a real hub."""

from __future__ import annotations

from datetime import datetime, timedelta
from urllib.parse import quote, urlencode, urlsplit

import pytest
from harness import wait_for
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


HOSTILE = {
    "parent folder": "..",
    "path": "../bob",
    "long path": "../../x",
    "folder in a folder": "a/b",
    "absolute path": "/etc/passwd",
    "hidden": ".ssh",
    "another script": "алиса",
    "looks like alice": "ａlice",
    "repeated separators": "alice..b",
    "the slug of alice.b": "alice-b---2f6d27bc8dcf09d9c0d2",
    "line break": "alice\n",
    "template": "{unescaped_username}",
    "option": "-rf",
    "longer than a name may be": "a" * 49,
    "longer than a file name may be": "a" * 253,
}


@pytest.fixture(scope="module")
def quick_hub(make_hub):
    """A hub where sign-up is open, and that looks every second whether a login is still good."""
    hub = make_hub()
    hub.start(ADMINS, "auto", refresh_age=1)
    return hub


@pytest.fixture(scope="module")
def admin_api(hub):
    """The REST API as an administrator in a browser has it."""
    browser = hub.browser()
    assert browser.login("admin", ADMINS["admin"])
    browser.get("home")
    return browser.api


def test_refused_sign_ups(hub):
    refused = {
        "too short": ("alice", "short-7", "too short: it needs at least 10"),
        "common": ("alice", "password123", "common one"),
        "longer than bcrypt takes": ("alice", "ä" * 37, "too long"),
        "an administrator's name": ("admin", GOOD, "already in use"),
        "an administrator's name in capitals": ("ADMIN", GOOD, "already in use"),
        "the platform's own name": ("gpuhub-smoke", GOOD, "already in use"),
        "empty": ("", GOOD, "cannot be used"),
        **{what: (name, GOOD, "cannot be used") for what, name in HOSTILE.items()},
    }
    browser = hub.browser()
    answers = {what: browser.sign_up(name, password) for what, (name, password, _) in refused.items()}
    wrong = {what: answer for what, answer in answers.items() if refused[what][2] not in answer}
    assert wrong == {}
    assert {what for what, answer in answers.items() if "danger" not in answer} == set()
    assert not browser.login("admin", GOOD)


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
def test_the_api_makes_no_user_with_a_hostile_name(admin_api, name):
    before = admin_api("GET", "users").json()
    assert admin_api("POST", f"users/{quote(name, safe='')}").status_code in (400, 404, 405)
    assert admin_api("POST", "users", {"usernames": [name]}).status_code == 400
    assert admin_api("GET", "users").json() == before


@pytest.mark.parametrize("next_page", ["//evil.example", "///evil.example", "/\\evil.example", "https://evil.example/"])
def test_login_leads_to_no_other_site(hub, next_page):
    browser = hub.browser()
    page = f"login?{urlencode({'next': next_page})}"
    answer = browser.post(page, username="admin", password=ADMINS["admin"])
    assert answer.status_code == 302
    target = urlsplit(answer.headers["Location"])
    assert (target.scheme, target.netloc) == ("", "") and not target.path.startswith("//"), answer.headers["Location"]


def test_an_account_that_waits_is_locked_too(hub):
    """NativeAuthenticator says of an account that waits whether its password was right, as often as one asks."""
    attacker = hub.browser()
    attacker.sign_up("kim", GOOD)
    answers = [attacker.post("login", username="kim", password=password).text for password in (GOOD, *["guess-1"] * 3)]
    assert "has not been authorized" in answers[0]
    assert "has not been authorized" not in attacker.post("login", username="kim", password=GOOD).text


def test_an_account_waits_for_approval(hub):
    admin, user = hub.browser(), hub.browser()
    assert admin.login("admin", ADMINS["admin"])
    assert admin.is_administrator()
    assert "has been sent to the admin" in user.sign_up("alice", GOOD)
    assert not user.login("alice", GOOD)
    assert "already in use" in hub.browser().sign_up("alice", GOOD)
    assert "alice" in admin.get("authorize").text
    assert admin.decide("authorize/alice", authorized="yes") == 302
    assert user.login("alice", GOOD)
    assert not user.is_administrator()


def test_other_sites_cannot_change_accounts(hub):
    """Neither by a link or an image (GET), nor by a form without the token (POST)."""
    admin, user = hub.browser(), hub.browser()
    assert admin.login("admin", ADMINS["admin"])
    user.sign_up("heidi", GOOD)
    for path in ("authorize/heidi", "discard/heidi"):
        assert admin.get(path).url == f"{hub.url}/hub/authorize"
        forged = admin.session.post(f"{hub.url}/hub/{path}", data={"authorized": "yes"}, timeout=60)
        assert forged.status_code == 403
        foreign = admin.session.post(
            f"{hub.url}/hub/{path}",
            data={"authorized": "yes", "_xsrf": user.session.cookies.get("_xsrf", path="/hub/")},
            timeout=60,
        )
        assert foreign.status_code == 403
    assert not user.login("heidi", GOOD)
    # Control: nothing but the token was missing, and only administrators have one that counts.
    assert admin.decide("authorize/heidi", authorized="yes") == 302
    assert user.login("heidi", GOOD)
    assert user.decide("authorize/heidi", authorized="no") == 403


def test_the_buttons_of_the_approval_page(hub):
    admin, user = hub.browser(), hub.browser()
    assert admin.login("admin", ADMINS["admin"])
    user.sign_up("ivan", GOOD)
    assert admin.buttons("ivan") == {"Authorize", "Discard"}
    admin.press("ivan", "Authorize")
    assert user.login("ivan", GOOD)
    assert admin.buttons("ivan") == {"Withdraw"}
    admin.press("ivan", "Withdraw")
    assert not hub.browser().login("ivan", GOOD)
    admin.press("ivan", "Discard")
    assert admin.buttons("ivan") == set()
    assert admin.decide("authorize/ivan", authorized="yes") == 404
    assert admin.decide("authorize/admin", authorized="maybe") == 400


def test_who_is_no_longer_approved_is_logged_out(quick_hub):
    admin, user = quick_hub.browser(), quick_hub.browser()
    assert admin.login("admin", ADMINS["admin"])
    user.sign_up("judy", GOOD)
    assert user.login("judy", GOOD)
    assert user.api("GET", "user").json()["name"] == "judy"
    admin.decide("authorize/judy", authorized="no")
    # JupyterHub asks again only for a login that is older than auth_refresh_age.
    wait_for("judy is logged out", lambda: user.api("GET", "user").status_code == 403)
    assert admin.api("GET", "user").json()["name"] == "admin"


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
        assert "Invalid username or password" in attacker.post("login", username="erin", password="guess-guess").text
    assert not hub.browser().login("erin", ADMINS["erin"])
    # The right password is refused with the same words as a wrong one.
    for password in (ADMINS["erin"], "guess-guess"):
        answer = attacker.post("login", username="erin", password=password).text
        assert "Too many failed logins. Please try again in 10 min." in answer
    # Control: others are not locked out, and the password was the right one.
    assert hub.browser().login("admin", ADMINS["admin"])
    hub.stop()
    hub.start(ADMINS, "admin")
    assert hub.browser().login("erin", ADMINS["erin"])


@pytest.mark.parametrize(
    ("failures", "age", "blocked"),
    [
        (3, timedelta(seconds=599), True),
        (2, timedelta(seconds=599), False),
        (3, timedelta(seconds=601), False),
        (3, timedelta(days=1, seconds=1), False),  # NativeAuthenticator looks at the seconds, not at the days
    ],
)
def test_how_long_a_lock_lasts(archive, failures, age, blocked):
    from gpuhub_hub.native import PlatformNativeAuthenticator

    attempts = {"erin": {"count": failures, "time": datetime.now() - age}}
    authenticator = PlatformNativeAuthenticator.__new__(PlatformNativeAuthenticator)
    authenticator.login_attempts = attempts
    authenticator.allowed_failed_logins, authenticator.seconds_before_next_try = 3, 600
    assert authenticator.is_blocked("erin") == blocked
    assert ("erin" in attempts) == (age < timedelta(seconds=600))


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
    admin.decide("authorize/carol", authorized="yes")
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
