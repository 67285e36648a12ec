"""Settings of the portal, from the environment: USAGE_PORTAL_<NAME>.

Kubernetes puts variables of its own with this prefix into pods of a namespace with a Service `usage-portal`
(USAGE_PORTAL_PORT=tcp://...), so no setting is called host, port or service.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gpuhub_core import quota_profiles
from pydantic import AnyHttpUrl, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError


class SettingsError(Exception):
    """The environment does not describe a portal; the text names each variable and holds no secret."""


class Settings(BaseSettings):
    """What a portal needs to know; secrets come from files that the role writes."""

    model_config = SettingsConfigDict(env_prefix="USAGE_PORTAL_", hide_input_in_errors=True)

    database_url: SecretStr | None = None
    database_url_file: Path | None = None
    database_pool_size: int = Field(default=10, ge=1, le=200)
    # Seconds that a request waits for a connection of the pool before it is told to come back.
    database_pool_timeout: float = Field(default=10, gt=0, le=60)

    listen_address: str = "0.0.0.0"
    listen_port: int = Field(default=8080, ge=1, le=65535)
    # Where browsers reach the portal. Redirects go there, never to what a Host header says.
    public_url: AnyHttpUrl = AnyHttpUrl("http://localhost:8080")

    # The first administrator's token: the file's content, read again whenever it changes.
    admin_token_file: Path | None = None

    # JupyterHub as browsers reach it, ending in /hub; without it people cannot log in and tokens still work.
    hub_url: AnyHttpUrl | None = None
    # JupyterHub's API as this process reaches it; by default below `hub_url`.
    hub_api_url: AnyHttpUrl | None = None
    hub_client_id: str = "service-usage-portal"
    hub_client_secret_file: Path | None = None
    cookie_secret_file: Path | None = None
    login_seconds: int = Field(default=8 * 3600, ge=60, le=30 * 86400)

    # Days and months of reports begin at midnight there.
    time_zone: str = "UTC"
    # Sizes of notebooks, as JSON: the settings of `gpuhub_core.quota_profiles`.
    profiles: dict[str, Any] = {}
    reservation_seconds: int = Field(default=120, ge=5, le=3600)
    # How old the collector's knowledge of the cluster may be for a start to be decided by it.
    collector_seconds: int = Field(default=60, ge=15, le=3600)
    # How long before a notebook ends with its user's budget that is said.
    notice_seconds: int = Field(default=900, ge=60, le=86_400)
    # How much later than that it ends at the soonest, if its end was known late.
    least_notice_seconds: int = Field(default=300, ge=60, le=86_400)
    # How old what is known about limits, use and tokens may be when it is answered from memory.
    cache_seconds: float = Field(default=1.0, ge=0, le=1)
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError("is no time zone of the tz database, such as Europe/Berlin") from error
        return value

    @field_validator("profiles")
    @classmethod
    def _possible_profiles(cls, value: dict[str, Any]) -> dict[str, Any]:
        quota_profiles.settings(value)
        return value

    @model_validator(mode="after")
    def _complete(self) -> Settings:
        if (self.database_url is None) == (self.database_url_file is None):
            raise ValueError("set either USAGE_PORTAL_DATABASE_URL or USAGE_PORTAL_DATABASE_URL_FILE")
        if self.hub_url is not None and not (self.hub_client_secret_file and self.cookie_secret_file):
            raise ValueError(
                "USAGE_PORTAL_HUB_URL needs USAGE_PORTAL_HUB_CLIENT_SECRET_FILE and USAGE_PORTAL_COOKIE_SECRET_FILE"
            )
        return self

    @property
    def public_origin(self) -> str:
        """Scheme, host and port of the public URL, as browsers write it in an Origin header."""
        url = self.public_url
        default = {"http": 80, "https": 443}[url.scheme]
        return f"{url.scheme}://{url.host}" + (f":{url.port}" if url.port not in (None, default) else "")

    @property
    def hub_api(self) -> str:
        """The hub's API without a slash at the end; only with a `hub_url`."""
        return str(self.hub_api_url or f"{str(self.hub_url).rstrip('/')}/api").rstrip("/")

    def database(self) -> URL:
        """The database's address with its driver; raises SettingsError."""
        if self.database_url is not None:
            text = self.database_url.get_secret_value()
        else:
            text = read_secret(self.database_url_file, "USAGE_PORTAL_DATABASE_URL_FILE")
        try:
            url = make_url(text)
        except ArgumentError:
            raise SettingsError("the database URL is none; it reads postgresql://user:password@host/name") from None
        if url.get_backend_name() not in ("postgresql", "postgres"):
            raise SettingsError(f"the database must be PostgreSQL, but its URL begins with {url.drivername}:")
        return url.set(drivername="postgresql+psycopg")

    def secrets(self) -> set[str]:
        """Every secret that this process knows, to be kept out of its logs."""
        texts = {self.database().password or "", self.database().render_as_string(hide_password=False)}
        for path in (self.admin_token_file, self.hub_client_secret_file, self.cookie_secret_file):
            if path is not None and path.exists():
                texts.add(path.read_text(encoding="utf-8").strip())
        return {text for text in texts if len(text) >= 8}


def read_secret(path: Path | None, name: str) -> str:
    """Return the content of a file without the line end; raises SettingsError with the variable's name."""
    if path is None:
        raise SettingsError(f"{name} is not set")
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name}: {path} cannot be read: {getattr(error, 'strerror', None) or 'no text'}") from None
    if not text:
        raise SettingsError(f"{name}: {path} is empty")
    return text


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def load(kind: type[SettingsT] = Settings) -> SettingsT:
    """Read the environment; raises SettingsError with every variable that is wrong."""
    try:
        return kind()
    except ValidationError as error:
        faults = []
        for fault in error.errors(include_url=False, include_input=False):
            name = "_".join(["USAGE_PORTAL", *map(str, fault["loc"])]).upper()
            text = fault["msg"].removeprefix("Value error, ")
            faults.append(f"{name}: {text}" if fault["loc"] else text)
        raise SettingsError("; ".join(faults)) from None
