"""Chunks of a job predicted, several at a time, each until it is answered or cannot be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from secure_runner.bulk.job import Job
from secure_runner.errors import DeadlineError, OverloadedError, UnavailableError
from secure_runner.http.types import Arrays

__all__ = ["PredictChunk", "score_chunks"]

_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 10.0

PredictChunk = Callable[[int, int, int], Awaitable[Arrays]]
"""Predictions of the chunk of an index, from a first row to an end."""


async def score_chunks(
    job: Job,
    predict: PredictChunk,
    *,
    concurrency: int,
    patience_s: float,
    on_done: Callable[[int], None],
) -> None:
    """Predict every chunk that is not done, and keep its predictions.

    Args:
        job: which chunks there are, and where predictions are kept.
        predict: tried again where it raises that the service is busy, away or late.
        concurrency: chunks under way at once; the runner merges them into batches.
        patience_s: how long one chunk is tried again before the job stops.
        on_done: told the number of rows of each chunk done, also of those done before.

    Raises:
        InputError: a chunk is refused.
        OverloadedError, UnavailableError, DeadlineError: it has not been answered within ``patience_s``.
    """
    pending = []
    for index, start, end in job.chunks():
        if job.is_done(index):
            on_done(end - start)
        else:
            pending.append((index, start, end))
    chunks = iter(pending)

    async def work() -> None:
        for index, start, end in chunks:
            job.save(index, await _until_answered(predict, (index, start, end), patience_s))
            on_done(end - start)

    workers = [asyncio.create_task(work()) for _ in range(min(concurrency, len(pending)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _until_answered(predict: PredictChunk, chunk: tuple[int, int, int], patience_s: float) -> Arrays:
    give_up_s = time.monotonic() + patience_s
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return await predict(*chunk)
        except (DeadlineError, OverloadedError, UnavailableError) as error:
            wait_s = pause_s if isinstance(error, DeadlineError) else max(pause_s, error.retry_after_s)
            if time.monotonic() + wait_s > give_up_s:
                raise
        await asyncio.sleep(wait_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
