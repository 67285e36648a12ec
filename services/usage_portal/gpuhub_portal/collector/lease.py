"""Which of several collectors leads: a Lease of Kubernetes, used as its own components use it.

A Lease can be lost without its holder noticing, so it only keeps others from working in vain. That nothing is written
by two is the epoch's task (`gpuhub_portal.ledger.store`).
"""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import datetime, timezone

from gpuhub_portal.collector.clock import Clock
from gpuhub_portal.collector.kube import NETWORK_ERRORS, ConflictError, KubeApi

_LOG = logging.getLogger(__name__)
# Of a process that is about to be killed.
_RESIGN_SECONDS = 5


class LostError(Exception):
    """The lease could not be renewed in time."""


class Election:
    """One candidate. `seconds` is how long a lease is good for after its last renewal."""

    def __init__(
        self,
        api: KubeApi,
        clock: Clock,
        chance: random.Random,
        namespace: str,
        name: str,
        holder: str,
        seconds: float = 30,
    ) -> None:
        self._api, self._clock, self._chance = api, clock, chance
        self._namespace, self._name, self._holder, self._seconds = namespace, name, holder, seconds
        # Clocks of two machines differ: what counts is for how long we have seen no renewal.
        self._seen: tuple[str, float] = ("", 0.0)
        # As it was written last. Who renews it need not read it first: of another's in between the API server tells.
        self._held: dict | None = None

    async def acquire(self) -> None:
        """Return when this candidate leads."""
        while not await self._try():
            await self._clock.sleep(self._seconds / 3 * self._chance.uniform(1, 1.2))

    async def keep(self) -> None:
        """Renew until that is no longer possible; then LostError, while nobody else may take it yet."""
        renewed = self._clock.monotonic()
        while True:
            # A renewal that failed is tried again soon.
            await self._clock.sleep(self._seconds / (2 if self._held else 10))
            if await self._try():
                renewed = self._clock.monotonic()
            elif self._clock.monotonic() - renewed > self._seconds * 2 / 3:
                raise LostError(f"{self._namespace}/{self._name}")

    async def resign(self) -> None:
        """Let others lead at once, where this candidate does and is about to end. Does not raise."""
        if self._held is None:
            return
        lease, self._held = self._mine(self._held), None
        lease["spec"]["holderIdentity"] = ""
        try:
            async with asyncio.timeout(_RESIGN_SECONDS):
                await self._api.write_lease(self._namespace, self._name, lease)
        except (*NETWORK_ERRORS, ConflictError, ValueError) as error:
            _LOG.warning("lease: %s: %s", type(error).__name__, error)

    async def _try(self) -> bool:
        """Take or renew the lease; False if it is another's or the API server does not answer."""
        lease, self._held = self._held, None
        try:
            lease = lease or await self._api.read_lease(self._namespace, self._name)
            if lease is not None and not self._may_take(lease):
                return False
            self._held = await self._api.write_lease(self._namespace, self._name, self._mine(lease))
        except (*NETWORK_ERRORS, ConflictError, ValueError) as error:
            _LOG.warning("lease: %s: %s", type(error).__name__, error)
            return False
        return True

    def _may_take(self, lease: dict) -> bool:
        spec, now = lease.get("spec") or {}, self._clock.monotonic()
        if spec.get("holderIdentity") in (None, "", self._holder):
            return True
        if self._seen[0] != lease["metadata"]["resourceVersion"]:
            self._seen = (lease["metadata"]["resourceVersion"], now)
        return now - self._seen[1] > (spec.get("leaseDurationSeconds") or self._seconds)

    def _mine(self, lease: dict | None) -> dict:
        now = datetime.fromtimestamp(self._clock.now(), timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        metadata = {"name": self._name, "namespace": self._namespace}
        before = (lease or {}).get("spec") or {}
        if lease:
            metadata["resourceVersion"] = lease["metadata"]["resourceVersion"]
        same = before.get("holderIdentity") == self._holder
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": self._holder,
                "leaseDurationSeconds": int(self._seconds),
                "acquireTime": before.get("acquireTime") if same else now,
                "renewTime": now,
                "leaseTransitions": (before.get("leaseTransitions") or 0) + (not same and lease is not None),
            },
        }
