"""One path from a request to the predictor and back, for every form of request."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import async_timeout
import orjson
from starlette.requests import Request
from starlette.responses import Response

from secure_runner.errors import (
    DeadlineError,
    OverloadedError,
    SecureRunnerError,
    UnavailableError,
)
from secure_runner.http.auth import Authenticator
from secure_runner.http.body import (
    DEADLINE_HEADER,
    PROGRAM_HEADER,
    REQUEST_ID_HEADER,
    TRACE_HEADER,
    checked_request_id,
    deadline_s_of,
    read_body,
)
from secure_runner.http.codecs import JSON, decode_body, encoding_for, media_type_of
from secure_runner.http.codes import RequestError, public_error
from secure_runner.http.exchange import Exchange
from secure_runner.http.limits import Limiter
from secure_runner.http.settings import HttpSettings
from secure_runner.http.types import Arrays, Observer, Predictor
from secure_runner.http.validation import batch_rows, validate_inputs
from secure_runner.observe.traces import current_traceparent, span
from secure_runner.programs.manifest import Manifest

__all__ = ["Decoded", "PredictionApi", "log_defect"]

logger = logging.getLogger(__name__)

READY_TIMEOUT_S = 1.5
_CLOSING_CODES = frozenset({"body_too_large", "body_timeout", "unsupported_encoding"})


Decoded = tuple[Any, Callable[[Arrays], Response]]
Decode = Callable[[Exchange, bytes, Manifest], Decoded]
RenderError = Callable[[dict[str, Any]], dict[str, Any]]


class PredictionApi:
    """Everything that requests have in common: identity, limits, bounds, deadline, errors.

    It can be created before its predictor exists; until `bind` every prediction is answered with 503.
    """

    def __init__(
        self,
        predictor: Predictor | None = None,
        settings: HttpSettings | None = None,
        observe: Observer | None = None,
    ) -> None:
        self._in_flight = 0
        self._digested: tuple[Manifest, str] | None = None
        self.bind(predictor, HttpSettings(authentication="none") if settings is None else settings, observe)

    def bind(
        self, predictor: Predictor | None, settings: HttpSettings, observe: Observer | None = None
    ) -> None:
        """Say who answers, under which settings, and who is told of each request."""
        self._predictor = predictor
        self.settings = settings
        self._observe = observe
        self._authenticator = Authenticator(settings)
        self.limiter = Limiter(settings)

    @property
    def bound(self) -> bool:
        """Whether there is a predictor yet."""
        return self._predictor is not None

    @property
    def predictor(self) -> Predictor:
        """The predictor.

        Raises:
            UnavailableError: it has not started yet.
        """
        if self._predictor is None:
            raise UnavailableError("the service is starting")
        return self._predictor

    async def ready(self) -> tuple[bool, str]:
        """Whether a prediction would be computed now; decided within 1.5 s."""
        try:
            return await asyncio.wait_for(self.predictor.ready(), READY_TIMEOUT_S)
        except asyncio.TimeoutError:
            return False, f"the runner did not answer within {READY_TIMEOUT_S:g} s"
        except Exception as error:
            return False, f"the runner cannot be asked: {type(error).__name__}"

    async def predict(self, request: Request) -> Response:
        """``POST /predict``."""
        return await self.answer(request, "/predict", self._decode_predict)

    async def manifest(self, request: Request) -> Response:
        """``GET /manifest``: the program's manifest, and its digest as ETag."""

        async def read(_: Exchange) -> Response:
            manifest = self.predictor.manifest
            etag = f'"{manifest.digest}"'
            if request.headers.get("if-none-match") == etag:
                return Response(status_code=304, headers={"etag": etag})
            return Response(manifest.canonical_json(), media_type=JSON, headers={"etag": etag})

        return await self.guarded(request, "/manifest", read)

    async def answer(
        self, request: Request, endpoint: str, decode: Decode, render_error: RenderError | None = None
    ) -> Response:
        """One prediction, in the form that ``decode`` reads and answers in."""

        async def predict(exchange: Exchange) -> Response:
            if self._in_flight >= self.settings.max_requests_in_flight:
                raise OverloadedError(
                    "as many requests as the service holds are under way", retry_after_s=1.0
                )
            self._in_flight += 1
            try:
                return await self._predict(exchange, decode)
            finally:
                self._in_flight -= 1

        return await self.guarded(request, endpoint, predict, render_error)

    async def guarded(
        self,
        request: Request,
        endpoint: str,
        respond: Callable[[Exchange], Awaitable[Response]],
        render_error: RenderError | None = None,
    ) -> Response:
        """Authenticate, respond, and turn every failure into an error body with a code."""
        with span("secure_runner.request", request.headers.get(TRACE_HEADER, "")) as traced:
            exchange, code, response = await self._guard(request, endpoint, respond, render_error)
            traced.set_attribute("secure_runner.code", code)
            traced.set_attribute("secure_runner.request_id", exchange.request_id)
            response.headers[TRACE_HEADER] = current_traceparent()
            if self._observe is not None:
                exchange.tell(self._observe, code, response)
        return response

    async def _guard(
        self,
        request: Request,
        endpoint: str,
        respond: Callable[[Exchange], Awaitable[Response]],
        render_error: RenderError | None,
    ) -> tuple[Exchange, str, Response]:
        exchange, code = Exchange(request, endpoint), "ok"
        try:
            if (sent := request.headers.get(REQUEST_ID_HEADER)) is not None:
                exchange.is_named(checked_request_id(sent))
            exchange.client = self._authenticator.client_of(request.headers.get("authorization"))
            response = await respond(exchange)
        except SecureRunnerError as error:
            if error.http_status == 500:
                log_defect(exchange.request_id, endpoint, error)
            code, response = _error_response(exchange, error, render_error)
        except Exception as error:
            log_defect(exchange.request_id, endpoint, error)
            code, response = _error_response(exchange, SecureRunnerError(""), render_error)
        response.headers[REQUEST_ID_HEADER] = exchange.request_id
        return exchange, code, response

    async def _predict(self, exchange: Exchange, decode: Decode) -> Response:
        request, settings = exchange.request, self.settings
        manifest = self.predictor.manifest
        deadline_s = deadline_s_of(request.headers.get(DEADLINE_HEADER), settings)
        self.limiter.admit_request(exchange.client)
        body = await read_body(request, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s)
        exchange.request_bytes = len(body)
        raw, encode = decode(exchange, body, manifest)
        limits = self.limiter.limits_of(exchange.client)
        inputs = validate_inputs(manifest, raw, max_rows=limits.rows_per_request)
        exchange.rows = batch_rows(manifest, inputs)
        left_s = deadline_s - (time.monotonic() - exchange.started_s)
        outputs = await self.compute(
            inputs,
            request_id=exchange.request_id,
            deadline_s=left_s,
            client=exchange.client,
            repeatable=exchange.repeatable,
        )
        response = encode({spec.name: outputs[spec.name] for spec in manifest.outputs})
        response.headers[PROGRAM_HEADER] = self._digest_of(manifest)
        return response

    async def compute(
        self,
        inputs: Arrays,
        *,
        request_id: str,
        deadline_s: float,
        client: str | None,
        repeatable: bool = True,
    ) -> Arrays:
        """Validated rows to predictions, counted against the client's rows of the day.

        Raises:
            InputError, OverloadedError, UnavailableError, DeadlineError: of `secure_runner.errors`.
        """
        predictor = self.predictor
        rows = batch_rows(predictor.manifest, inputs)
        self.limiter.admit_rows(client, rows)
        if deadline_s <= 0:
            raise DeadlineError("the deadline passed while the body was read")
        computed = predictor.predict(
            inputs, request_id=request_id, deadline_s=deadline_s, client=client, repeatable=repeatable
        )
        try:
            async with async_timeout.timeout(deadline_s):
                return await computed
        except asyncio.TimeoutError:
            raise DeadlineError("the deadline passed before the answer was there") from None
        except (OverloadedError, UnavailableError):
            self.limiter.return_rows(client, rows)
            raise

    def _digest_of(self, manifest: Manifest) -> str:
        if self._digested is None or self._digested[0] is not manifest:
            self._digested = (manifest, manifest.digest)
        return self._digested[1]

    def _decode_predict(self, exchange: Exchange, body: bytes, manifest: Manifest) -> Decoded:
        headers = exchange.request.headers
        media_type = media_type_of(headers.get("content-type"))
        encoding = encoding_for(headers.get("accept"), media_type, manifest)
        raw = decode_body(media_type, body, manifest, max_bytes=self.settings.max_body_bytes)
        return raw, lambda outputs: Response(encoding.encode(outputs), media_type=encoding.media_type)


def _error_response(
    exchange: Exchange, error: SecureRunnerError, render: RenderError | None
) -> tuple[str, Response]:
    status, code, message = public_error(error)
    details = error.details if isinstance(error, RequestError) else {}
    body: dict[str, Any] = {"code": code, "message": message, "request_id": exchange.request_id, **details}
    headers: dict[str, str] = {}
    if isinstance(error, OverloadedError | UnavailableError):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
        body["retry_after_s"] = error.retry_after_s
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if code in _CLOSING_CODES:
        # The rest of the body is not read, so nothing can follow it on this connection.
        headers["connection"] = "close"
    content = orjson.dumps({"error": body} if render is None else render(body))
    return code, Response(content, status_code=status, media_type=JSON, headers=headers)


def log_defect(request_id: str, endpoint: str, error: BaseException) -> None:
    """Where it happened, without the message: a library's message may quote a value."""
    frames = traceback.extract_tb(error.__traceback__)
    logger.error(
        "request %s on %s failed with %s at %s",
        request_id,
        endpoint,
        type(error).__name__,
        " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames)),
    )
