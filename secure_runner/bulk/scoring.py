"""Chunks of rows sent to a service over HTTP."""

from __future__ import annotations

import io
import ssl
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from secure_runner.bulk.chunks import score_chunks
from secure_runner.bulk.job import Job
from secure_runner.errors import InputError, SecureRunnerError, UnavailableError
from secure_runner.http.body import DEADLINE_HEADER, PROGRAM_HEADER, REQUEST_ID_HEADER
from secure_runner.http.codecs import NPZ
from secure_runner.http.npy import write_npz
from secure_runner.http.types import Arrays
from secure_runner.programs.manifest import Manifest

__all__ = ["Service", "fetch_manifest", "score"]

_TRY_AGAIN = frozenset({429, 502, 503, 504})


@dataclass(frozen=True)
class Service:
    """Where a service is, and how to talk to it."""

    url: str
    token: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    deadline_s: float = 60.0
    """Of one request."""
    patience_s: float = 120.0
    """How long one chunk is tried again before the job stops."""

    def client(self) -> httpx.AsyncClient:
        """A connection pool for the service."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.certificate_file is not None:
            context.load_cert_chain(self.certificate_file, self.key_file)
        headers = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        return httpx.AsyncClient(
            base_url=self.url, headers=headers, verify=context, timeout=self.deadline_s + 5.0
        )


async def fetch_manifest(service: Service) -> Manifest:
    """The manifest of the program that the service serves.

    Raises:
        UnavailableError: the service cannot be reached, or is not ready.
        InputError: it refuses, or does not serve a program.
    """
    async with service.client() as client:
        try:
            answer = await client.get("/manifest")
        except httpx.TransportError as error:
            raise UnavailableError(f"{service.url} cannot be reached: {type(error).__name__}") from error
    if answer.status_code != 200:
        raise _refusal(answer, 0)
    try:
        return Manifest.model_validate_json(answer.content)
    except ValueError:
        raise InputError(f"{service.url} does not serve a manifest that this version understands") from None


async def score(
    service: Service, job: Job, inputs: Arrays, *, concurrency: int, on_done: Callable[[int], None]
) -> None:
    """Send every chunk that is not done, and keep its predictions.

    Args:
        service: where to.
        job: which chunks there are, and where predictions are kept.
        inputs: validated, all rows.
        concurrency: requests under way at once; the service merges them into batches.
        on_done: told the number of rows of each chunk done, also of those done before.

    Raises:
        InputError: the service refuses a chunk.
        UnavailableError: it has not answered within the service's ``patience_s``.
    """
    async with service.client() as client:

        async def predict(index: int, start: int, end: int) -> Arrays:
            body = write_npz({name: array[start:end] for name, array in inputs.items()})
            chunk = _Chunk(body, f"{job.job_id}-{index}", start, end - start, job.program_digest)
            return await _try_once(service, client, chunk)

        await score_chunks(
            job, predict, concurrency=concurrency, patience_s=service.patience_s, on_done=on_done
        )


@dataclass(frozen=True)
class _Chunk:
    body: bytes
    request_id: str
    start: int
    rows: int
    program_digest: str


async def _try_once(service: Service, client: httpx.AsyncClient, chunk: _Chunk) -> Arrays:
    headers = {
        "content-type": NPZ,
        "accept": NPZ,
        REQUEST_ID_HEADER: chunk.request_id,
        DEADLINE_HEADER: f"{service.deadline_s:g}",
    }
    try:
        answer = await client.post("/predict", content=chunk.body, headers=headers)
    except httpx.TransportError as error:
        raise UnavailableError(
            f"{service.url} cannot be reached: {type(error).__name__}", retry_after_s=0.0
        ) from error
    if answer.status_code != 200:
        raise _refusal(answer, chunk.start)
    if answer.headers.get(PROGRAM_HEADER) != chunk.program_digest:
        raise InputError("the service has changed its program meanwhile; score all rows anew, with --restart")
    return _outputs_of(answer.content, chunk.rows)


def _outputs_of(content: bytes, rows: int) -> Arrays:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            outputs = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile):
        raise InputError("the service's answer is not the .npz that was asked for") from None
    if not outputs or any(array.ndim == 0 or len(array) != rows for array in outputs.values()):
        raise InputError(f"the service answered with other than {rows} rows")
    return outputs


def _retry_after_s(answer: httpx.Response) -> float:
    try:
        return float(answer.headers.get("retry-after", "0"))
    except ValueError:
        return 0.0


def _refusal(answer: httpx.Response, start: int) -> SecureRunnerError:
    """The service's own words, with the row counted from the start of the file."""
    code, message, row = "", f"HTTP status {answer.status_code}", None
    try:
        error: Any = answer.json()["error"]
        code, message, row = str(error["code"]), str(error["message"]), error.get("row")
    except (ValueError, KeyError, TypeError):
        pass
    where = f" (chunk from row {start}, its row {row})" if isinstance(row, int) else ""
    if answer.status_code in _TRY_AGAIN:
        return UnavailableError(
            f"the service cannot answer now: {message}",
            retry_after_s=_retry_after_s(answer),
            code=code or None,
        )
    return InputError(f"the service refuses: {message}{where}", code=code or None)
