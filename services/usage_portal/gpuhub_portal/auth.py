"""Who asks, and what they may do: a token with scopes, or a person who is logged in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer

from .problems import ProblemError
from .scopes import Scope

COOKIE = "gpuhub-usage-portal"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_bearer = HTTPBearer(auto_error=False, scheme_name="token", description="A token with the scopes that are named")
_cookie = APIKeyCookie(
    name=COOKIE, auto_error=False, scheme_name="login", description="A person's login by JupyterHub; below /api/v1 only"
)


@dataclass(frozen=True)
class Principal:
    """Who asks. A person has a `username` and, unless an administrator, no scopes: only what is their own."""

    name: str
    scopes: frozenset[str] = field(default_factory=frozenset)
    username: str | None = None

    def has(self, *scopes: Scope) -> bool:
        """Whether one of these scopes is held; `admin` is all of them."""
        return Scope.ADMIN.value in self.scopes or any(scope.value in self.scopes for scope in scopes)

    def require(self, *scopes: Scope, owner: str | None = None) -> None:
        """Raise ProblemError 403 without one of these scopes, unless what is asked for belongs to this person."""
        if self.has(*scopes) or (owner is not None and owner == self.username):
            return
        names = " or ".join(scope.value for scope in scopes)
        what = "this belongs to somebody else" if self.username else f"the token lacks the scope {names}"
        raise ProblemError(403, "forbidden", f"Not allowed: {what}.", scopes=[scope.value for scope in scopes])


def _unauthorised(detail: str) -> ProblemError:
    return ProblemError(401, "unauthorized", detail, headers={"WWW-Authenticate": 'Bearer realm="usage-portal"'})


async def principal(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    cookie: Annotated[str | None, Depends(_cookie)],
) -> Principal:
    """The caller; raises ProblemError 401. A token decides where there are both: browsers add cookies by themselves."""
    portal = request.app.state.portal
    if bearer is not None:
        token = await portal.tokens.recognise(bearer.credentials)
        if token is None:
            raise _unauthorised("The token is unknown, revoked or expired.")
        found = Principal(token.name, token.scopes)
    elif "authorization" in request.headers:
        raise _unauthorised("The Authorization header must read: Bearer <token>.")
    elif cookie and portal.logins is not None:
        person = await portal.logins.recognise(cookie)
        if person is None:
            raise _unauthorised("The login has ended; log in again.")
        if request.method not in _SAFE_METHODS:
            _same_origin(request, portal.settings.public_origin)
        scopes = frozenset({Scope.ADMIN.value}) if person.admin else frozenset()
        found = Principal(person.username, scopes, person.username)
    else:
        raise _unauthorised("Send a token: Authorization: Bearer <token>.")
    request.state.actor = found.name
    return found


def _same_origin(request: Request, origin: str) -> None:
    """Refuse a change that another page has sent with this person's cookie.

    SameSite does not help here: it ignores ports, and notebooks are on another port of the same host.
    """
    if request.headers.get("origin") != origin:
        raise ProblemError(403, "cross_origin", f"Changes with a login are accepted from pages of {origin} only.")


Caller = Annotated[Principal, Depends(principal)]
