"""What crosses between an API service and its runner: one frame each way, errors included.

BentoML hides the message of an error that a service it depends on raises. Here errors are answers.
"""

from __future__ import annotations

from typing import Any, NoReturn

from secure_runner import errors
from secure_runner.frames import Array, Frame, Kind, array_parts, arrays_of, decode, encode

__all__ = ["answer_of", "failure", "request_of", "to_answer", "to_request"]

_ERRORS: dict[str, type[errors.SecureRunnerError]] = {
    kind.__name__: kind
    for kind in (errors.InputError, errors.OverloadedError, errors.UnavailableError, errors.DeadlineError)
}


def to_request(
    inputs: dict[str, Array],
    *,
    request_id: str,
    client: str | None,
    deadline_s: float | None,
    repeatable: bool = True,
    traceparent: str = "",
) -> bytes:
    """Inputs of one request as a frame."""
    specs, parts = array_parts(inputs)
    meta = {
        "arrays": specs,
        "request_id": request_id,
        "client": client,
        "deadline_s": deadline_s,
        "repeatable": repeatable,
        "traceparent": traceparent,
    }
    return b"".join(encode(Frame(Kind.RUN, meta=meta, parts=parts)))


def request_of(data: bytes) -> tuple[dict[str, Array], dict[str, Any]]:
    """Inputs of a request, and its ``request_id``, ``client``, ``deadline_s``,
    ``repeatable`` and ``traceparent``."""
    frame = decode(data)
    meta = dict(frame.meta)
    return arrays_of(meta.pop("arrays"), frame.parts), meta


def to_answer(outputs: dict[str, Array]) -> bytes:
    """Outputs of one request as a frame. Arrays of strings (labels) travel as fixed-width Unicode."""
    plain = {
        name: array.astype(np_str(array)) if array.dtype.hasobject else array
        for name, array in outputs.items()
    }
    specs, parts = array_parts(plain)
    return b"".join(encode(Frame(Kind.RESULT, meta={"arrays": specs}, parts=parts)))


def failure(error: errors.SecureRunnerError) -> bytes:
    """An error as a frame."""
    meta = {
        "error": type(error).__name__,
        "message": str(error),
        "code": error.code,
        "retry_after_s": getattr(error, "retry_after_s", None),
        "http_status": error.http_status,
    }
    return b"".join(encode(Frame(Kind.FAILED, meta=meta)))


def answer_of(data: bytes) -> dict[str, Array]:
    """Outputs of a request.

    Raises:
        SecureRunnerError: what the runner answered instead.
    """
    frame = decode(data)
    if frame.kind is Kind.FAILED:
        _raise(dict(frame.meta))
    return arrays_of(frame.meta["arrays"], frame.parts)


def np_str(array: Array) -> str:
    """Fixed-width Unicode dtype that holds every label of an array of Python strings."""
    longest = max((len(str(value)) for value in array.ravel()), default=1)
    return f"<U{max(longest, 1)}"


def _raise(meta: dict[str, Any]) -> NoReturn:
    kind = _ERRORS.get(meta["error"], errors.SecureRunnerError)
    arguments: dict[str, Any] = {"code": meta["code"]}
    if issubclass(kind, (errors.OverloadedError, errors.UnavailableError)):
        arguments["retry_after_s"] = meta["retry_after_s"]
    if issubclass(kind, errors.InputError):
        arguments["http_status"] = meta["http_status"]
    raise kind(meta["message"], **arguments)
