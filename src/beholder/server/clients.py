"""Who is being served, for fair scheduling and for limits per client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

# The address of the client whose request is being handled in this context; empty outside of requests.
current_client: ContextVar[str] = ContextVar("current_client", default="")


class KeyedLimiter:
    """Limits how many tasks hold the same key at once; the others wait.

    Args:
        limit: Maximum number of holders per key.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._semaphores: dict[str, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Wait for one of the places of a key."""
        semaphore, users = self._semaphores.get(key, (asyncio.Semaphore(self.limit), 0))
        self._semaphores[key] = semaphore, users + 1
        try:
            async with semaphore:
                yield
        finally:
            semaphore, users = self._semaphores.pop(key)
            if users > 1:
                self._semaphores[key] = semaphore, users - 1
