"""Files of rows scored in the background: submit, status, get, retry, cancel.

The verbs are those of BentoML's tasks. BentoML's own store is not used: it keeps each request whole, token
and rows included, in a database file that others on the machine may read, gives any task to whoever knows its
id, and leaves it there after it was fetched. Here the rows stay in memory until they are scored, predictions
are in a folder of mode 0700, and both are gone once the file is fetched or ``task_keep_s`` is over. Tasks
live in this process: a restart forgets them.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from secure_runner.bulk.chunks import score_chunks
from secure_runner.bulk.job import Job
from secure_runner.bulk.tables import write_outputs
from secure_runner.errors import InputError, OverloadedError, SecureRunnerError
from secure_runner.http.api import PredictionApi, log_defect
from secure_runner.http.body import PROGRAM_HEADER, read_body
from secure_runner.http.codecs import JSON
from secure_runner.http.codes import RequestError, public_error
from secure_runner.http.exchange import Exchange
from secure_runner.http.task_files import MEDIA_TYPES, Upload, read_upload, rows_of
from secure_runner.http.types import Arrays
from secure_runner.programs.manifest import Manifest

__all__ = ["ScoringTasks", "task_routes"]

_PREFIX = "/tasks/score"
_CONCURRENCY = 2  # chunks of one task under way, so that predictions come between
_PATIENCE_S = 120.0


@dataclass
class _Task:
    task_id: str
    client: str | None
    manifest: Manifest
    folder: tempfile.TemporaryDirectory[str]
    output: Path
    job: Job
    inputs: Arrays
    kept: dict[str, Any]
    status: str = "in_progress"
    rows_done: int = 0
    error: dict[str, str] | None = None
    running: asyncio.Task[None] | None = None
    expiry: asyncio.TimerHandle | None = field(default=None, repr=False)


class ScoringTasks:
    """The tasks of one service, each its client's own."""

    def __init__(self, api: PredictionApi) -> None:
        self._api = api
        self._tasks: dict[str, _Task] = {}
        self._arriving: Counter[str | None] = Counter()

    async def submit(self, exchange: Exchange) -> Response:
        """Read and check a whole file, and begin with it."""
        settings, client = self._api.settings, exchange.client
        manifest = self._api.predictor.manifest
        self._admit(client)
        self._arriving[client] += 1
        try:
            body = await read_body(
                exchange.request, max_bytes=settings.max_task_bytes, timeout_s=settings.body_timeout_s
            )
            exchange.request_bytes = len(body)
            upload = await read_upload(exchange.request, body, manifest)
            task = await asyncio.to_thread(self._open, client, upload, manifest)
        finally:
            self._arriving[client] -= 1
        exchange.rows = task.job.rows
        self._tasks[task.task_id] = task
        self._start(task)
        return _state(task)

    async def status(self, exchange: Exchange) -> Response:
        """How far a task is."""
        return _state(self._task_of(exchange))

    async def get(self, exchange: Exchange) -> Response:
        """The file of predictions, once: the task is gone afterwards."""
        task = self._task_of(exchange, "completed")
        content = task.output.read_bytes()
        self._drop(task)
        headers = {
            PROGRAM_HEADER: task.job.program_digest,
            "content-disposition": f'attachment; filename="{task.output.name}"',
        }
        return Response(content, media_type=MEDIA_TYPES[task.output.suffix], headers=headers)

    async def retry(self, exchange: Exchange) -> Response:
        """Go on with a task that failed or was cancelled, from the chunks that are done."""
        task = self._task_of(exchange, "failed", "canceled")
        self._start(task)
        return _state(task)

    async def cancel(self, exchange: Exchange) -> Response:
        """Stop a task that is under way."""
        task = self._task_of(exchange, "in_progress")
        assert task.running is not None, "under way"
        task.running.cancel()
        await asyncio.wait({task.running})
        return _state(task)

    def close(self) -> None:
        """Drop every task and its files. A server that ends by a signal would leave them behind."""
        for task in list(self._tasks.values()):
            self._drop(task)
            if task.running is not None:
                task.running.cancel()

    def _admit(self, client: str | None) -> None:
        settings = self._api.settings
        of_client = sum(task.client == client for task in self._tasks.values()) + self._arriving[client]
        of_all = len(self._tasks) + self._arriving.total()
        if of_client >= settings.max_tasks_per_client or of_all >= settings.max_tasks:
            raise OverloadedError(
                f"{settings.max_tasks_per_client} scoring tasks may be held for a client, "
                f"{settings.max_tasks} for all",
                retry_after_s=10.0,
                code="too_many_tasks",
            )

    def _task_of(self, exchange: Exchange, *states: str) -> _Task:
        """The client's own task; another's is as unknown as one that never was."""
        task = self._tasks.get(exchange.request.query_params.get("task_id", ""))
        if task is None or task.client != exchange.client:
            raise RequestError("task_not_found", "this client has no task of this task_id")
        if states and task.status not in states:
            raise RequestError("task_state", f"the task is {task.status}; this needs {' or '.join(states)}")
        return task

    def _open(self, client: str | None, upload: Upload, manifest: Manifest) -> _Task:
        folder = tempfile.TemporaryDirectory(prefix="secure-runner-task-", ignore_cleanup_errors=True)
        try:
            inputs, kept, rows = rows_of(
                upload, Path(folder.name), manifest, max_bytes=self._api.settings.max_task_bytes
            )
            task_id = secrets.token_hex(16)
            output = Path(folder.name) / f"predictions{upload.output}"
            limit = self._api.limiter.limits_of(client).rows_per_request
            job = Job(
                output,
                rows=rows,
                chunk_rows=min(limit, max(manifest.batch_sizes, default=1)),
                program_digest=manifest.digest,
                description={"task": task_id},
            )
            job.open(restart=False)
        except BaseException:
            folder.cleanup()
            raise
        return _Task(task_id, client, manifest, folder, output, job, inputs, kept)

    def _start(self, task: _Task) -> None:
        if task.expiry is not None:
            task.expiry.cancel()
        task.status, task.error, task.rows_done = "in_progress", None, 0
        task.running = asyncio.create_task(self._score(task))
        task.running.add_done_callback(partial(self._ended, task))

    async def _score(self, task: _Task) -> None:
        def on_done(rows: int) -> None:
            task.rows_done += rows

        async def predict(index: int, start: int, end: int) -> Arrays:
            if self._api.predictor.manifest is not task.manifest:
                raise InputError("the service has changed its program meanwhile; submit the file anew")
            self._api.limiter.admit_request(task.client)
            return await self._api.compute(
                {name: array[start:end] for name, array in task.inputs.items()},
                request_id=f"{task.job.job_id}-{index}",
                deadline_s=self._api.settings.default_deadline_s,
                client=task.client,
            )

        await score_chunks(
            task.job, predict, concurrency=_CONCURRENCY, patience_s=_PATIENCE_S, on_done=on_done
        )
        await asyncio.to_thread(lambda: write_outputs(task.output, task.kept, task.job.collect()))
        task.job.discard()
        task.inputs, task.kept = {}, {}

    def _ended(self, task: _Task, running: asyncio.Task[None]) -> None:
        if running.cancelled():
            task.status = "canceled"
        elif (error := running.exception()) is None:
            task.status = "completed"
        else:
            public = error if isinstance(error, SecureRunnerError) else SecureRunnerError("")
            if public.http_status == 500:
                log_defect(task.task_id, _PREFIX, error)
            _, code, message = public_error(public)
            task.status, task.error = "failed", {"code": code, "message": message}
        if task.task_id in self._tasks:
            keep_s = self._api.settings.task_keep_s
            task.expiry = running.get_loop().call_later(keep_s, self._drop, task)

    def _drop(self, task: _Task) -> None:
        if task.expiry is not None:
            task.expiry.cancel()
        self._tasks.pop(task.task_id, None)
        task.folder.cleanup()


def task_routes(api: PredictionApi, tasks: ScoringTasks) -> list[Route]:
    """``/tasks/score/submit``, ``status``, ``get``, ``retry`` and ``cancel``, with BentoML's methods."""

    def route(verb: str, method: str, respond: Callable[[Exchange], Awaitable[Response]]) -> Route:
        path = f"{_PREFIX}/{verb}"

        async def admitted(exchange: Exchange) -> Response:
            api.limiter.admit_request(exchange.client)
            return await respond(exchange)

        async def answer(request: Request) -> Response:
            return await api.guarded(request, path, admitted)

        return Route(path, answer, methods=[method])

    return [
        route("submit", "POST", tasks.submit),
        route("status", "GET", tasks.status),
        route("get", "GET", tasks.get),
        route("retry", "POST", tasks.retry),
        route("cancel", "PUT", tasks.cancel),
    ]


def _state(task: _Task) -> Response:
    state: dict[str, Any] = {
        "task_id": task.task_id,
        "status": task.status,
        "rows": task.job.rows,
        "rows_done": task.rows_done,
    }
    if task.error is not None:
        state["error"] = task.error
    return Response(orjson.dumps(state), media_type=JSON)
