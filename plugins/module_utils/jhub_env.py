"""jhub.env, the settings file of installations by shell script: its names, their meaning here, its faults. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Callable, NamedTuple

from . import setting_values as check
from .shell_assignments import Assignment, Fault, parse

# What is shown in the place of a secret.
HIDDEN = "(hidden)"
AUTH_MODES = ("native", "github", "azuread", "ubilink")


def _auth_mode(value: str) -> str:
    """A way to log in."""
    if value not in AUTH_MODES:
        raise ValueError(f"must be one of {', '.join(AUTH_MODES)}")
    return value


class Name(NamedTuple):
    """One name of the file."""

    about: str  # what it means, for people
    check: Callable[[str], Any]  # reads the text, raises ValueError that says what it must be
    variable: str = ""  # the Ansible variable that gets the value
    switch: tuple[str, Any] | None = None  # the name, and its value, without which this one has no effect
    needed: bool = False  # whether the switch is of no use without this one
    unbuilt: Mapping[Any, str] = {}  # values that ask for what does not exist yet, and what that is
    secret: bool = False  # whether nobody may see the value


_IB = ("ENABLE_IB", True)
_LIMITS = ("ENABLE_USAGE_LIMIT_ENFORCER", True)
_GITHUB = ("AUTH_MODE", "github")
_AZUREAD = ("AUTH_MODE", "azuread")
_UBILINK = ("AUTH_MODE", "ubilink")
_NGINX = ("ENABLE_NGINX_PROXY", True)
_STORAGE = ("SHARED_STORAGE_ENABLED", True)
_CULLER = ("ENABLE_IDLE_CULLER", True)

NAMES: Mapping[str, Name] = {
    "AUTH_MODE": Name(
        f"How people log in: {', '.join(AUTH_MODES)}.",
        _auth_mode,
        "jupyterhub_auth_mode",
        unbuilt={"github": "login by GitHub", "azuread": "login by Azure AD", "ubilink": "login by UbiLink"},
    ),
    "ADMIN_USERS_CSV": Name("Administrators, with commas between them.", check.users, "jupyterhub_admin_users"),
    "SINGLEUSER_IMAGE": Name("Image of the users' servers.", check.image, "jupyterhub_singleuser_image"),
    "USE_GPU_OPERATOR": Name(
        "Whether NVIDIA's GPU Operator is installed.", check.boolean, unbuilt={True: "GPU Operator"}
    ),
    "ENABLE_IB": Name("Whether servers can have InfiniBand.", check.boolean, unbuilt={True: "InfiniBand"}),
    "IB_RESOURCE_NAME": Name("Resource that InfiniBand is asked for by.", check.resource, switch=_IB, needed=True),
    "IB_RESOURCE_COUNT": Name("How many of it a server gets.", check.whole_number, switch=_IB),
    "ENABLE_USAGE_LIMIT_ENFORCER": Name(
        "Whether a usage portal limits what a user can start.", check.boolean, "usage_portal_enabled"
    ),
    "USAGE_PORTAL_URL": Name(
        "Address of that portal. It is another system's: none is deployed.",
        check.url,
        "usage_portal_url",
        switch=_LIMITS,
        needed=True,
    ),
    "USAGE_PORTAL_TOKEN": Name(
        "Token that it wants.", check.one_line, "usage_portal_token", switch=_LIMITS, secret=True
    ),
    "GITHUB_CLIENT_ID": Name("Client of the OAuth application.", check.one_line, switch=_GITHUB, needed=True),
    "GITHUB_CLIENT_SECRET": Name("Its secret.", check.one_line, switch=_GITHUB, needed=True, secret=True),
    "GITHUB_CALLBACK_URL": Name("Where GitHub leads back to.", check.url, switch=_GITHUB, needed=True),
    "AZUREAD_CLIENT_ID": Name("Client of the application.", check.one_line, switch=_AZUREAD, needed=True),
    "AZUREAD_CLIENT_SECRET": Name("Its secret.", check.one_line, switch=_AZUREAD, needed=True, secret=True),
    "AZUREAD_TENANT_ID": Name("Tenant of the application.", check.one_line, switch=_AZUREAD, needed=True),
    "AZUREAD_CALLBACK_URL": Name("Where Azure AD leads back to.", check.url, switch=_AZUREAD, needed=True),
    "UBILINK_AUTH_ME_URL": Name("Where a cookie's owner is asked for.", check.url, switch=_UBILINK, needed=True),
    "UBILINK_LOGIN_URL": Name("Where people log in.", check.url, switch=_UBILINK, needed=True),
    "ENABLE_NGINX_PROXY": Name("Whether the hub is reached by HTTPS through nginx.", check.boolean, "nginx_enabled"),
    "NGINX_PROXY_SERVER_NAME": Name(
        "Name in the hub's address.", check.host_name, "nginx_server_name", switch=_NGINX, needed=True
    ),
    "NGINX_PROXY_CERT_FILE": Name(
        "Certificate, on the control node.", check.absolute_path, "nginx_certificate_file", switch=_NGINX, needed=True
    ),
    "NGINX_PROXY_KEY_FILE": Name(
        "Key of the certificate, on the control node.",
        check.absolute_path,
        "nginx_certificate_key_file",
        switch=_NGINX,
        needed=True,
    ),
    "SHARED_STORAGE_ENABLED": Name(
        "Whether users have a folder on shared storage.", check.boolean, "jupyterhub_shared_storage_enabled"
    ),
    "SHARED_STORAGE_PATH": Name(
        "Where every host has the shared storage mounted.",
        check.absolute_path,
        "gpuhub_shared_storage_path",
        switch=_STORAGE,
        needed=True,
    ),
    "PVC_SIZE": Name("Size of a user's home.", check.quantity, "jupyterhub_pvc_size"),
    "ENABLE_IDLE_CULLER": Name(
        "Whether idle servers are stopped.", check.boolean, unbuilt={True: "stopping idle servers"}
    ),
    "IDLE_TIMEOUT": Name("Seconds after which a server is idle.", check.whole_number, switch=_CULLER),
}

# What a file with AUTH_MODE=native implies: the shell scripts let everybody in who signs up.
NATIVE_APPROVAL = {"jupyterhub_native_approval": "auto"}


def meaning(name: str) -> str:
    """What a name becomes, for people; names of variables are in `C()`, as in Ansible's documentation."""
    entry = NAMES[name]
    parts = [f"Sets C({entry.variable})"] if entry.variable else []
    if name == "AUTH_MODE":
        implied = ", ".join(f"C({variable}={value})" for variable, value in NATIVE_APPROVAL.items())
        parts = [f"C(native) sets C({entry.variable}=native) and {implied}"]
    if entry.unbuilt:
        parts.append(f"Does not exist yet: {', '.join(entry.unbuilt.values())}")
    if entry.switch:
        switch, state = entry.switch
        parts.append(f"{'Needed' if entry.needed else 'Has an effect'} with C({switch}={_shown(state)})")
        if any(state == value for value in NAMES[switch].unbuilt):
            parts.append("Does not exist yet")
    return ". ".join(parts)


