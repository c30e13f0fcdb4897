"""Work that takes longer than a request should: it is begun once, and who asks again later finds it done."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from beholder.server.faults import busy

KEPT = 16  # results
WAITING = 4  # that have not begun or are under way


@dataclass
class _Made:
    """A result that is there or on its way, what it was made of, and whether anybody has had it."""

    version: Hashable
    result: Future[Any]
    given: bool = False


class Making:
    """What is made, one thing at a time, and what was made lately."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._made: OrderedDict[Hashable, _Made] = OrderedDict()

    async def ask(self, key: Hashable, version: Hashable, work: Callable[[], Any], patience: float) -> Any:
        """What the work gives.

        It is done anew where the version is another, but what is under way is waited for first: else who asks about
        something that changes all the time would never be answered.

        Args:
            key: what is asked for.
            version: of what it is made of.
            work: begun if nobody asked for it before.
            patience: seconds to wait for it.

        Raises:
            TimeoutError: it takes longer, and goes on.
            Fault: too much is under way already.
        """
        made = self._made.get(key)
        if made is None or (made.version != version and made.given):
            if sum(not each.result.done() for each in self._made.values()) >= WAITING:
                raise busy(5)
            made = self._made[key] = _Made(version, self._begin(work))
        self._made.move_to_end(key)
        done = [old for old, each in self._made.items() if each.result.done() and old != key]
        for old in done[: max(0, len(self._made) - KEPT)]:
            del self._made[old]
        try:
            async with asyncio.timeout(patience):
                result = await asyncio.shield(asyncio.wrap_future(made.result))
            made.given = True
            return result
        finally:
            failed = made.result.done() and (made.result.cancelled() or made.result.exception() is not None)
            if failed and self._made.get(key) is made:
                del self._made[key]

    def close(self) -> None:
        """Drops what has not begun. What is under way ends with the process."""
        for each in self._made.values():
            each.result.cancel()

    def _begin(self, work: Callable[[], Any]) -> Future[Any]:
        promised: Future[Any] = Future()

        def run() -> None:
            with self._turn:
                if not promised.set_running_or_notify_cancel():
                    return
                try:
                    promised.set_result(work())
                except BaseException as error:
                    promised.set_exception(error)

        threading.Thread(target=run, name="beholder-making", daemon=True).start()  # a server that stops waits for none
        return promised
