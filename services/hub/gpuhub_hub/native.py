"""Login by name and password, kept in the hub's own database."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import bcrypt
from gpuhub_core.usernames import RESERVED_PREFIX, SIGN_UP_PATTERN
from jupyterhub import orm
from nativeauthenticator import NativeAuthenticator
from nativeauthenticator.orm import UserInfo
from traitlets import Dict, Unicode

from . import accounts

# bcrypt looks at no more than this; newer versions refuse longer passwords with an exception.
LONGEST_PASSWORD_BYTES = 72


class PlatformNativeAuthenticator(NativeAuthenticator):
    """NativeAuthenticator whose administrators exist before anybody can sign up with their names.

    Without that, whoever signs up first with an administrator's name is the administrator.
    """

    initial_passwords = Dict(
        value_trait=Unicode(),
        key_trait=Unicode(),
        config=True,
        help="Administrators by name, with the password that each has until it is changed.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ensure_administrators()

    def _ensure_administrators(self) -> None:
        """Give every administrator who has no approved account one with the initial password.

        An account that waits for approval is replaced: anybody may have asked for it. An approved one is kept, so that
        a password that was changed stays.
        """
        for name in sorted(self.initial_passwords):
            account = self.get_user(name)
            if account is not None and account.is_authorized:
                continue
            if account is not None:
                self.log.warning("Replacing the unapproved sign-up '%s': it is an administrator's name", name)
                self.db.delete(account)
            password = bcrypt.hashpw(self.initial_passwords[name].encode(), bcrypt.gensalt())
            self.db.add(UserInfo(username=self.normalize_username(name), password=password, is_authorized=True))
            self.log.info("Created the account of administrator '%s'", name)
        self.db.commit()

    def user_exists(self, username: str) -> bool:
        """Whether nobody can sign up as `username`: taken, an administrator's, or the platform's own."""
        name = self.normalize_username(username)
        if name in self.admin_users or name.startswith(RESERVED_PREFIX):
            return True
        return super().user_exists(name)

    def create_user(self, username: str, password: str, **kwargs: Any) -> UserInfo | None:
        """Sign somebody up; None if name or password are refused.

        A name that the hub knows already waits for an administrator even where sign-up is open: its home exists, from
        another way of logging in or from an account that was discarded.
        """
        known = orm.User.find(self.db, self.normalize_username(username)) is not None
        account = super().create_user(username, password, **kwargs)
        if account is not None and known and account.is_authorized:
            self.log.warning("Sign-up '%s' waits for approval: the hub knows a user of that name", username)
            account.is_authorized = False
            self.db.commit()
        return account

    def is_password_strong(self, password: str) -> bool:
        """Whether a password is acceptable: NativeAuthenticator's rules, and bcrypt can take it as it is."""
        return _fits_bcrypt(password) and super().is_password_strong(password)

    def refusal_of_account(self, username: str, password: str) -> str:
        """Why nobody can sign up with this name and password: a text for the person who tries, or empty."""
        if not re.match(SIGN_UP_PATTERN, self.normalize_username(username)):
            return (
                "This user name cannot be used. A name has up to 48 characters: letters from a to z and digits, "
                "with single . _ @ + or - between them."
            )
        if not _fits_bcrypt(password):
            return f"The password is too long: it may have {LONGEST_PASSWORD_BYTES} bytes."
        if len(password) < self.minimum_password_length:
            return f"The password is too short: it needs at least {self.minimum_password_length} characters."
        if not self.is_password_strong(password):
            return "The password is a common one, which is among the first that are guessed. Please choose another."
        return ""

    def refusal_to_try(self, username: str, password: str) -> str:
        """Why a login is not even tried: a text for the person who tries, or empty.

        Nobody learns whether the password of a locked account was the right one.
        """
        name = self.normalize_username(username)
        if self.is_blocked(name):
            since = datetime.now() - self.login_attempts[name]["time"]
            minutes = math.ceil((self.seconds_before_next_try - since.total_seconds()) / 60)
            return f"Too many failed logins. Please try again in {max(minutes, 1)} min."
        # What bcrypt cannot take is a wrong password, not an error of the hub.
        return "" if username and _fits_bcrypt(password) else "Invalid username or password."

    def is_blocked(self, username: str) -> bool:
        """Whether an account is locked. A lock that is over, or failures as old as one, count no more."""
        failed = self.login_attempts.get(username)
        if failed and (datetime.now() - failed["time"]).total_seconds() > self.seconds_before_next_try:
            del self.login_attempts[username]
        return super().is_blocked(username)

    async def authenticate(self, handler: Any, data: Mapping[str, str]) -> str | None:
        """Return the user's name, or None."""
        name, password = data.get("username", ""), data.get("password", "")
        if self.refusal_to_try(name, password):
            return None
        return await super().authenticate(handler, {**data, "username": name, "password": password})

    async def refresh_user(self, user: Any, handler: Any = None, **kwargs: Any) -> bool | dict[str, Any]:
        """Whether a login is still good: not once the account's approval is withdrawn.

        Asked at most every `auth_refresh_age` seconds. Users of the platform itself have no account.
        """
        account = self.get_user(user.name)
        if account is not None and not account.is_authorized:
            return False
        return await super().refresh_user(user, handler, **kwargs)

    def get_handlers(self, app: Any) -> list[tuple]:
        """Pages of this way of logging in."""
        return accounts.replace_handlers(super().get_handlers(app))


def _fits_bcrypt(password: str) -> bool:
    return len(password.encode()) <= LONGEST_PASSWORD_BYTES


def configure(c: Any, auth: Mapping[str, Any]) -> None:
    """Use this authenticator.

    `auth`: `administrators` {name: initial password}, `approval` 'admin' or 'auto', `minimum_password_length`,
    `allowed_failed_logins`, `lockout_seconds`.
    """
    c.JupyterHub.authenticator_class = PlatformNativeAuthenticator
    c.Authenticator.admin_users = set(auth["administrators"])
    # Approval is the gate: who has an approved account may come in.
    c.Authenticator.allow_all = True
    c.Authenticator.username_pattern = SIGN_UP_PATTERN
    c.PlatformNativeAuthenticator.initial_passwords = dict(auth["administrators"])
    c.NativeAuthenticator.open_signup = auth["approval"] == "auto"
    c.NativeAuthenticator.check_common_password = True
    c.NativeAuthenticator.minimum_password_length = auth["minimum_password_length"]
    c.NativeAuthenticator.allowed_failed_logins = auth["allowed_failed_logins"]
    c.NativeAuthenticator.seconds_before_next_try = auth["lockout_seconds"]
