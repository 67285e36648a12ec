"""Login of people by JupyterHub: OAuth's authorization code flow, with state and PKCE.

The cookie is sent below /api/v1 only. Cookies ignore ports, so one for `/` would also reach the notebook servers of
other users, on the hub's port of the same host, whenever somebody looks at one.
JupyterHub 5 ignores PKCE's challenge; it is sent for hubs that will not.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
import secrets
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import urlencode, urlsplit

import httpx
import sqlalchemy as sa
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from itsdangerous import BadSignature, Signer, URLSafeTimedSerializer

from . import tables
from .auth import COOKIE, Caller
from .database import Database
from .problems import ProblemError, documented
from .settings import Settings, read_secret

_log = logging.getLogger(__name__)
_STATE_COOKIE = "gpuhub-usage-portal-state"
_STATE_SECONDS = 600
COOKIE_PATH = "/api/v1"
CALLBACK = f"{COOKIE_PATH}/auth/callback"
_MOST_REMEMBERED = 10_000
# A path of this portal: no scheme, no host, and nothing that a browser reads as one (`//`, `/\`, control characters).
_LOCAL_PATH = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*")


@dataclass(frozen=True)
class Person:
    """Somebody who is logged in; `admin` as the hub said at login."""

    username: str
    admin: bool


def local_path(text: str | None) -> str:
    """Return `text` if it is a path of this portal, or `/`."""
    return text if text and len(text) <= 2000 and _LOCAL_PATH.fullmatch(text) else "/"


class Logins:
    """Logins by the hub, and the cookies that stand for them."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings, self._database = settings, database
        secret = read_secret(settings.cookie_secret_file, "USAGE_PORTAL_COOKIE_SECRET_FILE")
        self._client_secret = read_secret(settings.hub_client_secret_file, "USAGE_PORTAL_HUB_CLIENT_SECRET_FILE")
        self._signer = Signer(secret, salt="login", key_derivation="hmac", digest_method=hashlib.sha256)
        self._states = URLSafeTimedSerializer(
            secret, salt="state", signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256}
        )
        self._redirect_uri = f"{settings.public_origin}{CALLBACK}"
        self._public_host = urlsplit(settings.public_origin).netloc
        self._client = httpx.AsyncClient(timeout=10, follow_redirects=False)
        self._known: dict[bytes, tuple[float, Person]] = {}

    async def close(self) -> None:
        """Close the connections to the hub."""
        await self._client.aclose()

    async def recognise(self, cookie: str) -> Person | None:
        """Who has this cookie; None where it was not made here, has ended or was logged out."""
        digest = self._digest(cookie)
        if digest is None:
            return None
        known = self._known.get(digest)
        if known is not None and time.monotonic() - known[0] < self._settings.cache_seconds:
            return known[1]
        asked = time.monotonic()
        async with self._database.connect() as connection:
            found = await connection.execute(
                sa.select(tables.login).where(
                    tables.login.c.digest == digest, tables.login.c.expires_at > sa.func.now()
                )
            )
            row = found.one_or_none()
        if row is None:
            self._known.pop(digest, None)
            return None
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        person = Person(row.username, row.admin)
        self._known[digest] = (asked, person)
        return person

    def _digest(self, cookie: str) -> bytes | None:
        try:
            return hashlib.sha256(self._signer.unsign(cookie)).digest()
        except (BadSignature, UnicodeEncodeError):
            return None

    def elsewhere(self, request: Request, next_path: str | None) -> Response | None:
        """Where a login goes on that was begun at another address than the public one, to which the hub sends it back.

        Its cookie would not be found there, and passwords would travel in clear text if it is the port without HTTPS.
        Once only: a proxy of the site may name this portal otherwise to us.
        """
        if request.headers.get("host", "").lower() == self._public_host:
            return None
        query = urlencode({"next": local_path(next_path), "moved": "true"})
        return RedirectResponse(f"{self._settings.public_origin}{COOKIE_PATH}/auth/login?{query}", 302)

    def begin(self, next_path: str | None) -> Response:
        """Send the browser to the hub."""
        verifier = secrets.token_urlsafe(48)
        state = secrets.token_urlsafe(24)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "client_id": self._settings.hub_client_id,
            "redirect_uri": self._redirect_uri,
            "response_type": "code",
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        target = f"{str(self._settings.hub_url).rstrip('/')}/api/oauth2/authorize?{urlencode(query)}"
        response = RedirectResponse(target, 302)
        kept = self._states.dumps({"state": state, "verifier": verifier, "next": local_path(next_path)})
        self._set(response, _STATE_COOKIE, kept, _STATE_SECONDS)
        return response

    async def finish(self, request: Request, code: str, state: str) -> Response:
        """Take the hub's answer, and send the browser on with a cookie. Raises ProblemError."""
        kept = self._kept_state(request)
        if kept is None or not hmac.compare_digest(kept["state"].encode(), state.encode()):
            raise ProblemError(
                400, "login_state", "This login was not begun in this browser, or too long ago. Begin again."
            )
        model = await self._ask_hub(code, kept["verifier"])
        username = model.get("name")
        if model.get("kind") != "user" or not isinstance(username, str) or not username:
            raise ProblemError(403, "forbidden", "Only people can log in here.")
        value = secrets.token_urlsafe(32)
        seconds = self._settings.login_seconds
        async with self._database.begin() as connection:
            await connection.execute(sa.delete(tables.login).where(tables.login.c.expires_at <= sa.func.now()))
            await connection.execute(
                sa.insert(tables.login).values(
                    digest=hashlib.sha256(value.encode()).digest(),
                    username=username,
                    admin=bool(model.get("admin")),
                    expires_at=sa.func.now() + timedelta(seconds=seconds),
                )
            )
        response = RedirectResponse(f"{self._settings.public_origin}{kept['next']}", 302)
        self._set(response, COOKIE, self._signer.sign(value).decode(), seconds)
        response.delete_cookie(_STATE_COOKIE, path=COOKIE_PATH)
        return response

    async def end(self, request: Request, response: Response) -> None:
        """Log out: the cookie is worth nothing any more, wherever it has been copied to."""
        digest = self._digest(request.cookies.get(COOKIE, ""))
        if digest is not None:
            async with self._database.begin() as connection:
                await connection.execute(sa.delete(tables.login).where(tables.login.c.digest == digest))
            self._known.pop(digest, None)
        response.delete_cookie(COOKIE, path=COOKIE_PATH)

    def _kept_state(self, request: Request) -> dict[str, str] | None:
        try:
            return self._states.loads(request.cookies.get(_STATE_COOKIE, ""), max_age=_STATE_SECONDS)
        except (BadSignature, UnicodeEncodeError):
            return None

    async def _ask_hub(self, code: str, verifier: str) -> dict[str, Any]:
        """Exchange the code and return the hub's model of the user."""
        form = {
            "client_id": self._settings.hub_client_id,
            "client_secret": self._client_secret,
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": verifier,
        }
        try:
            answer = await self._client.post(f"{self._settings.hub_api}/oauth2/token", data=form)
            if answer.status_code in (400, 401, 403):
                _log.warning("the hub refuses a login: %s", answer.status_code)
                raise ProblemError(400, "login_refused", "JupyterHub does not accept this login. Begin again.")
            answer.raise_for_status()
            token = answer.json()["access_token"]
            user = await self._client.get(
                f"{self._settings.hub_api}/user", headers={"Authorization": f"Bearer {token}"}
            )
            user.raise_for_status()
            return dict(user.json())
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            _log.warning("the hub does not answer a login: %s", type(error).__name__)
            raise ProblemError(
                503, "hub_unavailable", "JupyterHub does not answer. Try again.", headers={"Retry-After": "5"}
            ) from error

    def _set(self, response: Response, name: str, value: str, seconds: int) -> None:
        secure = self._settings.public_url.scheme == "https"
        response.set_cookie(
            name, value, max_age=seconds, path=COOKIE_PATH, httponly=True, samesite="lax", secure=secure
        )


