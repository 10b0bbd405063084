"""One HTTP request under way."""

from __future__ import annotations

import contextvars
import time
from dataclasses import dataclass, field

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from secure_runner.http.body import new_request_id
from secure_runner.http.types import Observer, RequestOutcome

__all__ = ["Exchange"]


@dataclass
class Exchange:
    """What is known of a request so far, for its answer and for those who watch."""

    request: Request
    endpoint: str
    request_id: str = field(default_factory=new_request_id)
    repeatable: bool = False
    """Whether the client named it, and so may send it again."""
    started_s: float = field(default_factory=time.monotonic)
    client: str | None = None
    rows: int = 0
    request_bytes: int = 0

    def is_named(self, request_id: str) -> None:
        """The client gives the request an id."""
        self.request_id, self.repeatable = request_id, True

    def tell(self, observe: Observer, code: str, response: Response) -> None:
        """Have an observer told of it once the response is sent: the client does not wait for that.

        Args:
            observe: who is told.
            code: ``ok``, or the error's.
            response: the answer.
        """
        outcome = RequestOutcome(
            endpoint=self.endpoint,
            request_id=self.request_id,
            client=self.client,
            status=response.status_code,
            code=code,
            rows=self.rows,
            request_bytes=self.request_bytes,
            response_bytes=len(bytes(response.body)),
            duration_s=time.monotonic() - self.started_s,
        )
        response.background = _Telling(observe, outcome)


class _Telling(BackgroundTask):
    """Tells an observer, in the request's trace. starlette's own task would have a thread do it."""

    def __init__(self, observe: Observer, outcome: RequestOutcome) -> None:
        self._observe, self._outcome = observe, outcome
        self._context = contextvars.copy_context()

    async def __call__(self) -> None:
        self._context.run(self._observe, self._outcome)
