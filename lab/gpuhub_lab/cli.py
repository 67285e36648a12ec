"""The command line: arguments in, exit code out."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import TypeVar

from . import builds, gpus, template
from .instance import MAX_WORKERS, Instance
from .lifecycle import DEFAULT_WORKERS, Lab, leave_run
from .process import LabError

T = TypeVar("T")

_EPILOG = """environment:
  GPUHUB_LAB_NAME            which lab (default: lab); several run side by side, with the same addresses
  GPUHUB_LAB_CACHE           where artefacts are kept (default: ~/.cache/gpuhub-lab)
  GPUHUB_LAB_DEBIAN_MIRROR   Debian mirror, where the machine's own apt configuration names none
"""


def _workers(text: str) -> int:
    value = int(text)
    if not 0 <= value <= MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and {MAX_WORKERS}")
    return value


def _checked(parse: Callable[[str], T]) -> Callable[[str], T]:
    """What argparse calls for an option's value: its users see what a ValueError says."""

    def checked(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lab",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Emulated hosts in a network with no way out: head (10.77.0.11), worker1 (10.77.0.12) and so on.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, detail: str = "") -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}. {detail}".strip())

    build = command("build", "build artefacts, or find that they are unchanged", "Prints the folder of each.")
    build.add_argument("name", nargs="*", metavar="NAME", help=f"{', '.join(builds.NAMES)} (default: all of them)")
    up = command("up", "bring the lab up", "Does nothing to hosts that run; clears away what a killed lab left.")
    up.add_argument(
        "--workers",
        type=_workers,
        metavar="N",
        help=f"how many beside the head (default: as many as there were, at first {DEFAULT_WORKERS})",
    )
    up.add_argument(
        "--gpus",
        type=_checked(gpus.parse),
        action="append",
        default=[],
        metavar="HOST=COUNTxPRODUCT",
        help=f"which GPUs a host has from its next start on: 4xH100, 0 for none; of {', '.join(gpus.PRODUCTS)} "
        "(default: none on the head, 8 on each worker, of these in turn)",
    )
    up.add_argument(
        "--os",
        type=_checked(template.parse),
        action="append",
        default=[],
        metavar="HOST=SUITE",
        help=f"which Debian a new host is installed with, of {', '.join(template.SUITES)} (default: {template.SUITE})",
    )
    command("down", "shut all hosts down and remove the network; what they wrote is kept")
    status = command("status", "show hosts, saves and what is published")
    status.add_argument("--json", action="store_true", help="for programs")
    for name, text in (
        ("exec", "run a command on a host, without the network"),
        ("ssh", "run a command on a host by ssh, or open a shell"),
    ):
        sub = command(name, text, "The exit code is the command's.")
        sub.add_argument("host", metavar="HOST")
        sub.add_argument("cmd", nargs=argparse.REMAINDER, metavar="CMD", help="the command and its arguments")
    run = command(
        "run",
        "run a command on the bastion: this machine's files, the lab's network and resolver",
        "The environment is kept, the exit code is the command's.",
    )
    run.add_argument("cmd", nargs=argparse.REMAINDER, metavar="CMD", help="the command and its arguments")
    command("kill", "crash a host at once").add_argument("host", metavar="HOST")
    command("start", "boot a host").add_argument("host", metavar="HOST")
    save = command(
        "save", "keep the state of all hosts and the shared storage", "Hosts are shut down for it and started again."
    )
    save.add_argument("name", metavar="NAME")
    load = command("load", "go back to a saved state", "What was written since is lost.")
    load.add_argument("name", metavar="NAME")
    load.add_argument("--from", dest="source", metavar="LAB", help="copy the save from another lab first")
    attempts = command(
        "attempts",
        "print what tried to reach the outside as JSON",
        "lookups: time, source, name, type. packets: source, destination, protocol, port, packets.",
    )
    attempts.add_argument("--reset", action="store_true", help="begin to count anew after printing")
    publish = command(
        "publish",
        "make ports of the head this machine's",
        "30080, JupyterHub, and 29781, the usage portal; until `down`.",
    )
    publish.add_argument("--stop", action="store_true", help="end it")
    command("clean", "remove the lab with all it wrote and saved", "Artefacts in the cache stay.")
    return parser


def _table(status: dict) -> str:
    rows = [("HOST", "OS", "ADDRESS", "STATE", "MEMORY")]
    rows += [(h["name"], h["os"], h["address"], h["state"], f"{h['memory'] / 2**20:.0f} MiB") for h in status["hosts"]]
    lines = [
        f"{name:<10} {suite:<9} {address:<12} {state:<6} {memory:>10}" for name, suite, address, state, memory in rows
    ]
    lines.append(f"saves: {', '.join(status['saves']) or 'none'}")
    lines.append(f"published: {status['published'] or 'no'}")
    return "\n".join(lines)


def _dispatch(options: argparse.Namespace) -> int:
    if options.command == "build":
        for folder in builds.build_all(options.name or builds.NAMES):
            print(folder, flush=True)
        return 0
    if os.geteuid() != 0:
        raise LabError("the lab makes namespaces, mounts and cgroups: run it as root")
    lab = Lab(Instance.current())
    command = getattr(options, "cmd", [])
    if command[:1] == ["--"]:
        command = command[1:]
    match options.command:
        case "up":
            lab.up(options.workers, dict(options.gpus), dict(options.os))
        case "down":
            lab.down()
        case "status":
            status = lab.status()
            print(json.dumps(status, indent=2) if options.json else _table(status))
        case "exec":
            lab.execute(options.host, command or ["bash", "-l"])
        case "ssh":
            lab.ssh(options.host, command)
        case "run":
            return lab.run(command or ["bash"])
        case "kill":
            lab.kill(options.host)
        case "start":
            lab.start(options.host)
        case "save":
            lab.save(options.name)
        case "load":
            lab.load(options.name, Instance.named(options.source) if options.source else None)
        case "attempts":
            print(json.dumps(lab.attempts(options.reset), indent=2))
        case "publish":
            url = lab.publish(options.stop)
            if url:
                print(url)
        case "clean":
            lab.clean()
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run one command; errors that the user can cure are one line on standard error."""
    options = _parser().parse_args(argv)
    try:
        leave_run([sys.executable, *sys.argv])
        return _dispatch(options)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
