"""The dealer's server: SPU's correction requests, and the parties' own few requests, on one port.

=======================  ==================================================================================
``POST /spu.mpc…/Adjust…``  SPU's client at the adjusting party
``GET /livez``              200 while the event loop runs
``POST /jobs``              a party registers; waits for the others; answers with the signed grant
``GET /jobs/{handle}``      how the job is doing; also the party's sign of life
``DELETE /jobs/{handle}``   the party is done with the job
``POST /jobs/{handle}/corrections``  the adjusting party's relay takes what comes next
=======================  ==================================================================================
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any, Protocol

from pydantic import ValidationError

from secure_runner.dealer.config import DealerConfig
from secure_runner.dealer.connection import Connection
from secure_runner.dealer.identity import Identity
from secure_runner.dealer.jobs import JobBook
from secure_runner.dealer.peers import Peer
from secure_runner.dealer.recording import RecordingBook
from secure_runner.dealer.registration import CorrectionsRequest, Registration
from secure_runner.dealer.requests import CORRECTIONS_SUFFIX, PATH_PREFIX, RequestError, read_body
from secure_runner.dealer.responses import Code, data_response, error_response, json_response
from secure_runner.dealer.seeds import SeedError
from secure_runner.errors import AgreementError, OverloadedError, SecureRunnerError

__all__ = ["Dealer"]

_log = logging.getLogger(__name__)
_JOBS_PATH = "/jobs"
_EXPIRY_INTERVAL_S = 1.0
_BACKLOG = 128


class _Answers(Protocol):
    """A session, pinned or recording."""

    @property
    def wants_preparation(self) -> bool: ...

    @property
    def next_is_heavy(self) -> bool: ...

    def answer(self, operation: str, body: bytes) -> bytes | None: ...

    def prepare(self) -> Any: ...

    def add(self, prepared: Any) -> None: ...


class Dealer:
    """A dealer on the running event loop.

    Args:
        config: where to listen, and the limits.
        book: the jobs, or a recording.
    """

    def __init__(self, config: DealerConfig, book: JobBook | RecordingBook) -> None:
        self._config = config
        self.limits = config.limits
        self._book = book
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._per_client: Counter[str] = Counter()
        self._progress: dict[_Answers, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._expiry: asyncio.TimerHandle | None = None

    @classmethod
    def for_jobs(cls, config: DealerConfig, identity: Identity) -> Dealer:
        """A dealer that serves registered jobs and nothing else."""
        return cls(config, JobBook(identity, config.limits))

    async def start(self) -> tuple[str, int]:
        """Listen; returns address and port.

        Raises:
            ConfigError: the TLS files do not work.
            OSError: the port is taken.
        """
        loop = asyncio.get_running_loop()
        tls = None if self._config.tls is None else self._config.tls.server_context()
        self._server = await loop.create_server(
            lambda: Connection(self),
            self._config.host,
            self._config.port,
            ssl=tls,
            backlog=_BACKLOG,
            ssl_handshake_timeout=None if tls is None else self.limits.request_timeout_s,
        )
        self._expire()
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def close(self) -> None:
        """Stop listening, drop all connections, finish nothing."""
        if self._expiry is not None:
            self._expiry.cancel()
        for task in self._tasks:
            task.cancel()
        for connection in list(self._connections):
            connection.close()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def _expire(self) -> None:
        if isinstance(self._book, JobBook):
            self._book.expire()
            self._expiry = asyncio.get_running_loop().call_later(_EXPIRY_INTERVAL_S, self._expire)

    # Connections -----------------------------------------------------------------------------------------

    def admit(self, connection: Connection) -> str | None:
        """Count a new connection; what is wrong where a limit is reached."""
        client = connection.peer.client
        self._connections.add(connection)
        self._per_client[client] += 1
        if (
            len(self._connections) > self.limits.connections
            or self._per_client[client] > self.limits.connections_per_client
        ):
            return "the dealer has its limit of connections"
        return None

    def release(self, connection: Connection) -> None:
        """A connection is gone."""
        if connection in self._connections:
            self._connections.remove(connection)
            self._per_client -= Counter([connection.peer.client])

    def body_limit(self, path: str) -> int:
        """Largest body in bytes."""
        return self.limits.registration_bytes if path == _JOBS_PATH else self.limits.request_bytes

    # Requests --------------------------------------------------------------------------------------------

    def respond(self, connection: Connection, method: str, path: str, body: bytes) -> None:
        """Answer a request, now or in a task."""
        if path.startswith(PATH_PREFIX) and method == "POST":
            self._correct(connection, path[len(PATH_PREFIX) :], body)
        elif path == "/livez" and method == "GET":
            connection.reply(json_response(200, {"status": "ok"}))
        elif path == _JOBS_PATH and method == "POST" and isinstance(self._book, JobBook):
            self._in_task(self._register(connection, self._book, body))
        elif path.endswith(CORRECTIONS_SUFFIX) and method == "POST" and isinstance(self._book, JobBook):
            handle = path[len(_JOBS_PATH) + 1 : -len(CORRECTIONS_SUFFIX)]
            self._in_task(self._hand_over(connection, self._book, handle, body))
        elif path.startswith(_JOBS_PATH + "/") and isinstance(self._book, JobBook):
            self._look_after(connection, self._book, method, path[len(_JOBS_PATH) + 1 :])
        else:
            connection.refuse(404, f"{method} of this path is not served")

    def _correct(self, connection: Connection, operation: str, body: bytes) -> None:
        message: Any = None
        try:
            message = read_body(body)
            session: _Answers = self._book.session_of(operation, message, connection.peer)
        except SeedError as error:
            self._refuse(connection, Code.SEED_NOT_DECRYPTED, str(error))
            return
        except RequestError as error:
            self._refuse(connection, Code.REFUSED, str(error))
            return
        try:
            answer = session.answer(operation, body)
        except RequestError as error:
            self._fail(connection, message, str(error))
            return
        if answer is None:
            self._in_task(self._correct_later(connection, session, operation, body))
        else:
            connection.reply(answer)
            if session.wants_preparation:
                self._prepare(session)

    async def _correct_later(
        self, connection: Connection, session: _Answers, operation: str, body: bytes
    ) -> None:
        """Answer when the answer is computed."""
        try:
            while (answer := session.answer(operation, body)) is None:
                await self._prepare(session)
        except RequestError as error:
            self._fail(connection, read_body(body), str(error))
        except MemoryError:
            self._fail(connection, read_body(body), "the dealer has no memory for this step")
        else:
            connection.reply(answer)
            if session.wants_preparation:
                self._prepare(session)

    def _fail(self, connection: Connection, message: Any, reason: str) -> None:
        """Refuse and end the job: after an answer that a party lacks, masks no longer fit."""
        self._book.fail(message, reason)
        self._refuse(connection, Code.REFUSED, reason)

    def _refuse(self, connection: Connection, code: Code, reason: str) -> None:
        _log.warning("refused a request of %s: %s", connection.peer.client, reason)
        connection.reply(error_response(code, reason))

    # Computing ahead -------------------------------------------------------------------------------------

    def _prepare(self, session: _Answers) -> asyncio.Future[None]:
        """Have the session's next answers computed; the future is done with the next few of them."""
        progress = self._progress.get(session)
        if progress is None:
            progress = self._progress[session] = asyncio.get_running_loop().create_future()
            self._in_task(self._prepare_ahead(session))
        return progress

    async def _prepare_ahead(self, session: _Answers) -> None:
        """Small steps on the loop, one batch between other events; large ones in a thread."""
        loop = asyncio.get_running_loop()
        try:
            while session.wants_preparation:
                if session.next_is_heavy:
                    session.add(await loop.run_in_executor(None, session.prepare))
                else:
                    session.add(session.prepare())
                self._progress[session].set_result(None)
                self._progress[session] = loop.create_future()
                await asyncio.sleep(0)
        except MemoryError as error:
            self._progress[session].set_exception(error)
        finally:
            del self._progress[session]

    # The parties' own requests ---------------------------------------------------------------------------

    async def _register(self, connection: Connection, book: JobBook, body: bytes) -> None:
        try:
            registration = Registration.model_validate_json(body)
            grant = await book.register(registration, connection.peer)
        except ValidationError as error:
            connection.reply(_invalid("registration", error))
        except SecureRunnerError as error:
            status = {AgreementError: 409, OverloadedError: 429}.get(type(error), 400)
            connection.reply(_error(status, error.code, str(error)))
        else:
            connection.reply(json_response(200, grant.model_dump(mode="json")))

    async def _hand_over(self, connection: Connection, book: JobBook, handle: str, body: bytes) -> None:
        """Corrections that are computed by now, at least some, to the adjusting party's relay."""
        try:
            asked = CorrectionsRequest.model_validate_json(body)
            session = book.relayed_session(handle, asked.encrypted_seeds, connection.peer)
            while (frames := session.take(asked.first)) is None:
                await self._prepare(session)
        except ValidationError as error:
            connection.reply(_invalid("corrections", error))
        except (RequestError, SeedError) as error:
            _log.warning("refused corrections to %s: %s", connection.peer.client, error)
            connection.reply(_error(409, "job", str(error)))
        except MemoryError:
            connection.reply(_error(409, "job", "the dealer has no memory for this step"))
        else:
            connection.reply(data_response(frames))
            if session.wants_preparation:
                self._prepare(session)

    def _look_after(self, connection: Connection, book: JobBook, method: str, handle: str) -> None:
        peer: Peer = connection.peer
        if method == "DELETE" and book.end(handle, peer):
            connection.reply(json_response(200, {"state": "ended"}))
            return
        status = book.status(handle, peer) if method == "GET" else None
        if status is None:
            connection.reply(_error(404, "job", "no such job of this party; the dealer may have restarted"))
        else:
            connection.reply(json_response(200, status))

    def _in_task(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _invalid(code: str, error: ValidationError) -> bytes:
    problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
    return _error(400, code, "; ".join(problems))


def _error(status: int, code: str, message: str) -> bytes:
    return json_response(status, {"error": code, "message": message})
