"""Start and end a dealer process, for runners that bring their own dealer."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import subprocess
import sys
from types import TracebackType
from typing import IO

import orjson

from secure_runner.dealer.config import DealerConfig
from secure_runner.errors import UnavailableError
from secure_runner.lifetime import StopClock

__all__ = ["DealerProcess"]

_END_TIMEOUT_S = 2.0
_LOOK_INTERVAL_S = 0.2


class DealerProcess:
    """A dealer in a child process. It ends with :meth:`close`, and with this process.

    Args:
        config: of the dealer.
        start_timeout_s: how long it may take until it listens.

    Raises:
        UnavailableError: it does not listen in time; its standard error says why.
    """

    def __init__(self, config: DealerConfig, *, start_timeout_s: float = 20.0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "secure_runner.dealer"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(config.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()
            ready = orjson.loads(_read_line(self._process.stdout, start_timeout_s))
        except (OSError, orjson.JSONDecodeError):
            self.close()
            raise UnavailableError(
                f"the dealer process did not listen on {config.host}:{config.port} "
                f"within {start_timeout_s} s; its standard error says why"
            ) from None
        self.address: str = ready["address"]
        """``host:port`` where it listens."""
        self.public_key: str = ready["public_key"]
        """Its identity: what the parties pin."""
        self.pid = self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is still there."""
        return self._process.poll() is None

    async def ended(self, stopped_timeout_s: float) -> str:
        """Wait for the end, which is brought about where the process stays stopped; why, as a code."""
        stopped = StopClock(self.pid)
        while self.is_running:
            await asyncio.sleep(_LOOK_INTERVAL_S)
            if stopped.look() >= stopped_timeout_s:
                self._process.kill()
                self._process.wait()
                return "frozen"
        return "died"

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> DealerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _read_line(stream: IO[bytes], timeout_s: float) -> bytes:
    """The first line, which the child writes in one go; empty if there is none in time."""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        return stream.readline() if selector.select(timeout_s) else b""
