"""The hub's pages of accounts where NativeAuthenticator's own would leave a door open."""

from __future__ import annotations

from importlib import resources
from typing import Any

from jupyterhub.scopes import needs_scope
from jupyterhub.utils import url_path_join
from nativeauthenticator import handlers
from nativeauthenticator.orm import UserInfo
from tornado import web

# Beside this module; a file of a zip archive, which Jinja's own loaders do not read.
APPROVAL_PAGE = "authorization-area.html"


class LoginHandler(handlers.LoginHandler):
    """Log in, without telling whether the password of a locked account was right."""

    async def post(self) -> None:
        name = self.get_argument("username", "", strip=False)
        refusal = self.authenticator.refusal_to_try(name, self.get_argument("password", "", strip=False))
        if refusal:
            self.finish(await self._render(login_error=refusal, username=name))
            return
        await super().post()


class SignUpHandler(handlers.SignUpHandler):
    """Sign up, with a refusal that says which rule was not kept."""

    def get_result_message(self, user: UserInfo | None, human: bool, taken: bool, *rest: bool) -> tuple[str, str]:
        """Alert level and text for the answer to a sign-up."""
        refusal = self.authenticator.refusal_of_account(
            self.get_body_argument("username", "", strip=False),
            self.get_body_argument("signup_password", "", strip=False),
        )
        if user is None and refusal and not taken:
            return "alert-danger", refusal
        return super().get_result_message(user, human, taken, *rest)


class ApprovalPageHandler(handlers.AuthorizationAreaHandler):
    """The list of accounts, whose buttons are forms with a token against requests from other sites."""

    def get_template(self, name: str, sync: bool = False) -> Any:
        """Load a template; the approval page is ours."""
        if name != APPROVAL_PAGE:
            return super().get_template(name, sync)
        page = resources.files(__package__).joinpath(APPROVAL_PAGE).read_text(encoding="utf-8")
        return self.settings["jinja2_env"].from_string(page)


class _ChangeHandler(handlers.LocalBase):
    """An account is changed by a form of the approval page alone.

    A POST carries the token that JupyterHub checks before a handler runs. NativeAuthenticator changes accounts on GET,
    which any page that an administrator looks at can make the browser send.
    """

    @needs_scope("admin:users")
    async def get(self, name: str) -> None:
        """Lead who followed a link to the page with the buttons."""
        self._to_approval_page()

    def _to_approval_page(self) -> None:
        self.redirect(url_path_join(self.hub.base_url, "authorize"))


class AuthorizeHandler(_ChangeHandler):
    """Approve an account, or withdraw the approval."""

    @needs_scope("admin:users")
    async def post(self, name: str) -> None:
        """Set, not toggle: sent twice it does the same."""
        wanted = self.get_body_argument("authorized", "")
        if wanted not in ("yes", "no"):
            raise web.HTTPError(400, "authorized must be yes or no")
        account = self.authenticator.get_user(name)
        if account is None:
            raise web.HTTPError(404, "There is no such account")
        account.is_authorized = wanted == "yes"
        self.db.commit()
        self.log.info("%s set authorized=%s for account '%s'", self.current_user.name, wanted, account.username)
        self._to_approval_page()


class DiscardHandler(_ChangeHandler, handlers.DiscardHandler):
    """Remove an account that is not approved."""

    @needs_scope("admin:users")
    async def post(self, name: str) -> None:
        """Remove it, unless a server still runs that nobody could stop then."""
        user = self.find_user(name)
        if user is not None and user.active:
            raise web.HTTPError(409, f"The server of {user.name} runs; stop it first")
        self.log.info("%s discards account '%s'", self.current_user.name, name)
        await handlers.DiscardHandler.get(self, name)


def replace_handlers(routes: list[tuple]) -> list[tuple]:
    """Return NativeAuthenticator's routes with the handlers of this module."""
    ours = {
        handlers.LoginHandler: LoginHandler,
        handlers.SignUpHandler: SignUpHandler,
        handlers.AuthorizationAreaHandler: ApprovalPageHandler,
        handlers.ToggleAuthorizationHandler: AuthorizeHandler,
        handlers.DiscardHandler: DiscardHandler,
    }
    return [(pattern, ours.get(handler, handler), *rest) for pattern, handler, *rest in routes]
