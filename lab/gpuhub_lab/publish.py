"""The head's ports on this machine's loopback: connections are passed on into the lab's network.

Runs as `python -m gpuhub_lab.publish LOCK NAMESPACE ADDRESS PORT...`.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from .process import Daemon, join_network


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    # Each direction ends by itself: a client may be done sending and wait for the answer.
    if writer.can_write_eof():
        writer.write_eof()


async def _serve(daemon: Daemon, namespace: str, target: str, ports: list[int]) -> None:
    # A socket belongs to the namespace of the thread that made it: this one thread lives in the lab's.
    inside = ThreadPoolExecutor(1, initializer=join_network, initargs=(namespace,))
    loop = asyncio.get_running_loop()

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setblocking(False)
        return made

    async def client(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = await loop.run_in_executor(inside, make)
        ends = [writer]
        try:
            await asyncio.wait_for(loop.sock_connect(upstream, (target, port)), 10)
            there, here = await asyncio.open_connection(sock=upstream)
            ends.append(here)
            await asyncio.gather(_copy(reader, here), _copy(there, writer))
        except (OSError, TimeoutError):
            upstream.close()
        finally:
            for end in ends:
                with suppress(OSError, RuntimeError):
                    end.close()

    servers = [await asyncio.start_server(partial(client, port), "127.0.0.1", port) for port in ports]
    await loop.run_in_executor(inside, make)
    daemon.hold()
    await asyncio.gather(*(server.serve_forever() for server in servers))


def main(lock: str, namespace: str, target: str, *ports: str) -> None:
    """Serve until the end."""
    asyncio.run(_serve(Daemon(Path(lock)), namespace, target, [int(port) for port in ports]))


if __name__ == "__main__":
    main(*sys.argv[1:])
