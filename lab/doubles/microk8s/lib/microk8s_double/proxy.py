"""daemon-apiserver-proxy: on a worker, 127.0.0.1:16443 leads to the API servers in args/traefik/provider.yaml."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys

import yaml

from . import arguments, cluster
from .snapenv import CREDENTIALS, PROVIDER, SNAP, locked

_PORT = 16443
_CONNECT_TIMEOUT_S = 3
_turn = itertools.count()


def endpoints() -> list[str]:
    """HOST:PORT of each API server; an emptied file leaves none, and the worker is cut off."""
    try:
        provider = yaml.safe_load(PROVIDER.read_text())
        servers = provider["tcp"]["services"]["kube-apiserver"]["loadBalancer"]["servers"]
        return [server["address"] for server in servers]
    except (OSError, yaml.YAMLError, TypeError, KeyError):
        return []


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    known = endpoints()
    start = next(_turn)
    for i in range(len(known)):
        host, _, port = known[(start + i) % len(known)].rpartition(":")
        try:
            far = await asyncio.wait_for(asyncio.open_connection(host, int(port)), _CONNECT_TIMEOUT_S)
        except (OSError, TimeoutError):
            continue
        await asyncio.gather(_copy(reader, far[1]), _copy(far[0], writer))
        return
    writer.close()


def _refresh() -> None:
    """Ask the cluster for its API servers and write them down."""
    asked = subprocess.run(
        [SNAP / "kubectl", f"--kubeconfig={CREDENTIALS / 'kubelet.config'}", "--request-timeout=10s",
         "get", "endpointslices", "-n", "default", "-l", "kubernetes.io/service-name=kubernetes", "-o", "json"],
        capture_output=True, text=True,
    )  # fmt: skip
    if asked.returncode != 0:
        print(f"cannot list the API servers: {asked.stderr.strip()}", flush=True)
        return
    found = sorted(
        f"{address}:{port['port']}"
        for item in json.loads(asked.stdout)["items"]
        for port in item["ports"]
        for endpoint in item["endpoints"]
        for address in endpoint["addresses"]
    )
    if found and found != sorted(endpoints()):
        cluster.write_provider(found)
        print(f"API servers are now {', '.join(found)}", flush=True)


async def _main() -> None:
    interval = int(arguments.get("apiserver-proxy", "--refresh-interval").removesuffix("s") or "30")
    server = await asyncio.start_server(_serve, "127.0.0.1", _PORT)
    async with server:
        while interval:
            await asyncio.sleep(interval)
            await asyncio.to_thread(_refresh)
        await server.serve_forever()


def run() -> None:
    """Serve until killed; on a node with a control plane of its own there is nothing to do."""
    if locked(cluster.NO_PROXY):
        sys.exit(0)
    asyncio.run(_main())
