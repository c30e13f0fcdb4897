"""The models' time, shared among clients: each model has a thread, and all threads share the same processor.

A worker takes turns among its own clients; this is about those of the other workers. Without it, a client that keeps
one model busy with thousands of texts would take half of the processor from everybody who waits for another model. Only
such long jobs ever wait for other workers' clients.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from math import inf

BURST_SECONDS = 2.0  # that a client may be ahead of the others whose work waits or runs


class FairShare:
    """Seconds of computation that each client has received, as start-time fair queueing counts them.

    A client that comes back is not repaid for the time in which it asked for nothing: its count is at least that of the
    active client that has received the least.

    Source: Goyal, Vin and Cheng, "Start-time Fair Queuing", SIGCOMM 1996.

    Args:
        burst: seconds that a client may be ahead.
    """

    def __init__(self, burst: float = BURST_SECONDS):
        self.burst = burst
        self._lock = threading.Lock()
        self._active: list[Callable[[], Collection[str]]] = []
        self._received: dict[str, float] = {}  # only of clients that are ahead of the least
        self._least = 0.0

    def add_worker(self, active_clients: Callable[[], Collection[str]]) -> None:
        """Add a worker, by the function that returns the clients whose work waits or runs there."""
        self._active.append(active_clients)

    def received(self, client: str) -> float:
        """Return the seconds that a client has received, as they are counted here."""
        with self._lock:
            return self._count(client)

    def is_shared(self) -> bool:
        """Return whether work of more than one client waits or runs."""
        return len(self._active_clients()) > 1

    def charge(self, clients: Collection[str], seconds: float) -> None:
        """Count a computation, to equal parts for each of its clients (one may occur several times)."""
        with self._lock:
            for client in clients:
                self._received[client] = self._count(client) + seconds / len(clients)
            self._least = max(self._least, min(map(self._count, {*clients, *self._active_clients()}), default=0.0))
            self._received = {client: count for client, count in self._received.items() if count > self._least}

    def allowed(self, clients: Collection[str], worker: Callable[[], Collection[str]]) -> set[str]:
        """Return those of a worker's clients that are not ahead of the others at other workers, on average.

        Args:
            clients: whose work waits.
            worker: the function that it was added by.
        """
        with self._lock:
            others = {client for active in self._active if active != worker for client in active()}
            counts = {client: self._count(client) for client in {*clients, *others}}
        total = sum(counts[other] for other in others)
        found = set()
        for client in clients:
            number = len(others - {client})
            mean = (total - (counts[client] if client in others else 0.0)) / number if number else inf
            if counts[client] - self.burst <= mean:
                found.add(client)
        return found

    def _count(self, client: str) -> float:
        return max(self._received.get(client, 0.0), self._least)

    def _active_clients(self) -> set[str]:
        return {client for active in self._active for client in active()}
