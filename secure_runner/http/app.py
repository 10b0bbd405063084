"""The application with every route of the data owner's service but BentoML's own."""

from __future__ import annotations

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from secure_runner.http.api import PredictionApi
from secure_runner.http.codecs import JSON
from secure_runner.http.oip import oip_routes
from secure_runner.http.openapi import openapi_document
from secure_runner.http.tasks import ScoringTasks, task_routes

__all__ = ["create_app"]


def create_app(api: PredictionApi, tasks: ScoringTasks | None = None) -> Starlette:
    """``/predict``, ``/manifest``, ``/openapi.json``, ``/v2`` and ``/tasks``, answered by ``api``."""

    async def openapi(_: Request) -> Response:
        manifest = api.predictor.manifest if api.bound else None
        return Response(orjson.dumps(openapi_document(manifest)), media_type=JSON)

    return Starlette(
        routes=[
            Route("/predict", api.predict, methods=["POST"]),
            Route("/manifest", api.manifest, methods=["GET"]),
            Route("/openapi.json", openapi, methods=["GET"]),
            *oip_routes(api),
            *task_routes(api, tasks or ScoringTasks(api)),
        ],
        exception_handlers={HTTPException: _routing_error},
    )


async def _routing_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for this class alone"
    code = "method_not_allowed" if error.status_code == 405 else "not_found"
    message = f"{error.detail}: see GET /openapi.json for the paths and their methods"
    body: dict[str, object] = {"error": {"code": code, "message": message}}
    if request.url.path.startswith("/v2"):
        body = {"error": message, "code": code}
    return Response(orjson.dumps(body), status_code=error.status_code, media_type=JSON, headers=error.headers)
