"""The settings of an inventory, read and checked on the control node before any host is connected to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import Templar

from ..module_utils import jhub_env
from ..plugin_utils import settings

# A variable of each host that this action has seen, so that a second call in the same run does not take what the first
# has set for something that the inventory says. It maps what was set to the names of jhub.env.
SEEN = "__gpuhub_settings"


class Host(NamedTuple):
    """A host's variables as Ansible has them, and what evaluates their templates."""

    name: str
    variables: Mapping[str, Any]
    templar: Templar

    def value(self, name: str, default: Any) -> Any:
        """A variable's value, evaluated."""
        return self.templar.template(self.variables[name]) if self.variables.get(name) is not None else default


class EnvironmentFile(NamedTuple):
    """A jhub.env and the names that are not to be read in it."""

    path: Path
    ignore: tuple[str, ...]


def find(name: str, places: list[str]) -> Path:
    """The file that a path means: beside the inventory, beside the playbook, or in the current folder.

    Raises AnsibleActionFail if there is none, and if there are several that differ.
    """
    path = Path(name).expanduser()
    candidates = list(dict.fromkeys((Path(place) / path).resolve() for place in places))
    found = [candidate for candidate in candidates if candidate.is_file()]
    if not found:
        raise AnsibleActionFail(f"gpuhub_env_file: no file {name}; looked for {', '.join(map(str, candidates))}")
    if len({candidate.read_bytes() for candidate in found}) > 1:
        raise AnsibleActionFail(
            f"gpuhub_env_file: {name} could be {' or '.join(map(str, found))}, which differ; write the whole path"
        )
    return found[0]


def names(value: Any) -> tuple[str, ...]:
    """Names of a list, also of one that the command line gave as a text: `-e gpuhub_env_ignore=[A,B]`."""
    if isinstance(value, str):
        value = [part.strip(" '\"") for part in value.strip("[] ").split(",")]
    if not isinstance(value, (list, tuple)):
        raise AnsibleActionFail(f"gpuhub_env_ignore: {value!r} is no list of names, such as [ENABLE_IB]")
    return tuple(sorted({str(name) for name in value if name}))


def of_hosts(affected: list[str], everybody: list[str]) -> str:
    """Which hosts a finding is about."""
    if len(affected) == len(everybody) > 1:
        return f"all {len(everybody)} hosts"
    return ", ".join(affected[:5]) + (f" and {len(affected) - 5} more" if len(affected) > 5 else "")


def alike(hosts: list[Host]) -> list[str]:
    """Warnings about variables that nobody reads, but whose names are almost those of ours."""
    found = {str(name) for host in hosts for name in host.variables}
    meant = {name: settings.mistaken_for(name) for name in sorted(found - set(settings.known().ours(found, [])))}
    return [f"{name} is no variable of this collection; did you mean {ours}?" for name, ours in meant.items() if ours]


def apply(host: Host, read: jhub_env.Settings) -> tuple[dict[str, Any], dict[str, str]]:
    """What becomes of the file's variables on a host: those that it sets, and those where Ansible's own win."""
    own = host.variables.get(SEEN, {})
    said = {name for name in read.variables if name in host.variables and name not in own}
    variables = {name: value for name, value in read.variables.items() if name not in said}
    return variables, {name: read.sources[name] for name in sorted(said)}


class ActionModule(ActionBase):
    """The action. Nothing is executed on a host and no connection is opened."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Check the settings of all hosts in the first one's place; read those of jhub.env for this host."""
        result = super().run(tmp, task_vars)
        self.validate_argument_spec({})
        self._files: dict[EnvironmentFile, jhub_env.Settings] = {}
        me, everybody = task_vars["inventory_hostname"], task_vars["ansible_play_hosts_all"]
        if me == task_vars["ansible_play_batch"][0]:
            hosts = [self._host(task_vars, name) for name in everybody]
            findings, later = self._check(hosts)
            result.update(unchecked=later, warnings=alike(hosts))
            if findings:
                lines = ["Settings that cannot be right; no host has been connected to:", *findings]
                return {**result, "failed": True, "msg": "\n  - ".join(lines)}
        host = self._host(task_vars, me)
        try:
            read, source = self._read(host)
        except AnsibleError:  # in the first host's report
            return result
        variables, overridden = apply(host, read)
        result.update(
            changed=False,
            file=str(source.path) if source else None,
            variables={name: value for name, value in read.shown().items() if name in variables},
            overridden=overridden,
            without_effect=read.without_effect(),
        )
        if variables.get("jupyterhub_native_approval") == "auto":
            result.setdefault("warnings", []).append(
                f"{source.path}: AUTH_MODE=native lets everybody in who reaches the sign-up page, as the shell scripts "
                "did. With 'jupyterhub_native_approval: admin' an administrator approves each."
            )
        # As add_host does, because a variable of the host is what fits. Facts would be kept by a fact cache into later
        # runs, with secrets, and be overlooked where inject_facts_as_vars is off; set_fact would also win over what a
        # play or a role says.
        marked = dict.fromkeys(variables, True)
        result["add_host"] = {"host_name": me, "groups": [], "host_vars": {**variables, SEEN: marked}}
        # That has secrets, if there are any, and would be shown by -v. What is registered stays as it is.
        if result["variables"] != variables:
            result["_ansible_no_log"] = True
        return result

    def _host(self, task_vars: dict[str, Any], name: str) -> Host:
        """A host with what inventory and command line say about it, without defaults of roles."""
        variables = task_vars["hostvars"].raw_get(name)
        return Host(name, variables, Templar(loader=self._loader, variables=variables))

    def _check(self, hosts: list[Host]) -> tuple[list[str], list[str]]:
        """Everything that is wrong, each thing once with its hosts; and the variables that cannot be judged yet."""
        affected: dict[tuple[str, str], list[str]] = {}
        later: set[str] = set()
        for host in hosts:
            if SEEN not in host.variables:
                faults, waiting = settings.check(host.variables, host.templar, settings.known())
                later.update(waiting)
                for fault in faults:
                    affected.setdefault((f"{fault.variable}: {fault.text}", fault.origin), []).append(host.name)
            try:
                read, source = self._read(host)
            except AnsibleError as error:
                affected.setdefault((error.message, ""), []).append(host.name)
                continue
            for problem in read.problems():
                affected.setdefault((f"{source.path}: {problem}", ""), []).append(host.name)
        everybody = [host.name for host in hosts]
        return [
            f"{text} ({'; '.join(filter(None, [of_hosts(some, everybody), origin]))})"
            for (text, origin), some in affected.items()
        ], sorted(later)

    def _read(self, host: Host) -> tuple[jhub_env.Settings, EnvironmentFile | None]:
        """What a host's jhub.env says, and which file that is. Raises AnsibleError if it cannot be read."""
        name = host.value("gpuhub_env_file", "")
        if not name or not isinstance(name, str):  # what is no path is a wrong type, and in the report already
            return jhub_env.read(""), None
        places = [host.variables.get("inventory_dir"), host.variables.get("playbook_dir"), str(Path.cwd())]
        source = EnvironmentFile(
            find(name, [place for place in places if place]), names(host.value("gpuhub_env_ignore", []))
        )
        if source not in self._files:
            text = self._loader.get_text_file_contents(str(source.path))
            self._files[source] = jhub_env.read(str(text), source.ignore)
        return self._files[source], source
