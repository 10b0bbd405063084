"""A service's second worker: it has done all that it can do ahead, and waits for the end of the first.

The kernel releases a lock with the process that holds it, however that one went, and hands it to the one
that waits: there is nothing to agree on, and never are there two that serve. What a service keeps in memory,
as its limits, its tasks and its sessions, is kept in one process, as it would be without a second worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import bentoml

from secure_runner.lifetime import end_with_server

__all__ = ["LOCK_VARIABLE", "SupervisedService", "Turn", "stand_by"]

LOCK_VARIABLE = "_SECURE_RUNNER_WORKER_LOCK"
"""Path of the lock of a worker's service; set by :mod:`secure_runner.supervisor`, for its workers alone."""

_log = logging.getLogger(__name__)


class SupervisedService:
    """Base class of services: their server looks after its workers closely (`secure_runner.supervisor`)."""

    @bentoml.on_deployment
    def supervise() -> None:
        """In the server, before it starts its workers."""
        # It imports what serves only the supervisor.
        from secure_runner.supervisor import install

        install()


class Turn:
    """It is this worker's turn to serve, until it ends.

    Args:
        descriptor: of the lock; None where this is the service's only worker.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def serves(self) -> None:
        """Say that the service is answering: now there is time for another worker to get ready."""
        if self._descriptor is not None:
            os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)


async def stand_by(meanwhile: Callable[[], None] = lambda: None) -> Turn:
    """Wait until it is this worker's turn. Call from a worker's main thread, before it accepts requests.

    However long that takes, and whatever comes after it, a worker of a server ends with its server.

    Args:
        meanwhile: called once, where there is another worker to wait for: what can be done ahead.
    """
    end_with_server()
    path = os.environ.get(LOCK_VARIABLE)
    if not path:
        return Turn(None)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _log.info("standing by")
        with _ends_on_signals():
            meanwhile()
            await asyncio.get_running_loop().run_in_executor(None, fcntl.flock, descriptor, fcntl.LOCK_EX)
        _log.warning("the service's other worker is gone; taking over")
    os.ftruncate(descriptor, 0)
    return Turn(descriptor)


@contextlib.contextmanager
def _ends_on_signals() -> Iterator[None]:
    """End at once when told to. Until a worker has started, its server only notes that it should end."""

    def end(*_: Any) -> None:
        os._exit(0)

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