class Settings(NamedTuple):
    """What a file says.

    `variables` Ansible's variables; `sources` the name of the file that each comes from; `faults` all that is wrong,
    by line; `unused` names that have no effect, with the reason; `unbuilt` assignments that ask for what does not
    exist yet, each with its line and what that is; `ignored` names that were not to be read.
    """

    variables: dict[str, Any]
    sources: dict[str, str]
    faults: list[Fault]
    unused: dict[str, str]
    unbuilt: dict[str, tuple[int, str]]
    ignored: list[str]

    def shown(self) -> dict[str, Any]:
        """The variables without secrets, for people."""
        return {name: HIDDEN if NAMES[self.sources[name]].secret else value for name, value in self.variables.items()}

    def problems(self) -> list[str]:
        """Why a deployment cannot go on, one text each; empty if it can."""
        found = [f"line {line}: {text}" if line else text for line, text in self.faults]
        if self.unbuilt:
            asked = ", ".join(f"{name} ({what}, line {line})" for name, (line, what) in self.unbuilt.items())
            without = ", ".join([*self.ignored, *self.unbuilt])
            found.append(f"asks for what does not exist yet: {asked}. To go on without: gpuhub_env_ignore: [{without}]")
        return found

    def without_effect(self) -> list[str]:
        """Names that have no effect, one text for each reason."""
        by_reason: dict[str, list[str]] = {"gpuhub_env_ignore has them": self.ignored} if self.ignored else {}
        for name, reason in self.unused.items():
            by_reason.setdefault(reason, []).append(name)
        return [f"{', '.join(names)} ({reason})" for reason, names in by_reason.items()]


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that is most like another one; empty if none is."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.75)
    return f"; did you mean {found[0]}?" if found else ""