router = APIRouter(prefix="/auth", tags=["login"])
_Code = Annotated[str, Query(min_length=1, max_length=2000)]


def _logins(request: Request) -> Logins:
    logins = request.app.state.portal.logins
    if logins is None:
        raise ProblemError(404, "no_login", "This portal has no JupyterHub to log in with; use a token.")
    return logins


@router.get("/login", status_code=302, response_class=RedirectResponse, responses=documented(404, 422))
async def login(
    request: Request,
    next: Annotated[str | None, Query(max_length=2000, description="A path of this portal")] = None,
    moved: Annotated[bool, Query(description="Begun at another address of this portal, which sent it here")] = False,
) -> Response:
    """Log in by JupyterHub. One that is begun at another address than the public one goes on there."""
    logins = _logins(request)
    return logins.begin(next) if moved else logins.elsewhere(request, next) or logins.begin(next)


@router.get(
    "/callback", status_code=302, response_class=RedirectResponse, responses=documented(400, 403, 404, 422, 503)
)
async def callback(request: Request, code: _Code, state: _Code) -> Response:
    """Where JupyterHub sends the browser back to."""
    return await _logins(request).finish(request, code, state)


@router.post("/logout", status_code=204, responses=documented(401, 403, 404, 503))
async def logout(request: Request, caller: Caller) -> Response:
    """End the login that the cookie stands for."""
    response = Response(status_code=204)
    await _logins(request).end(request, response)
    return response
