"""Reading a request's headers and body within bounds."""

from __future__ import annotations

import asyncio
import re
import secrets

import async_timeout
from starlette.requests import ClientDisconnect, Request

from secure_runner.http.codes import RequestError
from secure_runner.http.settings import HttpSettings

__all__ = [
    "DEADLINE_HEADER",
    "PROGRAM_HEADER",
    "REQUEST_ID_HEADER",
    "TRACE_HEADER",
    "checked_request_id",
    "deadline_s_of",
    "is_request_id",
    "new_request_id",
    "read_body",
]

REQUEST_ID_HEADER = "x-request-id"
DEADLINE_HEADER = "x-request-timeout-s"
PROGRAM_HEADER = "x-program-digest"
TRACE_HEADER = "traceparent"
"""W3C Trace Context: a client's own trace goes on; without one, a trace begins."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def new_request_id() -> str:
    """An id for a request whose client gave it none."""
    return secrets.token_hex(16)


def checked_request_id(sent: str) -> str:
    """The client's request id. It goes into logs, so its characters are restricted.

    Raises:
        RequestError: ``bad_header``.
    """
    if not is_request_id(sent):
        raise RequestError("bad_header", "X-Request-Id has 1 to 128 characters out of A-Z a-z 0-9 . _ : -")
    return sent


def is_request_id(text: str | None) -> bool:
    """Whether a text may be used as a request id."""
    return text is not None and _REQUEST_ID.fullmatch(text) is not None


def deadline_s_of(sent: str | None, settings: HttpSettings) -> float:
    """Seconds that the client gives the request.

    Raises:
        RequestError: ``bad_header``.
    """
    if sent is None:
        return settings.default_deadline_s
    try:
        deadline_s = float(sent)
    except ValueError:
        deadline_s = float("nan")
    if not 0 < deadline_s <= settings.max_deadline_s:
        raise RequestError(
            "bad_header",
            f"X-Request-Timeout-S is a number of seconds above 0 and up to {settings.max_deadline_s:g}",
        )
    return deadline_s


async def read_body(request: Request, *, max_bytes: int, timeout_s: float) -> bytes:
    """The whole body, as long as it is neither compressed nor too large nor too slow.

    Chunked bodies announce no length, so bytes are counted as they come.

    Raises:
        RequestError: ``unsupported_encoding``, ``body_too_large``, ``body_timeout`` or ``malformed_body``.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise RequestError("unsupported_encoding", "bodies are sent without Content-Encoding")
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > max_bytes:
        raise _too_large(max_bytes)
    try:
        async with async_timeout.timeout(timeout_s):
            return await _read(request, max_bytes)
    except asyncio.TimeoutError:
        raise RequestError("body_timeout", f"the body did not arrive within {timeout_s:g} s") from None
    except ClientDisconnect:
        raise RequestError("malformed_body", "the client went away before its body had arrived") from None


async def _read(request: Request, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(
        "body_too_large",
        f"a body may have {max_bytes} bytes",
        expected={"max_body_bytes": max_bytes},
    )
