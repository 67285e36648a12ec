#!/usr/bin/python
"""A site of nginx, beside those of others."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nginx_site
short_description: A site of nginx, beside those of others
description:
  - Makes one file of nginx' configuration equal to the text given. nginx tests the whole configuration with it; if it
    refuses, the file is put back as it was and the module fails with nginx' own words.
  - Lets a running nginx read its configuration again if any of the files it has read has changed since, also when an
    earlier run was killed between the two. Open connections stay.
  - Takes Debian's welcome page out of the way, if it is as the package brought it. Sites of others are not touched.
  - Whether nginx runs is not decided here, but for O(state=absent) - where no other site is left it is stopped.
version_added: 0.2.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes
options:
  path:
    description: File of the site, one that nginx' configuration includes.
    type: path
    required: true
  content:
    description: The text. Not given with O(state=absent).
    type: str
  reads:
    description: Further files that nginx reads for the site, its certificate and key.
    type: list
    elements: path
    default: []
  default_site:
    description: Debian's link to the welcome page.
    type: path
    default: /etc/nginx/sites-enabled/default
  state:
    description: V(absent) removes the file.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: The site is there
  gpuhub.platform.nginx_site:
    path: /etc/nginx/conf.d/00-gpuhub.conf
    content: "{{ lookup('ansible.builtin.template', 'site.conf.j2') }}"
    reads: [/etc/gpuhub/nginx/tls.crt, /etc/gpuhub/nginx/tls.key]
"""

RETURN = r"""
reasons:
  description: What was changed, or would be; empty if all is as it should be.
  type: list
  elements: str
  returned: success
"""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.atomic_file import write_text

UNIT = "nginx.service"
# Debian's folders; what lies in them is included by its nginx.conf.
SITES = ("/etc/nginx/conf.d/*.conf", "/etc/nginx/sites-enabled/*")
ERROR_LOG = Path("/var/log/nginx/error.log")
RELOAD_TIMEOUT = 15
# Times of processes are counted in hundredths of a second.
TOLERANCE = 0.02


class NginxError(Exception):
    """nginx refuses; the text has its own words."""


class Nginx:
    """The nginx of this host."""

    def __init__(self, module: AnsibleModule) -> None:
        self._run = module.run_command
        self.program = module.get_bin_path("nginx")

    def test(self) -> str:
        """Empty if the configuration on disk is good, else what nginx says of it."""
        code, _out, words = self._run([self.program, "-t", "-q"])
        return words.strip() if code != 0 else ""

    def main_process(self) -> int:
        """Process id of the running nginx; 0 if it does not run."""
        _code, out, _words = self._run(["systemctl", "show", UNIT, "--property=ActiveState,MainPID"])
        shown = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
        return int(shown.get("MainPID") or 0) if shown.get("ActiveState") in ("active", "reloading") else 0

    def is_older_than(self, main: int, files: list[Path]) -> bool:
        """Whether a file has changed since nginx last read its configuration, when its newest worker started."""
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        age = min((process_age(int(child)) for child in children), default=process_age(main))
        return any(file_age(path) + TOLERANCE < age for path in files)

    def reload(self, main: int, files: list[Path]) -> None:
        """Make nginx read its configuration. Raises NginxError if it goes on with the old one."""
        refused = self.test()
        if refused:
            raise NginxError(refused)
        self._run(["systemctl", "reload", UNIT], check_rc=True)
        deadline = time.monotonic() + RELOAD_TIMEOUT
        while self.is_older_than(main, files):
            if time.monotonic() > deadline:
                lines = ERROR_LOG.read_text(errors="replace").splitlines()[-5:] if ERROR_LOG.exists() else []
                raise NginxError(
                    "\n".join(["nginx goes on with its old configuration; see 'journalctl -u nginx'", *lines])
                )
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it, now and at the next boot."""
        self._run(["systemctl", "disable", "--now", UNIT], check_rc=True)


def process_age(process: int) -> float:
    """Seconds since a process started; endless if it is gone."""
    try:
        # The name, in parentheses, may hold anything; the 20th field after it is the start in ticks since the boot.
        ticks = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return float("inf")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def file_age(path: Path) -> float:
    """Seconds since a file, or what a link leads to, was written; endless if it is not there."""
    try:
        return time.time() - max(path.stat().st_mtime, path.lstat().st_mtime)
    except FileNotFoundError:
        return float("inf")


def text(path: Path) -> str | None:
    """The text of a file, or None if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def is_welcome_page(module: AnsibleModule, link: Path) -> bool:
    """Whether the link leads to Debian's welcome page as the package brought it."""
    if not link.is_file():
        return False
    page = link.resolve()
    _code, out, _words = module.run_command(["dpkg-query", "--show", "--showformat=${Conffiles}", "nginx-common"])
    brought = dict(line.split()[:2] for line in out.splitlines() if line.strip())
    return brought.get(str(page)) == hashlib.md5(page.read_bytes(), usedforsecurity=False).hexdigest()


def put(path: Path, content: str | None) -> None:
    """Make a file have this text, or not be there."""
    if content is None:
        path.unlink(missing_ok=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, content, 0o644)


def other_sites(path: Path) -> list[Path]:
    """Files of sites but this one."""
    return [found for pattern in SITES for found in Path("/").glob(pattern[1:]) if found != path]


def work(module: AnsibleModule) -> dict[str, Any]:
    """Compare, then write, test and reload. Raises NginxError if nginx refuses; then all is as it was."""
    path, content, welcome = Path(module.params["path"]), module.params["content"], Path(module.params["default_site"])
    before, reasons = text(path), []
    if before != content:
        reasons.append(f"{path} differs" if before and content else f"{path} is {'missing' if content else 'left'}")
    nginx = Nginx(module)
    hidden = content is not None and nginx.program is not None and is_welcome_page(module, welcome)
    if hidden:
        reasons.append(f"{welcome} is Debian's welcome page")
    if nginx.program is None:
        if content is not None and not module.check_mode:
            raise NginxError("nginx is not installed on this host: role nginx installs it from the bundle")
        if content is None and not module.check_mode:
            put(path, None)
        return {"reasons": reasons}
    if reasons and not module.check_mode:
        target = welcome.readlink() if hidden else None
        put(path, content)
        if hidden:
            welcome.unlink()
        refused = nginx.test()
        if refused:
            put(path, before)
            if hidden:
                welcome.symlink_to(target)
            raise NginxError(f"nginx refuses its configuration with {path}; it is as it was before\n{refused}")
    main, files = nginx.main_process(), [path, *map(Path, module.params["reads"])]
    if content is None:
        if reasons and main and not module.check_mode:
            if other_sites(path):
                nginx.reload(main, [])
            else:
                nginx.stop()
    elif main and (reasons or nginx.is_older_than(main, files)):
        reasons.append("nginx has read older files")
        if not module.check_mode:
            nginx.reload(main, files)
    return {
        "reasons": reasons,
        "diff": {
            "before_header": str(path),
            "after_header": str(path),
            "before": before or "",
            "after": (content or "") if before != content else before or "",
        },
    }


def main() -> None:
    """Do the work, or say what nginx says."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "content": {"type": "str"},
            "reads": {"type": "list", "elements": "path", "default": []},
            "default_site": {"type": "path", "default": "/etc/nginx/sites-enabled/default"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["content"])],
        supports_check_mode=True,
    )
    if module.params["state"] == "absent":
        module.params["content"] = None
    try:
        result = work(module)
    except NginxError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(result["reasons"]), **result)


if __name__ == "__main__":
    main()
