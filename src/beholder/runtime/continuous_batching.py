"""Continuous batching: the texts of several requests are decoded together, token by token.

A request joins between two tokens and leaves after its last one; each keeps its own decoding strategy (greedy search,
sampling, beam search), so its texts are those that it would get alone. The rows of all requests lie in one KV cache,
padded on the left. The idea is that of Orca (OSDI 2022, section 4.1: iteration-level scheduling).

Shapes: B rows of all requests, n rows of one, L length of the cache, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from beholder.runtime.decoding import DecodeStep, Decoding, KVCache, Language


@dataclass(frozen=True)
class CacheDemand:
    """The room that a request needs in the KV cache.

    Attributes:
        rows: texts that are decoded together, such as its beams.
        tokens: soft prompts and tokens of each, those to come included.
    """

    rows: int
    tokens: int


@dataclass(eq=False)
class DecodingRequest:
    """A request of a batch.

    Attributes:
        demand: its room in the cache.
        decoding: its prompts, which have been read, and the steps that continue them.
        on_end: called with the result, or with the exception that ended it.
    """

    demand: CacheDemand
    decoding: Decoding[Any]
    on_end: Callable[[Any], None]


@dataclass(eq=False)
class _Member:
    """A request, and the step that it is waiting for."""

    request: DecodingRequest
    step: DecodeStep
    rows: int  # in the cache


@dataclass(eq=False)
class _Group:
    """Requests whose rows lie in one cache, in order."""

    kv_cache: KVCache
    members: list[_Member]

    def drop(self, ended: Sequence[_Member]) -> None:
        """Remove the rows of requests from the cache."""
        rows: list[int] = []
        start = 0
        for member in self.members:
            if member not in ended:
                rows += range(start, start + member.rows)
            start += member.rows
        self.members = [member for member in self.members if member not in ended]
        if self.members:
            self.kv_cache.select(torch.tensor(rows, device=self.kv_cache.mask.device))


class ContinuousBatch:
    """The running batch of a language model; for one thread at a time.

    Args:
        language: the language model. Where its caches can't be joined, such as those of an encoder-decoder model, the
            requests take turns instead.
        capacity: tokens that the cache may hold, padding included.
    """

    def __init__(self, language: Language, capacity: int):
        self.language = language
        self.capacity = capacity
        self._groups: list[_Group] = []

    @property
    def requests(self) -> list[DecodingRequest]:
        """The requests in the batch."""
        return [member.request for group in self._groups for member in group.members]

    @property
    def rows(self) -> int:
        """The number of texts that are decoded together."""
        return sum(member.rows for group in self._groups for member in group.members)

    @property
    def reserved(self) -> int:
        """The number of tokens that the cache holds at most until all its requests have ended."""
        return joint_size([request.demand for request in self.requests])

    def fits(self, *demands: CacheDemand) -> bool:
        """Return whether there is room for these requests, too. For a single one in an empty batch there always is."""
        all_demands = [*(request.demand for request in self.requests), *demands]
        return len(all_demands) == 1 or joint_size(all_demands) <= self.capacity

    @torch.inference_mode()
    def join(self, requests: Sequence[DecodingRequest]) -> None:
        """Choose the first tokens of requests, and add them to the batch."""
        added = []
        for request in requests:
            rows = len(request.decoding.kv_cache.mask)
            step = _next_step(request, None)
            if step is not None:
                added.append(_Group(request.decoding.kv_cache, [_Member(request, step, rows)]))
        joinable = [group for group in (*self._groups, *added) if group.kv_cache.joinable]
        apart = [group for group in (*self._groups, *added) if not group.kv_cache.joinable]
        if len(joinable) > 1:
            joinable[0].kv_cache.join([group.kv_cache for group in joinable[1:]])
            joinable = [_Group(joinable[0].kv_cache, [member for group in joinable for member in group.members])]
        self._groups = joinable + apart

    def remove(self, request: DecodingRequest) -> None:
        """Abort a request; ``on_end`` is not called."""
        for group in self._groups:
            group.drop([member for member in group.members if member.request is request])
        self._groups = [group for group in self._groups if group.members]
        request.decoding.steps.close()

    @torch.inference_mode()
    def step(self) -> None:
        """Decode one token of each row."""
        for group in self._groups:
            self._step(group)
        self._groups = [group for group in self._groups if group.members]

    def _step(self, group: _Group) -> None:
        rows, tokens, start = [], [], 0
        for member in group.members:
            own = torch.arange(member.rows) if member.step.rows is None else member.step.rows.cpu()
            rows.append(start + own)
            tokens.append(member.step.tokens)
            start += member.rows
        selected = torch.cat(rows)
        try:
            if not torch.equal(selected, torch.arange(start)):
                group.kv_cache.select(selected.to(group.kv_cache.mask.device))
            self._trim(group.kv_cache)
            logits = self.language.decode(torch.cat(tokens)[:, None], group.kv_cache)
        except Exception as error:
            for member in group.members:
                member.request.on_end(error)
            group.members = []
            return
        ended = []
        for member, part in zip(group.members, logits.split([len(each) for each in tokens]), strict=True):
            member.rows = len(part)
            step = _next_step(member.request, part)
            if step is None:
                ended.append(member)
            else:
                member.step = step
        if ended:
            group.drop(ended)

    def _trim(self, kv_cache: KVCache) -> None:
        """Drop positions that no row uses any more, when they are many or the cache would exceed its capacity."""
        if not kv_cache.joinable:
            return
        rows, length = kv_cache.mask.shape
        unused = int(kv_cache.mask.any(0).long().argmax())
        if unused and (rows * (length + 1) > self.capacity or unused > length // 2):
            kv_cache.trim()


def joint_size(demands: Sequence[CacheDemand]) -> int:
    """Return the tokens in one cache for several requests: all rows are as long as the longest."""
    return sum(demand.rows for demand in demands) * max((demand.tokens for demand in demands), default=0)


def _next_step(request: DecodingRequest, logits: Tensor | None) -> DecodeStep | None:
    """Return the next step of a request, given the logits after the last one, or report its end."""
    steps = request.decoding.steps
    try:
        return next(steps) if logits is None else steps.send(logits)
    except StopIteration as stop:
        request.on_end(stop.value)
    except Exception as error:
        request.on_end(error)
    return None
