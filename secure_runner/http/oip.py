"""The Open Inference Protocol, version 2, over HTTP, with the binary tensor data extension.

https://github.com/kserve/open-inference-protocol (specification/protocol/inference_rest.md) and
https://github.com/triton-inference-server/server (docs/protocol/extension_binary_data.md).
The model's version is the first 12 digits of its program's digest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from secure_runner.http.api import Decoded, PredictionApi
from secure_runner.http.body import REQUEST_ID_HEADER, is_request_id
from secure_runner.http.codecs import JSON, OCTETS, read_json
from secure_runner.http.codes import RequestError
from secure_runner.http.exchange import Exchange
from secure_runner.http.oip_tensors import datatype_of, read_inputs, tensor_bytes
from secure_runner.http.types import Arrays
from secure_runner.programs.manifest import Manifest, TensorSpec

__all__ = ["HEADER_LENGTH", "oip_routes"]

HEADER_LENGTH = "inference-header-content-length"
_VERSION_DIGITS = 12
_FIELDS = frozenset({"id", "parameters", "inputs", "outputs"})


def oip_routes(api: PredictionApi) -> list[BaseRoute]:
    """Every route under ``/v2``. Health and server metadata need no token, all else does."""
    protocol = _OpenInference(api)
    model = "/v2/models/{name}"
    versioned = f"{model}/versions/{{version}}"
    routes: list[BaseRoute] = [
        Route("/v2", protocol.server, methods=["GET"]),
        Route("/v2/health/live", protocol.live, methods=["GET"]),
        Route("/v2/health/ready", protocol.server_ready, methods=["GET"]),
    ]
    for prefix in (model, versioned):
        routes += [
            Route(prefix, protocol.model, methods=["GET"]),
            Route(f"{prefix}/ready", protocol.model_ready, methods=["GET"]),
            Route(f"{prefix}/infer", protocol.infer, methods=["POST"]),
        ]
    return routes


class _OpenInference:
    def __init__(self, api: PredictionApi) -> None:
        self._api = api

    async def server(self, _: Request) -> Response:
        return JSONResponse({"name": "secure-runner", "version": "2", "extensions": ["binary_tensor_data"]})

    async def live(self, _: Request) -> Response:
        return JSONResponse({"live": True})

    async def server_ready(self, _: Request) -> Response:
        ready, _reason = await self._api.ready()
        return JSONResponse({"ready": ready}, status_code=200 if ready else 503)

    async def model(self, request: Request) -> Response:
        async def respond(exchange: Exchange) -> Response:
            manifest = self._api.predictor.manifest
            _check_model(request, manifest)
            return JSONResponse(
                {
                    "name": manifest.name,
                    "versions": [_version(manifest)],
                    "platform": f"secure_runner_{manifest.protocol}",
                    "inputs": [_tensor_metadata(spec) for spec in manifest.inputs],
                    "outputs": [_tensor_metadata(spec) for spec in manifest.outputs],
                }
            )

        return await self._api.guarded(request, "/v2/models", respond, _render_error)

    async def model_ready(self, request: Request) -> Response:
        async def respond(exchange: Exchange) -> Response:
            manifest = self._api.predictor.manifest
            _check_model(request, manifest)
            ready, reason = await self._api.ready()
            document = {"name": manifest.name, "ready": ready, **({} if ready else {"reason": reason})}
            return JSONResponse(document, status_code=200 if ready else 503)

        return await self._api.guarded(request, "/v2/models/ready", respond, _render_error)

    async def infer(self, request: Request) -> Response:
        return await self._api.answer(request, "/v2/models/infer", _decode, _render_error)


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    shape = [-1 if dim is None else dim for dim in spec.shape]
    return {"name": spec.name, "datatype": datatype_of(spec.dtype), "shape": shape}


def _version(manifest: Manifest) -> str:
    return manifest.digest[:_VERSION_DIGITS]


def _check_model(request: Request, manifest: Manifest) -> None:
    name, version = request.path_params["name"], request.path_params.get("version")
    if name != manifest.name or version not in (None, _version(manifest)):
        raise RequestError(
            "not_found",
            f"the model served here is {manifest.name!r}, version {_version(manifest)}",
            expected={"model": manifest.name, "version": _version(manifest)},
        )


def _render_error(body: dict[str, Any]) -> dict[str, Any]:
    """The protocol's ``error`` is a string; ours is beside it."""
    return {"error": body["message"], **{key: value for key, value in body.items() if key != "message"}}


