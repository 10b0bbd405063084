"""The batching queue: many requests, few runs.

MPC is bound by rounds, so a batch costs about as much as a row. Requests that arrive while a batch runs wait
and go together in the next one; the clients of a batch that has just been answered are given a moment to come
back before the next one leaves. Rows are taken from clients in turn, so that one large request does not hold
up the small ones.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from secure_runner.errors import DeadlineError, OverloadedError, SecureRunnerError, UnavailableError
from secure_runner.frames import Array
from secure_runner.runner.ladder import Ladder

__all__ = ["BatchQueue", "BatchRun", "Part"]

_log = logging.getLogger(__name__)

Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Part:
    """Rows of one request in a batch, without the rows."""

    about: Any
    """What ``submit`` was given."""
    rows: int
    waited_s: float
    """Since the request arrived."""


BatchRun = Callable[[int, Arrays, Sequence[Part]], Awaitable[tuple[Arrays, float]]]
"""Runs one padded batch: (batch size, private inputs, whose) → (private outputs, seconds of the run)."""

_LINGER_SHARE = 0.1
_LONGEST_LINGER_S = 0.1
_ATTEMPTS = 2


@dataclass
class _Request:
    arrays: Arrays
    rows: int
    deadline: float | None
    answer: asyncio.Future[dict[str, Array]]
    about: Any = None
    arrived_at: float = field(default_factory=time.monotonic)
    """Of a clock of its own: uvloop's stands still while it works."""
    pieces: dict[int, Arrays] = field(default_factory=dict)
    """Answered rows, by their first row."""

    def fail(self, error: SecureRunnerError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def take(self, start: int, piece: Arrays) -> None:
        """Add an answered piece; the last one completes the request."""
        self.pieces[start] = piece
        answered = sum(len(next(iter(part.values()))) for part in self.pieces.values())
        if answered == self.rows and not self.answer.done():
            ordered = [self.pieces[at] for at in sorted(self.pieces)]
            self.answer.set_result({name: np.concatenate([p[name] for p in ordered]) for name in ordered[0]})


@dataclass
class _Slice:
    """Some rows of a request, waiting for a run."""

    request: _Request
    start: int
    stop: int
    attempts: int = 0

    @property
    def rows(self) -> int:
        return self.stop - self.start


class BatchQueue:
    """Collects rows of private inputs and runs them in batches.

    Args:
        ladder: the executables and their run times.
        run: runs one batch; raises UnavailableError if its session ended under it.
        wait_for_session: returns when a session serves.
        max_rows: rows that may wait; more are refused.
        concurrency: batches that may run side by side (one per lane).
    """

    def __init__(
        self,
        ladder: Ladder,
        run: BatchRun,
        wait_for_session: Callable[[], Awaitable[object]],
        *,
        max_rows: int = 4096,
        concurrency: int = 1,
    ) -> None:
        self._ladder = ladder
        self._run = run
        self._wait_for_session = wait_for_session
        self._max_rows = max_rows
        self._concurrency = concurrency
        self._clients: OrderedDict[str, deque[_Slice]] = OrderedDict()
        self._anonymous = itertools.count()
        self._arrived = asyncio.Event()
        self._returning = 0
        self._stopped = False
        self.waiting_rows = 0

    async def submit(
        self,
        arrays: Arrays,
        *,
        client: str | None = None,
        deadline_s: float | None = None,
        about: Any = None,
    ) -> dict[str, Array]:
        """Answer some rows.

        Args:
            arrays: private input name → array, all with the same number of rows (at least 1).
            client: rows of different clients are served in turn.
            deadline_s: seconds from now.
            about: handed to ``run`` with each of the request's parts.

        Raises:
            OverloadedError: too many rows wait already.
            DeadlineError: not answered in time.
            UnavailableError: the session ended under the request, twice; or the queue has stopped.
        """
        rows = len(next(iter(arrays.values())))
        if self.waiting_rows and self.waiting_rows + rows > self._max_rows:
            runs = self.waiting_rows / self._ladder.largest / self._concurrency
            raise OverloadedError(
                f"{self.waiting_rows} rows wait already and at most {self._max_rows} may; try again later",
                retry_after_s=max(0.1, runs * self._ladder.run_s(self._ladder.largest)),
                code="queue_full",
            )
        loop = asyncio.get_running_loop()
        deadline = None if deadline_s is None else loop.time() + deadline_s
        request = _Request(arrays, rows, deadline, loop.create_future(), about)
        self._put(client or f"anonymous-{next(self._anonymous)}", _Slice(request, 0, rows))
        try:
            return await asyncio.wait_for(request.answer, deadline_s)
        except asyncio.TimeoutError:
            raise DeadlineError(
                f"no answer within {deadline_s:.3g} s, {self.waiting_rows} rows waiting"
            ) from None

    async def dispatch(self) -> None:
        """Run batches until cancelled. One such task serves all lanes."""
        free = asyncio.Semaphore(self._concurrency)
        running: dict[asyncio.Task[None], list[_Slice]] = {}
        try:
            while True:
                await self._arrived.wait()
                await free.acquire()
                await self._linger()
                # Last of all: rows that leave for a session that is over have spent one of their attempts.
                await self._wait_for_session()
                slices, batch_size = self._next_batch()
                if not slices:
                    free.release()
                    continue
                task = asyncio.create_task(self._run_batch(slices, batch_size))
                running[task] = slices
                task.add_done_callback(running.pop)
                task.add_done_callback(lambda _: free.release())
        finally:
            for task, slices in running.items():
                task.cancel()
                _fail(slices, _stopping())

    def stop(self) -> None:
        """Refuse everything that waits, and what comes. Batches that run are refused as ``dispatch`` ends."""
        self._stopped = True
        for queue in self._clients.values():
            _fail(list(queue), _stopping())
        self._clients.clear()
        self.waiting_rows = 0
        self._arrived.clear()

    async def _linger(self) -> None:
        """Wait a tenth of a run for the clients that were answered a moment ago."""
        if self._returning <= 1:
            return
        loop = asyncio.get_running_loop()
        linger_s = min(_LINGER_SHARE * self._ladder.run_s(self._ladder.largest), _LONGEST_LINGER_S)
        until = loop.time() + linger_s
        while len(self._clients) < self._returning and self.waiting_rows < self._ladder.largest:
            left_s = until - loop.time()
            if left_s <= 0:
                return
            await asyncio.sleep(min(left_s, 0.001))

    def _next_batch(self) -> tuple[list[_Slice], int]:
        self._drop_dead()
        if not self.waiting_rows:
            self._arrived.clear()
            return [], 0
        batch_size = self._ladder.first_rung(self.waiting_rows)
        taken: list[_Slice] = []
        room = batch_size
        while room and self._clients:
            client, queue = self._clients.popitem(last=False)
            part = queue.popleft()
            taken.append(_Slice(part.request, part.start, min(part.stop, part.start + room), part.attempts))
            if part.rows > room:
                queue.appendleft(_Slice(part.request, part.start + room, part.stop, part.attempts))
            room -= taken[-1].rows
            if queue:
                self._clients[client] = queue
        self.waiting_rows -= batch_size - room
        if not self.waiting_rows:
            self._arrived.clear()
        return taken, batch_size

    async def _run_batch(self, slices: list[_Slice], batch_size: int) -> None:
        try:
            outputs, run_s = await self._run(batch_size, _padded(slices, batch_size), _parts(slices))
            _answer(slices, outputs, batch_size)
        except UnavailableError as error:
            self._retry(slices, error)
        except SecureRunnerError as error:
            _fail(slices, error)
        except Exception as error:
            # The message of an error that nobody foresaw may hold anything.
            _log.error("a batch of %d failed: %s", batch_size, type(error).__name__)
            _fail(slices, SecureRunnerError("the batch could not be computed"))
        else:
            self._ladder.measured(batch_size, run_s)
            self._returning = len(slices)

    def _retry(self, slices: list[_Slice], error: UnavailableError) -> None:
        """Inference is idempotent: rows whose session ended go first in the next one, once."""
        for part in reversed(slices):
            part.attempts += 1
            if part.attempts >= _ATTEMPTS:
                part.request.fail(error)
            else:
                self._put(f"retry-{next(self._anonymous)}", part, first=True)

    def _put(self, client: str, part: _Slice, *, first: bool = False) -> None:
        if self._stopped:
            part.request.fail(_stopping())
            return
        self._clients.setdefault(client, deque()).append(part)
        if first:
            self._clients.move_to_end(client, last=False)
        self.waiting_rows += part.rows
        self._arrived.set()

    def _drop_dead(self) -> None:
        """Forget rows that nobody waits for any more."""
        for client, queue in list(self._clients.items()):
            alive = deque(part for part in queue if not part.request.answer.done())
            self.waiting_rows -= sum(part.rows for part in queue) - sum(part.rows for part in alive)
            if alive:
                self._clients[client] = alive
            else:
                del self._clients[client]


def _answer(slices: list[_Slice], outputs: Arrays, batch_size: int) -> None:
    if any(len(array) != batch_size for array in outputs.values()):
        raise ValueError("a run answered another number of rows than it was given")
    at = 0
    for part in slices:
        rows = {name: array[at : at + part.rows] for name, array in outputs.items()}
        part.request.take(part.start, rows)
        at += part.rows


def _parts(slices: list[_Slice]) -> list[Part]:
    now = time.monotonic()
    return [Part(part.request.about, part.rows, now - part.request.arrived_at) for part in slices]


def _fail(slices: list[_Slice], error: SecureRunnerError) -> None:
    for part in slices:
        part.request.fail(error)


def _stopping() -> UnavailableError:
    return UnavailableError("the service is stopping", code="stopping")


def _padded(slices: list[_Slice], batch_size: int) -> dict[str, Array]:
    """Rows of several requests as one batch; zeros fill it up."""
    arrays = {}
    for name in slices[0].request.arrays:
        rows = [part.request.arrays[name][part.start : part.stop] for part in slices]
        missing = batch_size - sum(len(part) for part in rows)
        if missing:
            rows.append(np.zeros((missing, *rows[0].shape[1:]), rows[0].dtype))
        arrays[name] = np.concatenate(rows) if len(rows) > 1 else rows[0]
    return arrays
