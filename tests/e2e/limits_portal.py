"""A portal of another system, with limits and use alone: `limits_portal.py ADDRESS PORT TOKEN`.

Everybody may have two GPUs and uses one, whatever they start: it hears of nothing.
"""

from __future__ import annotations

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LIMITS = {
    "cpu_limit_cores": None,
    "memory_limit_gib": None,
    "gpu_limit": 2,
    "usage": {"cpu_cores": 0, "memory_gib": 0, "gpu": 1},
}


class Handler(BaseHTTPRequestHandler):
    """Answers `GET /users/{username}/limits` to whoever has the token."""

    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == f"Bearer {sys.argv[3]}"
        if not known or not re.fullmatch(r"/users/[^/]+/limits", self.path):
            self.send_error(404 if known else 401)
            return
        body = json.dumps(LIMITS).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
