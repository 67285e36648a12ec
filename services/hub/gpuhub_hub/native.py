"""Login by name and password, kept in the hub's own database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import bcrypt
from gpuhub_core.usernames import RESERVED_PREFIX, SIGN_UP_PATTERN
from jupyterhub import orm
from nativeauthenticator import NativeAuthenticator
from nativeauthenticator.orm import UserInfo
from traitlets import Dict, Unicode

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

    async def authenticate(self, handler: Any, data: Mapping[str, str]) -> str | None:
        """Return the user's name, or None. What bcrypt cannot take is a wrong password, not an error of the hub."""
        if not data.get("username") or not _fits_bcrypt(data.get("password", "")):
            return None
        return await super().authenticate(handler, data)


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
