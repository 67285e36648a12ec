"""An HTTP proxy that lets nobody through and notes who asked for what: `counting_proxy.py ADDRESS PORT LOG`."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    """Notes a request as one line of JSON and refuses it."""

    def note(self) -> None:
        request = {
            "source": self.client_address[0],
            "method": self.command,
            "target": self.path,
            "authorization": self.headers.get("Proxy-Authorization", ""),
        }
        with Path(sys.argv[3]).open("a") as log:
            log.write(json.dumps(request) + "\n")
        self.send_error(502, "Noted")

    do_CONNECT = do_GET = do_HEAD = do_POST = do_PUT = note  # noqa: N815 - names that http.server looks for


ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
