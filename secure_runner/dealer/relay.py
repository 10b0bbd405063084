"""The dealer's corrections, fetched ahead of need into the adjusting party's own process.

SPU's client asks for one correction after another and waits for each: some hundred times a run. The
transcript is pinned, so the relay knows what comes next, takes it from the dealer many at a time, and answers
SPU's client over loopback. A run then waits for no round trip to the dealer.

The dealer gives the adjusting party nothing through it that SPU's own requests would not: the corrections of
the registered transcript, in order, whenever the adjusting party asks. See ``docs/dealer.md``.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

from secure_runner.dealer.answers import Answers, Prepared, Runs
from secure_runner.dealer.client import DealerClient
from secure_runner.dealer.own_process import is_own_connection
from secure_runner.dealer.requests import PATH_PREFIX, RequestError, parse_request, read_body
from secure_runner.dealer.responses import Code, error_response, frames_bytes
from secure_runner.dealer.transcript import Transcript
from secure_runner.errors import SecureRunnerError

__all__ = ["Relay"]

_log = logging.getLogger(__name__)
_MAX_REQUEST_BYTES = 64 << 10
_POST = f"POST {PATH_PREFIX}".encode()


class Relay:
    """One job's corrections, between the dealer and this process's SPU runtime.

    Threads that block, and not an event loop: with SPU's own threads on the same cores, a request costs half
    the CPU time that way.

    Args:
        client: towards the dealer; relays may share it.
        handle: of the job's grant.
        transcript: as registered.
        on_lost: called once, in a thread of the relay, when no more corrections will come, with the reason.
        ahead_bytes: nothing more is fetched while so much waits.
    """

    def __init__(
        self,
        client: DealerClient,
        handle: str,
        transcript: Transcript,
        on_lost: Callable[[str], None],
        *,
        ahead_bytes: int = 32 << 20,
    ) -> None:
        self._client = client
        self._handle = handle
        self._transcript = transcript
        self._on_lost = on_lost
        self._ahead_bytes = ahead_bytes
        self._changed = threading.Condition()
        self._answers: Answers | None = None
        self._over: str | None = None
        self._server = _Server(self)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        """Where this process's SPU runtime finds its corrections; nobody else is served."""
        for work in (self._server.serve_forever, self._fetch):
            threading.Thread(target=work, name="dealer-relay", daemon=True).start()

    def close(self) -> None:
        """Answer nothing more, and tell the dealer so."""
        self._finish("the relay is closed")
        self._server.shutdown()
        self._server.server_close()

    def answer(self, operation: str, body: bytes) -> bytes:
        """The HTTP answer to a request of SPU's client; waits for it where it is not there yet."""
        with self._changed:
            try:
                answer = None
                if self._answers is None:
                    request = parse_request(operation, read_body(body))
                    self._answers = Answers(self._transcript, request.ciphertexts)
                    self._changed.notify_all()
                while (answer := self._answers.answer(operation, body)) is None and self._over is None:
                    self._changed.wait()
            except RequestError as error:
                # Masks no longer fit: the job is over for all parties.
                self._finish(str(error))
            if self._over is not None or self._answers is None:
                return error_response(Code.REFUSED, self._over or "")
            assert answer is not None
            if self._has_room(self._answers):
                self._changed.notify_all()
            return answer

    def _finish(self, reason: str) -> None:
        with self._changed:
            self._over = self._over or reason
            self._changed.notify_all()

    # The dealer ------------------------------------------------------------------------------------------

    def _has_room(self, answers: Answers) -> bool:
        """At least one run is kept in hand; the dealer gives a few at once."""
        return len(answers.pending) <= answers.run_length and answers.pending_bytes < self._ahead_bytes

    def _fetch(self) -> None:
        """Take what comes next from the dealer, until the job is over."""
        runs, first = Runs(self._transcript), 0
        while True:
            with self._changed:
                while self._over is None and (self._answers is None or not self._has_room(self._answers)):
                    self._changed.wait()
                answers = self._answers
            if self._over is not None or answers is None:
                with contextlib.suppress(SecureRunnerError):
                    self._client.end(self._handle)
                return
            try:
                frames = self._client.corrections(self._handle, first, answers.ciphertexts)
            except SecureRunnerError as error:
                self._finish(str(error))
                self._on_lost(str(error))
                return
            prepared = list(_cut(frames, runs, answers.ciphertexts))
            first += len(prepared)
            with self._changed:
                answers.add(prepared)
                self._changed.notify_all()


def _cut(frames: bytes, runs: Runs, ciphertexts: tuple[str, ...]) -> Iterator[Prepared]:
    """The dealer's answer, request by request."""
    rest = memoryview(frames)
    while rest:
        place = runs.pass_one()
        length = frames_bytes(place.step)
        yield Prepared.of(place, ciphertexts, rest[:length])
        rest = rest[length:]


class _Server(socketserver.ThreadingTCPServer):
    """Listens on loopback, for connections of this process."""

    daemon_threads = True

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        super().__init__(("127.0.0.1", 0), _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Other processes of the machine have no business here."""
        own = is_own_connection(client_address[1], self.server_address[1])
        if not own:
            _log.warning("refused a connection of another process")
        return own


class _Handler(socketserver.BaseRequestHandler):
    """One connection of SPU's client: one request after another.

    Reads HTTP/1.1 no further than that client writes it: a head with Content-Length, and a body.
    """

    request: socket.socket

    def handle(self) -> None:
        """Serve until the client closes the connection, or sends what is no request."""
        relay = cast(_Server, self.server).relay
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            while (request := self._read()) is not None:
                self.request.sendall(relay.answer(*request))

    def _read(self) -> tuple[str, bytes] | None:
        """Operation and body of the next request; None where there is none."""
        received = self.request.recv(_MAX_REQUEST_BYTES)
        while 0 < len(received) < _MAX_REQUEST_BYTES:
            head, end, body = received.partition(b"\r\n\r\n")
            if end and len(body) >= (length := _body_bytes(head)):
                complete = len(body) == length and head.startswith(_POST)
                return (head[len(_POST) :].split(b" ", 1)[0].decode("latin-1"), body) if complete else None
            more = self.request.recv(_MAX_REQUEST_BYTES)
            received = received + more if more else b""
        return None


def _body_bytes(head: bytes) -> int:
    """The Content-Length of a request's head; 0 where there is none."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and value.strip().isdigit():
            return int(value)
    return 0
