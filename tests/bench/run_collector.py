"""python run_collector.py API_URL: the collector's own program, with an API server that speaks plain HTTP."""

from __future__ import annotations

import logging
import sys

import uvloop
from gpuhub_portal.collector import __main__ as program
from gpuhub_portal.collector.kube import KubeApi, session


def _api() -> KubeApi:
    return KubeApi(session(sys.argv[1]))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    program.in_cluster = _api
    uvloop.run(program._main())
