"""The batching queue: many requests, few runs.

MPC is bound by rounds, so a batch costs about as much as a row. Requests that arrive while a batch runs wait
and go together in the next one; the clients of a batch that has just been answered are given a moment to come
back before the next one leaves. A full batch leaves while another runs, so that its shares are there when
that is over. Rows are taken from clients in turn, so that one large request does not hold up the small ones.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from secure_runner.errors import DeadlineError, OverloadedError, SecureRunnerError, UnavailableError
from secure_runner.frames import Array
from secure_runner.runner.ladder import Ladder
from secure_runner.runner.lanes import BATCHES_A_LANE
from secure_runner.runner.linger import Linger
from secure_runner.runner.slices import Arrays, Part, Request, Slice, answer, fail, padded, parts_of

__all__ = ["BatchQueue", "BatchRun"]

_log = logging.getLogger(__name__)

BatchRun = Callable[[int, Arrays, Sequence[Part]], Awaitable[tuple[Arrays, float]]]
"""Runs one padded batch: (batch size, private inputs, whose) → (private outputs, seconds of the run)."""

_ATTEMPTS = 2


class BatchQueue:
    """Collects rows of private inputs and runs them in batches.

    Args:
        ladder: the executables and their run times.
        run: runs one batch; raises UnavailableError if its session ended under it.
        wait_for_session: returns when a session serves.
        max_rows: rows that may wait; more are refused.
        lanes: batches that may run side by side.
    """

    def __init__(
        self,
        ladder: Ladder,
        run: BatchRun,
        wait_for_session: Callable[[], Awaitable[object]],
        *,
        max_rows: int = 4096,
        lanes: int = 1,
    ) -> None:
        self._ladder = ladder
        self._run = run
        self._wait_for_session = wait_for_session
        self._max_rows = max_rows
        self._lanes = lanes
        self._clients: OrderedDict[str, deque[Slice]] = OrderedDict()
        self._anonymous = itertools.count()
        self._linger = Linger(ladder)
        self._changed = asyncio.Event()
        """Rows have come, or a batch is back."""
        self._running: dict[asyncio.Task[None], list[Slice]] = {}
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
            runs = self.waiting_rows / self._ladder.largest / self._lanes
            raise OverloadedError(
                f"{self.waiting_rows} rows wait already and at most {self._max_rows} may; try again later",
                retry_after_s=max(0.1, runs * self._ladder.run_s(self._ladder.largest)),
                code="queue_full",
            )
        loop = asyncio.get_running_loop()
        request = Request(arrays, rows, loop.create_future(), about)
        self._linger.arrived(rows)
        self._put(client or f"anonymous-{next(self._anonymous)}", Slice(request, 0, rows))
        if deadline_s is None:
            return await request.answer
        timer = loop.call_later(deadline_s, self._expire, request, deadline_s)
        try:
            return await request.answer
        finally:
            timer.cancel()

    async def dispatch(self) -> None:
        """Run batches until cancelled. One such task serves all lanes."""
        try:
            while True:
                await self._can_send()
                if len(self._running) < self._lanes:
                    await self._linger.wait(lambda: self.waiting_rows)
                # Last of all: rows that leave for a session that is over have spent one of their attempts.
                await self._wait_for_session()
                slices, batch_size = self._next_batch()
                if slices:
                    task = asyncio.create_task(self._run_batch(slices, batch_size))
                    self._running[task] = slices
                    task.add_done_callback(self._back)
        finally:
            for task, slices in self._running.items():
                task.cancel()
                fail(slices, _stopping())

    def stop(self) -> None:
        """Refuse everything that waits, and what comes. Batches that run are refused as ``dispatch`` ends."""
        self._stopped = True
        for queue in self._clients.values():
            fail(list(queue), _stopping())
        self._clients.clear()
        self.waiting_rows = 0

    async def _can_send(self) -> None:
        """Wait for rows and for a lane that is free; a full batch may leave while its lane runs one."""
        while True:
            full = self.waiting_rows >= self._ladder.largest
            room = self._lanes * (BATCHES_A_LANE if full else 1)
            if self.waiting_rows and len(self._running) < room:
                return
            self._changed.clear()
            await self._changed.wait()

    def _back(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._changed.set()

    def _expire(self, request: Request, deadline_s: float) -> None:
        request.fail(DeadlineError(f"no answer within {deadline_s:.3g} s, {self.waiting_rows} rows waiting"))

    def _next_batch(self) -> tuple[list[Slice], int]:
        self._drop_dead()
        if not self.waiting_rows:
            return [], 0
        batch_size = self._ladder.first_rung(self.waiting_rows)
        taken: list[Slice] = []
        room = batch_size
        while room and self._clients:
            client, queue = self._clients.popitem(last=False)
            part = queue.popleft()
            taken.append(Slice(part.request, part.start, min(part.stop, part.start + room), part.attempts))
            if part.rows > room:
                queue.appendleft(Slice(part.request, part.start + room, part.stop, part.attempts))
            room -= taken[-1].rows
            if queue:
                self._clients[client] = queue
        self.waiting_rows -= batch_size - room
        return taken, batch_size

    async def _run_batch(self, slices: list[Slice], batch_size: int) -> None:
        try:
            outputs, run_s = await self._run(batch_size, padded(slices, batch_size), parts_of(slices))
            answer(slices, outputs, batch_size)
        except UnavailableError as error:
            self._retry(slices, error)
        except SecureRunnerError as error:
            fail(slices, error)
        except Exception as error:
            # The message of an error that nobody foresaw may hold anything.
            _log.error("a batch of %d failed: %s", batch_size, type(error).__name__)
            fail(slices, SecureRunnerError("the batch could not be computed"))
        else:
            self._ladder.measured(batch_size, run_s)
            self._linger.answered(sum(part.request.rows for part in slices if part.request.answer.done()))

    def _retry(self, slices: list[Slice], error: UnavailableError) -> None:
        """Inference is idempotent: rows whose session ended go first in the next one, once."""
        for part in reversed(slices):
            part.attempts += 1
            if part.attempts >= _ATTEMPTS:
                part.request.fail(error)
            else:
                self._put(f"retry-{next(self._anonymous)}", part, first=True)

    def _put(self, client: str, part: Slice, *, first: bool = False) -> None:
        if self._stopped:
            part.request.fail(_stopping())
            return
        self._clients.setdefault(client, deque()).append(part)
        if first:
            self._clients.move_to_end(client, last=False)
        self.waiting_rows += part.rows
        self._changed.set()

    def _drop_dead(self) -> None:
        """Forget rows that nobody waits for any more."""
        for client, queue in list(self._clients.items()):
            alive = deque(part for part in queue if not part.request.answer.done())
            self.waiting_rows -= sum(part.rows for part in queue) - sum(part.rows for part in alive)
            if alive:
                self._clients[client] = alive
            else:
                del self._clients[client]


def _stopping() -> UnavailableError:
    return UnavailableError("the service is stopping", code="stopping")
