"""The party's end of the socket pair to its runner."""

from __future__ import annotations

import os
import queue
import socket
import threading

from secure_runner.frames import LENGTH, Frame, Kind, check_length, decode, encode_for_stream

__all__ = ["Pipe", "PipeClosedError"]


class PipeClosedError(Exception):
    """The runner is gone."""


class Pipe:
    """Blocking frames over a Unix socket. Any thread may send; one thread listens."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._frames: queue.SimpleQueue[Frame] = queue.SimpleQueue()

    def listen(self) -> None:
        """Read frames in a thread of its own, from now on.

        The thread answers PING, whatever the rest of the process is doing, and ends the process when the
        runner is gone: a party without its runner serves nobody.
        """
        threading.Thread(target=self._listen, name="pipe", daemon=True).start()

    def next_frame(self) -> Frame:
        """The next frame from the runner, PING aside."""
        return self._frames.get()

    def send(self, frame: Frame) -> None:
        """Send one frame whole.

        Raises:
            PipeClosedError: the runner is gone.
        """
        data = b"".join(encode_for_stream(frame))
        try:
            with self._lock:
                self._sock.sendall(data)
        except OSError:
            raise PipeClosedError from None

    def _listen(self) -> None:
        try:
            while True:
                frame = decode(self._read(check_length(self._read(LENGTH.size))))
                if frame.kind is Kind.PING:
                    self.send(Frame(Kind.PONG, frame.id))
                else:
                    self._frames.put(frame)
        finally:
            os._exit(0)

    def _read(self, count: int) -> bytearray:
        buffer = bytearray(count)
        view = memoryview(buffer)
        while view:
            got = self._sock.recv_into(view)
            if got == 0:
                raise PipeClosedError
            view = view[got:]
        return buffer