class _Reading:
    """One file while it is read: what is set, by name, and what that comes to."""

    def __init__(self, assignments: Iterable[Assignment], faults: list[Fault], ignored: set[str]) -> None:
        self.ignored = ignored
        self.present: dict[str, Assignment] = {}
        self.values: dict[str, Any] = {}
        self.settings = Settings({}, {}, faults, {}, {}, sorted(ignored))
        self._collect(assignments)

    def fault(self, line: int, text: str) -> None:
        """Note what is wrong."""
        self.settings.faults.append(Fault(line, text))

    def _collect(self, assignments: Iterable[Assignment]) -> None:
        """Note what is set, without ignored names and empty values; names that are unknown or set again are faults."""
        found: dict[str, Assignment] = {}
        for item in assignments:
            if item.name in self.ignored:
                continue
            if item.name in found:
                self.fault(item.line, f"{item.name} is set again; line {found[item.name].line} has set it")
            elif item.name not in NAMES:
                self.fault(item.line, f"{item.name} is no name of jhub.env{nearest(item.name, NAMES)}")
            else:
                found[item.name] = item
        self.present = {name: item for name, item in found.items() if item.value != ""}

    def take(self, name: str) -> None:
        """Check the value of a name that has an effect, and keep what it comes to."""
        item, entry = self.present[name], NAMES[name]
        if item.value is None:  # the parser has said why
            return
        try:
            self.values[name] = value = entry.check(item.value)
        except ValueError as error:
            self.fault(item.line, f"{name} {error}")
            return
        unbuilt = [what for state, what in entry.unbuilt.items() if state == value]
        if unbuilt:
            self.settings.unbuilt[name] = (item.line, unbuilt[0])
        elif entry.variable:
            self.settings.variables[entry.variable] = value
            self.settings.sources[entry.variable] = name

    def take_with_switch(self, name: str) -> None:
        """The same for a name that has an effect only while another one has a certain value."""
        switch, state = NAMES[name].switch
        if switch in self.ignored:
            self.settings.unused[name] = f"{switch} is ignored"
        elif switch not in self.present:
            line = self.present[name].line
            self.fault(line, f"{name} has an effect with {switch}={_shown(state)} only, and {switch} is not set")
        elif switch in self.values and self.values[switch] != state:
            self.settings.unused[name] = f"{switch} is {_shown(self.values[switch])}"
        elif switch in self.values:
            self.take(name)

    def find_missing(self) -> None:
        """Switches that are on without what they need are faults."""
        for name, entry in NAMES.items():
            if entry.needed and name not in self.present and name not in self.ignored:
                switch, state = entry.switch
                if self.values.get(switch) == state:
                    self.fault(self.present[switch].line, f"{switch} is {_shown(state)}, but {name} is not set")


def _shown(value: Any) -> str:
    """A value as the file writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def read(text: str, ignore: Iterable[str] = ()) -> Settings:
    """Return what a file says. Nothing in it is executed; an empty value is the same as none.

    Names in `ignore` count as not written at all. A name there that is neither in the file nor known is a fault.
    """
    assignments, faults = parse(text)
    reading = _Reading(assignments, faults, set(ignore))
    for name in sorted(reading.ignored - {item.name for item in assignments} - NAMES.keys()):
        reading.fault(0, f"gpuhub_env_ignore has {name}, which is no name of jhub.env{nearest(name, NAMES)}")
    switched = [name for name in reading.present if NAMES[name].switch]
    for name in reading.present:
        if name not in switched:
            reading.take(name)
    for name in switched:
        reading.take_with_switch(name)
    reading.find_missing()
    settings = reading.settings
    if settings.variables.get("jupyterhub_auth_mode") == "native":
        settings.variables.update(NATIVE_APPROVAL)
        settings.sources.update(dict.fromkeys(NATIVE_APPROVAL, "AUTH_MODE"))
    faults.sort(key=lambda fault: fault.line)
    return settings
