"""DNS server of the lab's network: knows no name, answers so at once and notes each question.

Runs as `python -m gpuhub_lab.sink LOCK NAMESPACE LOG`. LOG gets one JSON object a line: time (seconds since the epoch),
source, name, type.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import time
from pathlib import Path

from .instance import GATEWAY
from .process import Daemon, join_network

_NXDOMAIN, _FORMAT_ERROR = 3, 1
_TYPES = {1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV", 64: "SVCB",
          65: "HTTPS", 255: "ANY"}  # fmt: skip


def question(message: bytes) -> tuple[str, str, int]:
    """Name, type and end of the question of a DNS message; ValueError if there is none."""
    if len(message) < 12 or struct.unpack_from("!H", message, 4)[0] != 1:
        raise ValueError("not one question")
    labels, position = [], 12
    while True:
        if position >= len(message):
            raise ValueError("the name does not end")
        length = message[position]
        position += 1
        if length == 0:
            break
        if length > 63 or position + length > len(message):
            raise ValueError("not a label")
        labels.append(message[position : position + length].decode("ascii", "backslashreplace"))
        position += length
    if position + 4 > len(message):
        raise ValueError("no type")
    kind = struct.unpack_from("!H", message, position)[0]
    return ".".join(labels) + ".", _TYPES.get(kind, f"TYPE{kind}"), position + 4


def answer(message: bytes, source: str, log: Path) -> bytes | None:
    """Note the question and return "no such name"; None for what is no DNS message at all."""
    if len(message) < 12:
        return None
    try:
        name, kind, end = question(message)
        code = _NXDOMAIN
    except ValueError as error:
        name, kind, end, code = f"({error})", "", 12, _FORMAT_ERROR
    with log.open("a") as file:
        file.write(json.dumps({"time": round(time.time(), 3), "source": source, "name": name, "type": kind}) + "\n")
    identifier, flags = struct.unpack_from("!HH", message)
    # A response that recursion was available for: otherwise some clients go on asking elsewhere.
    flags = 0x8080 | (flags & 0x7900) | code
    return struct.pack("!HHHHHH", identifier, flags, int(code == _NXDOMAIN), 0, 0, 0) + message[12:end]


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, log: Path) -> None:
        self.log = log

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = answer(data, addr[0], self.log)
        if reply:
            self.transport.sendto(reply, addr)


async def _serve(daemon: Daemon, log: Path) -> None:
    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = writer.get_extra_info("peername")[0]
        try:
            while True:
                length = struct.unpack("!H", await reader.readexactly(2))[0]
                reply = answer(await reader.readexactly(length), source, log)
                if reply:
                    writer.write(struct.pack("!H", len(reply)) + reply)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    await asyncio.get_running_loop().create_datagram_endpoint(lambda: _Datagrams(log), local_addr=(GATEWAY, 53))
    server = await asyncio.start_server(stream, GATEWAY, 53)
    daemon.hold()
    await server.serve_forever()


def main(lock: str, namespace: str, log: str) -> None:
    """Serve until the end."""
    join_network(namespace)
    asyncio.run(_serve(Daemon(Path(lock)), Path(log)))


if __name__ == "__main__":
    main(*sys.argv[1:])
