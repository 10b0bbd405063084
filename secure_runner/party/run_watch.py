"""What keeps runs going on a link with TLS, and ends those that take too long.

brpc 1.11, which carries SPU's messages, writes TLS through a buffer of 16 KB. Where the socket takes nothing
more just when the end of a message is in that buffer, it stays there: nothing writes it later but the next
message on the same connection (``IOBuf::cut_multiple_into_SSL_channel`` takes EAGAIN of ``BIO_flush`` for
success). In the middle of a run nothing else comes, as the peer waits for that very message. It takes
messages that fill the socket's buffer, so lines that are long or slow, and connections that are new.

So while a batch is under way, and a little longer, parties send each other next to nothing at short
intervals, on a channel of its own. The receiver reads it now and then, when it is there already: a thread
that waited for it would be woken by all messages of SPU.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Protocol

from secure_runner.errors import UnavailableError

__all__ = ["RunWatch", "WatchChannel"]

_INTERVAL_S = 0.05
_LOOK_S = 0.5
"""The same where there is nothing to be sent, and only the time of runs to be looked at."""
_REST_S = 0.4
"""Once nothing is under way, intervals double. From this one on, the next batch ends them."""
_LAST_S = 10.0
"""From this one on, nothing else does."""
_RUNS_BETWEEN_READING = 16
_NUDGE = b""
_MARK = b"read up to here"


class WatchChannel(Protocol):
    """What of an SPU link is used: a channel that carries nothing else."""

    def send_async(self, rank: int, message: bytes, /) -> None:
        """Send to a party."""

    def recv(self, rank: int, /) -> bytes:
        """Wait for a party's next message."""


class RunWatch:
    """One party's, of all its batches. Nobody learns from it but that a party has a batch under way.

    Args:
        channel: of the link.
        peers: ranks of the parties to send to; none where the link has no TLS, and so no such buffer.
        limit_s: longest time for a batch, after the one before it.
    """

    def __init__(self, channel: WatchChannel, peers: Sequence[int], limit_s: float) -> None:
        self._channel = channel
        self._peers = tuple(peers)
        self._limit_s = limit_s
        self._interval_s = _INTERVAL_S if peers else _LOOK_S
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._begun = threading.Event()
        self._under_way = 0
        self._since = 0.0
        self._runs = 0

    def meet(self) -> None:
        """Exchange first messages with all peers, before anything else is called.

        SPU makes a channel's counter for a direction when it is first used, without a lock: all of them here,
        in one thread.
        """
        self._mark()
        self._read()
        self._mark()

    def begins(self) -> None:
        """A batch is under way from here on."""
        with self._lock:
            if not self._under_way:
                self._since = time.monotonic()
            self._under_way += 1
        if not self._begun.is_set():
            self._begun.set()

    def ends(self) -> None:
        """One that was under way is over."""
        with self._lock:
            self._under_way -= 1
            self._since = time.monotonic()

    def ran(self) -> None:
        """To be called after each run that has the same place in the order of runs at all parties.

        Now and then it reads what has come: not between a run and its answer.
        """
        self._runs += 1
        if self._runs % _RUNS_BETWEEN_READING == 0:
            self._read()
            self._mark()

    def run(self) -> None:
        """Watch until the session ends.

        Raises:
            UnavailableError: a batch has been under way for too long.
        """
        pause_s = self._interval_s
        while True:
            self._pause(pause_s)
            self._check_time()
            self._send(_NUDGE)
            pause_s = self._interval_s if self._under_way else pause_s * 2

    def _pause(self, seconds: float) -> None:
        if seconds >= _REST_S and not self._under_way:
            self._begun.clear()
            # Nothing is missed: what begins before this line is counted, what begins after it sets the event.
            if not self._under_way:
                self._begun.wait(seconds if seconds < _LAST_S else None)
                return
        time.sleep(seconds)

    def _check_time(self) -> None:
        with self._lock:
            late = self._under_way and time.monotonic() - self._since > self._limit_s
        if late:
            raise UnavailableError(f"a run takes longer than run_timeout_s, {self._limit_s:g} s")

    def _mark(self) -> None:
        self._send(_MARK)

    def _send(self, message: bytes) -> None:
        with self._sending:
            for rank in self._peers:
                self._channel.send_async(rank, message)

    def _read(self) -> None:
        """Take what peers have sent up to their last mark but one: it has come, since they have run since."""
        for rank in self._peers:
            while self._channel.recv(rank) != _MARK:
                pass
