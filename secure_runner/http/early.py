"""Predictions answered ahead of BentoML's routes."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from secure_runner.http.api import PredictionApi

__all__ = ["EarlyAnswers", "answer_early"]

_PATH = "/predict"


class EarlyAnswers:
    """ASGI middleware that answers ``POST /predict`` itself and hands everything else on.

    BentoML builds its request models and context around an API, which read and write their bodies themselves
    here. Its metrics, its limits and the middlewares that a service adds still come first.
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
            await self._app(scope, receive, send)


def answer_early(service: Any) -> None:
    """Put :class:`EarlyAnswers` before a BentoML service made of a ``PredictionService``."""
    service.add_asgi_middleware(EarlyAnswers, api=service.inner.http_api)