def _decode(exchange: Exchange, body: bytes, manifest: Manifest) -> Decoded:
    _check_model(exchange.request, manifest)
    header, binary, is_binary = _split(exchange.request, body)
    document = read_json(header)
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise RequestError("malformed_body", "an inference request is an object with a list of inputs")
    unknown = sorted(document.keys() - _FIELDS)
    if unknown:
        raise RequestError("unknown_field", f"an inference request has no field {unknown[0][:64]!r}")
    inference_id = document.get("id")
    if inference_id is not None and not isinstance(inference_id, str):
        raise RequestError("malformed_body", "id is a string")
    if is_request_id(inference_id) and REQUEST_ID_HEADER not in exchange.request.headers:
        exchange.is_named(str(inference_id))
    wanted = _wanted_outputs(document, manifest)
    raw = read_inputs(document["inputs"], binary)
    return raw, _encode(manifest, wanted, inference_id, binary_request=is_binary)


def _split(request: Request, body: bytes) -> tuple[bytes, memoryview, bool]:
    """The JSON part of a body and the tensors that follow it."""
    announced = request.headers.get(HEADER_LENGTH)
    if announced is None:
        return body, memoryview(b""), False
    if not (announced.isascii() and announced.isdigit() and len(announced) < 12) or int(announced) > len(
        body
    ):
        raise RequestError(
            "bad_header",
            "Inference-Header-Content-Length is the length of the JSON part, in bytes of the body",
        )
    length = int(announced)
    return body[:length], memoryview(body)[length:], True


def _wanted_outputs(document: dict[str, Any], manifest: Manifest) -> dict[str, bool]:
    """Names of the outputs asked for, all if none is, and whether each is wanted in binary."""
    parameters = _object(document.get("parameters"), "parameters")
    in_binary = bool(parameters.get("binary_data_output", False))
    asked = document.get("outputs")
    if asked is None or asked == []:
        return {spec.name: in_binary for spec in manifest.outputs}
    known = {spec.name for spec in manifest.outputs}
    wanted: dict[str, bool] = {}
    for output in asked if isinstance(asked, list) else [None]:
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            raise RequestError("malformed_body", "outputs is a list of objects with a name")
        name = output["name"]
        if name not in known:
            raise RequestError("unknown_output", f"the outputs are {', '.join(sorted(known))}")
        own = _object(output.get("parameters"), "parameters of an output")
        if "classification" in own:
            raise RequestError("unknown_field", "the classification extension is not offered")
        wanted[name] = bool(own.get("binary_data", in_binary))
    return wanted


def _object(value: Any, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestError("malformed_body", f"{what} is an object")
    return value


def _encode(
    manifest: Manifest, wanted: dict[str, bool], inference_id: str | None, *, binary_request: bool
) -> Callable[[Arrays], Response]:
    def encode(outputs: Arrays) -> Response:
        described: list[dict[str, Any]] = []
        tensors: list[bytes] = []
        for name, in_binary in wanted.items():
            array = outputs[name]
            output: dict[str, Any] = {
                "name": name,
                "datatype": datatype_of(array.dtype),
                "shape": list(array.shape),
            }
            if in_binary:
                tensors.append(tensor_bytes(array))
                output["parameters"] = {"binary_data_size": len(tensors[-1])}
            else:
                output["data"] = array.reshape(-1).tolist()
            described.append(output)
        document = {"model_name": manifest.name, "model_version": _version(manifest), "outputs": described}
        if inference_id is not None:
            document["id"] = inference_id
        header = orjson.dumps(document)
        if not tensors:
            return Response(header, media_type=JSON)
        return Response(
            header + b"".join(tensors), media_type=OCTETS, headers={HEADER_LENGTH: str(len(header))}
        )

    return encode
