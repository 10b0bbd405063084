"""Record an executable's transcript: run it once against a dealer that writes down what it is asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvloop

from secure_runner.dealer.config import DealerConfig
from secure_runner.dealer.recording import RecordingBook
from secure_runner.dealer.runtime import beaver_config
from secure_runner.dealer.server import Dealer
from secure_runner.dealer.transcript import Transcript

__all__ = ["Recorder", "recording_dealer"]

_START_TIMEOUT_S = 10.0


@dataclass
class Recorder:
    """A recording dealer in a thread of this process."""

    address: str
    _book: RecordingBook

    def beaver_config(self, adjust_rank: int = 0) -> dict[str, Any]:
        """``ttp_beaver_config`` of the runtimes to record."""
        return beaver_config(self.address, adjust_rank, self._book.key.public_pem)

    def take(self) -> Transcript:
        """What was asked since the last call."""
        steps = list(self._book.steps)
        self._book.steps.clear()
        return Transcript.of(steps)


@contextmanager
def recording_dealer() -> Iterator[Recorder]:
    """A dealer on loopback that serves anything and records it, for simulations with made-up data only.

    Run the executable once between runtimes configured with :meth:`Recorder.beaver_config`, then call
    :meth:`Recorder.take`. Operations and sizes do not depend on the data, so zeros will do as inputs.
    """
    book = RecordingBook()
    loop = uvloop.new_event_loop()
    dealer = Dealer(DealerConfig(), book)
    thread = threading.Thread(target=loop.run_forever, name="recording-dealer", daemon=True)
    thread.start()
    try:
        host, port = asyncio.run_coroutine_threadsafe(dealer.start(), loop).result(_START_TIMEOUT_S)
        yield Recorder(f"{host}:{port}", book)
    finally:
        asyncio.run_coroutine_threadsafe(dealer.close(), loop).result(_START_TIMEOUT_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_START_TIMEOUT_S)
        loop.close()
