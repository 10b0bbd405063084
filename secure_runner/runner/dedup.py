"""Repeated requests: a client that asks again under the same id gets the same answer, computed once.

A client that saw its connection break cannot know whether its request was answered, and asks again. Within a
window, the pair of client and request id names one request: with equal inputs the second gets the answer of
the first, under way or done; with others it is refused, for one of the two would get the wrong answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from secure_runner.errors import DeadlineError, InputError
from secure_runner.frames import Array

__all__ = ["RecentRequests"]

Key = tuple[str | None, str]
_DRAIN_TIMEOUT_S = 2.0
_Outputs = dict[str, Array]


@dataclass
class _Entry:
    digest: bytes
    task: asyncio.Task[_Outputs]
    began_at: float
    waiting: int = 0
    bytes_: int = 0


class RecentRequests:
    """Remembers requests under way and, for a while, answered ones.

    Args:
        window_s: how long an answer is kept.
        max_requests: at most so many answers are kept; the oldest are forgotten first.
        max_bytes: of all answers that are kept.
        clock_s: a monotonic clock.
    """

    def __init__(
        self,
        *,
        window_s: float = 60.0,
        max_requests: int = 4096,
        max_bytes: int = 64 * 2**20,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window_s = window_s
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._clock_s = clock_s
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._bytes = 0
        self._under_way = 0
        self._none_under_way = asyncio.Event()

    async def once(
        self, key: Key | None, inputs: Mapping[str, Array], compute: Callable[[], Awaitable[_Outputs]]
    ) -> tuple[_Outputs, bool]:
        """The answer, and whether it is that of an earlier request.

        Failures are not kept: after one, the next request of this id computes anew. Without a key nothing is:
        the request cannot come again.

        Raises:
            InputError: ``request_id_reused``; the id was used with other inputs.
        """
        self._under_way += 1
        try:
            return (await compute(), False) if key is None else await self._once(key, inputs, compute)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._none_under_way.set()

    async def _once(
        self, key: Key, inputs: Mapping[str, Array], compute: Callable[[], Awaitable[_Outputs]]
    ) -> tuple[_Outputs, bool]:
        self._forget()
        digest = _digest(inputs)
        entry = self._entries.get(key)
        if entry is not None and entry.digest != digest:
            raise InputError(
                "this request id was used a moment ago with other inputs; give each request an id of its own",
                code="request_id_reused",
                http_status=422,
            )
        if entry is None:
            return await self._wait(key, self._begin(key, digest, compute)), False
        try:
            return await self._wait(key, entry), True
        except DeadlineError:
            # The deadline was the other request's.
            return await self._wait(key, self._begin(key, digest, compute)), False

    async def drained(self) -> None:
        """Let those who wait take their answers, which all have by now; give up on whoever still waits."""
        if self._under_way:
            self._none_under_way.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._none_under_way.wait(), _DRAIN_TIMEOUT_S)
        for entry in self._entries.values():
            entry.task.cancel()

    def _begin(self, key: Key, digest: bytes, compute: Callable[[], Awaitable[_Outputs]]) -> _Entry:
        async def run() -> _Outputs:
            return await compute()

        entry = _Entry(digest, asyncio.create_task(run()), self._clock_s())
        self._entries[key] = entry
        entry.task.add_done_callback(lambda task: self._done(key, entry, task))
        return entry

    async def _wait(self, key: Key, entry: _Entry) -> _Outputs:
        entry.waiting += 1
        try:
            # Whoever gives up does not end it for the others; the last one does.
            return await asyncio.shield(entry.task)
        finally:
            entry.waiting -= 1
            if not entry.waiting and not entry.task.done():
                self._drop(key, entry)
                entry.task.cancel()

    def _done(self, key: Key, entry: _Entry, task: asyncio.Task[_Outputs]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._drop(key, entry)
        elif self._entries.get(key) is entry:
            entry.bytes_ = sum(array.nbytes for array in task.result().values())
            self._bytes += entry.bytes_
            self._forget()

    def _forget(self) -> None:
        """Drop answers that are too old or too many. Requests under way stay: the queue bounds them."""
        oldest = self._clock_s() - self._window_s
        too_many, too_large = len(self._entries) - self._max_requests, self._bytes - self._max_bytes
        gone = []
        for key, entry in self._entries.items():
            if too_many <= 0 and too_large <= 0 and entry.began_at >= oldest:
                break
            if entry.task.done():
                gone.append((key, entry))
                too_many, too_large = too_many - 1, too_large - entry.bytes_
        for key, entry in gone:
            self._drop(key, entry)

    def _drop(self, key: Key, entry: _Entry) -> None:
        if self._entries.get(key) is entry:
            del self._entries[key]
            self._bytes -= entry.bytes_


def _digest(inputs: Mapping[str, Array]) -> bytes:
    hashed = hashlib.blake2b(digest_size=16)
    for name in sorted(inputs):
        array = inputs[name]
        hashed.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        if array.dtype.hasobject:
            hashed.update(repr(array.tolist()).encode())
        else:
            hashed.update(array.tobytes())
    return hashed.digest()
