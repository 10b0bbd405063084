"""How many rows a data owner has had computed today, counted through restarts and across processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from secure_runner.errors import ConfigError

__all__ = ["DailyRows"]

_DAY_S = 86_400
_BLOCKS_A_DAY = 100


class DailyRows:
    """Counts rows against a limit for each day (UTC).

    The count is kept in a file. So that not every batch has to wait for the disk, rows are taken from the
    file in blocks of 1% of the limit: a process that is killed loses what is left of its block, and never
    gains any.

    Args:
        file: is made if missing. Processes that name the same file share the count.
        limit: rows a day.
        clock_s: seconds since 1970 UTC.

    Raises:
        ConfigError: the file cannot be read or written.
    """

    def __init__(self, file: Path, limit: int, *, clock_s: Callable[[], float] = time.time) -> None:
        self._path = file
        self._limit = limit
        self._clock_s = clock_s
        self._block = max(1, limit // _BLOCKS_A_DAY)
        self._day = self._today()
        self._held = 0
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with self._taken() as (_, taken):
                self._seen = taken
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"the day's rows cannot be kept in {file}: {type(error).__name__}; the directory must be "
                "writable and the file as this service left it (without it, today begins anew)"
            ) from error

    def take(self, rows: int) -> bool:
        """Take rows from the day's limit, or, if fewer are left, none."""
        self._turn_the_day()
        if self._held < rows:
            with self._taken() as (write, taken):
                missing = rows - self._held
                block = max(missing, min(self._block, self._limit - taken))
                self._seen = taken
                if taken + missing > self._limit:
                    return False
                write(taken + block)
                self._seen = taken + block
                self._held += block
        self._held -= rows
        return True

    @property
    def left(self) -> int:
        """Rows left today, as far as this process knows."""
        self._turn_the_day()
        return self._held + max(0, self._limit - self._seen)

    def close(self) -> None:
        """Give back what has been taken from the file and not been used."""
        self._turn_the_day()
        held, self._held = self._held, 0
        if held:
            with self._taken() as (write, taken):
                write(max(0, taken - held))

    def _today(self) -> int:
        return int(self._clock_s() // _DAY_S)

    def _turn_the_day(self) -> None:
        today = self._today()
        if today > self._day:
            self._day, self._held, self._seen = today, 0, 0

    @contextlib.contextmanager
    def _taken(self) -> Iterator[tuple[Callable[[int], None], int]]:
        """The file's count of today, and how to write another; no other process does so meanwhile."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            content = os.pread(descriptor, 4096, 0)
            document = json.loads(content) if content else {"day": self._day, "rows": 0}
            taken = int(document["rows"]) if document["day"] >= self._day else 0

            def write(rows: int) -> None:
                # The same length each time: written by one call, it is never half of one and half of another.
                line = json.dumps({"day": self._day, "rows": rows}).ljust(63) + "\n"
                os.pwrite(descriptor, line.encode(), 0)
                os.fsync(descriptor)

            yield write, taken
        finally:
            os.close(descriptor)
