"""What parties other than the data owner answer over HTTP: the manifest, and a refusal to predict."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from secure_runner.programs.manifest import Manifest
from secure_runner.protocols import Role

__all__ = ["create_refusing_app"]

_METHODS = ["GET", "POST", "PUT"]


def create_refusing_app(manifest: Manifest, role: Role) -> Starlette:
    """An application that shows the manifest and refuses predictions without reading what was sent.

    Args:
        manifest: of the program that this party computes.
        role: of this party.
    """
    message = (
        f"this is the service of the {role.replace('_', ' ')}, which must not see features. Send the request "
        "to the data owner's own service: it shares the features, and it alone receives the prediction"
    )

    async def show(_: Request) -> Response:
        return Response(manifest.model_dump_json(), media_type="application/json")

    async def refuse(_: Request) -> Response:
        error = {"code": "wrong_party", "message": message}
        return JSONResponse({"error": error}, status_code=403, headers={"Connection": "close"})

    return Starlette(
        routes=[
            Route("/manifest", show),
            Route("/predict", refuse, methods=_METHODS),
            Route("/v2/{rest:path}", refuse, methods=_METHODS),
            Route("/tasks/{rest:path}", refuse, methods=_METHODS),
        ]
    )
