"""Whether the cluster answers, as MicroK8s sees it."""

from __future__ import annotations

import http.client
import ssl
import time

from . import arguments
from .snapenv import CERTS, kubectl


def api_ready() -> bool:
    """The API server of this node says so itself."""
    try:
        context = ssl.create_default_context(cafile=str(CERTS / "ca.crt"))
        context.load_cert_chain(CERTS / "client.crt", CERTS / "client.key")
        port = int(arguments.get("kube-apiserver", "--secure-port") or 16443)
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=5)
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


def ready(with_node: bool = True) -> bool:
    """The service `kubernetes` is listed and, unless told otherwise, any one node is Ready."""
    if "service/kubernetes" not in kubectl("get", "all", "--all-namespaces").stdout:
        return False
    return not with_node or any(" Ready " in line for line in kubectl("get", "nodes").stdout.splitlines())


def wait_ready(timeout: float, with_node: bool = True) -> bool:
    """Wait until ready; 0 waits for ever."""
    deadline = time.monotonic() + timeout
    while not ready(with_node):
        if timeout and time.monotonic() > deadline:
            return False
        time.sleep(2)
    return True
