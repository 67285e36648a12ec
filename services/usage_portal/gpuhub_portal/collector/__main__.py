"""python -m gpuhub_portal.collector: the collector as a process of a pod.

Environment: USAGE_PORTAL_DATABASE_URL, or USAGE_PORTAL_DATABASE_URL_FILE; USAGE_PORTAL_NAMESPACE of the lease;
HOSTNAME names this candidate, as Kubernetes sets it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import uuid
from pathlib import Path

import psycopg
import uvloop

from gpuhub_portal.collector.kube import in_cluster
from gpuhub_portal.collector.process import Collector, Settings
from gpuhub_portal.ledger.store import Connection

# A transaction takes milliseconds. One whose client is gone must not keep the leader's row. Statements take arrays of a
# few rows, again and again: a plan made for these very ones takes longer than to carry it out.
_OPTIONS = (
    "-c statement_timeout=60s -c idle_in_transaction_session_timeout=30s -c timezone=UTC"
    " -c plan_cache_mode=force_generic_plan"
)


def _conninfo() -> str:
    path = os.environ.get("USAGE_PORTAL_DATABASE_URL_FILE")
    url = Path(path).read_text().strip() if path else os.environ["USAGE_PORTAL_DATABASE_URL"]
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


async def _connect() -> Connection:
    return await psycopg.AsyncConnection.connect(
        _conninfo(), autocommit=True, options=_OPTIONS, connect_timeout=10, keepalives_idle=10, tcp_user_timeout=30000
    )


async def _main() -> None:
    api = in_cluster()
    # A restarted container is another candidate: what the first one still writes belongs to an earlier epoch.
    holder = f"{os.environ.get('HOSTNAME', 'collector')}_{uuid.uuid4()}"
    collector = Collector(api, _connect, Settings(os.environ["USAGE_PORTAL_NAMESPACE"], holder))
    task = asyncio.ensure_future(collector.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        await collector.resign()
        logging.getLogger(__name__).info("stopped")
    finally:
        await api.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    uvloop.run(_main())
