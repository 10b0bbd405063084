"""Predictions answered ahead of BentoML's routes."""

from __future__ import annotations

from typing import Any

from bentoml._internal.server.http.traffic import TimeoutMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from secure_runner.http.api import PredictionApi

__all__ = ["EarlyAnswers", "answer_early"]

_PATH = "/predict"


class EarlyAnswers:
    """ASGI middleware that answers ``POST /predict`` itself and hands everything else on.

    BentoML builds its request models and context around an API, which read and write their bodies themselves
    here. Its metrics, its limits and the middlewares that a service adds still come first. Its time limit
    does not: it leaves a timer of its whole length behind for each request, 0.7 kB for 330 s. Predictions
    have deadlines of their own.
    """

    def __init__(self, app: ASGIApp, api: PredictionApi) -> None:
        self._app = app
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or whatever else the server has."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == _PATH:
            response = await self._api.predict(Request(scope, receive, send))
            await response(scope, receive, send)
        else:
            if scope["type"] == "lifespan":
                _take_out(TimeoutMiddleware, scope["app"])
            await self._app(scope, receive, send)


def _take_out(kind: type, app: Any) -> None:
    """Remove the middlewares of a kind from an application whose stack is built."""
    before = app.middleware_stack
    while (middleware := getattr(before, "app", None)) is not None:
        if isinstance(middleware, kind):
            before.app = middleware.app  # type: ignore[attr-defined]  # of whatever class, all hold it so
        else:
            before = middleware


def answer_early(service: Any) -> None:
    """Put :class:`EarlyAnswers` before a BentoML service made of a ``PredictionService``."""
    service.add_asgi_middleware(EarlyAnswers, api=service.inner.http_api)
