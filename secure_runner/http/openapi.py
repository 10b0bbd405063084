"""OpenAPI 3.1 of the routes of this package, made from the manifest of the program that is served."""

from __future__ import annotations

from typing import Any

from secure_runner.http.codecs import ARROW, JSON, NPY, NPZ, OCTETS
from secure_runner.http.codes import ERROR_CODES
from secure_runner.http.schemas import inputs_schema, outputs_schema
from secure_runner.http.task_files import MEDIA_TYPES, MULTIPART, UPLOAD_TYPES
from secure_runner.programs.manifest import Manifest

__all__ = ["openapi_document"]

_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_PREDICTION_STATUSES = (400, 401, 403, 404, 406, 408, 413, 415, 429, 500, 503, 504)


def openapi_document(manifest: Manifest | None) -> dict[str, Any]:
    """The document; ``None`` while the service starts, when inputs and outputs are not known yet."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "secure-runner", "version": "1" if manifest is None else manifest.digest[:12]},
        "paths": {
            "/predict": {"post": _predict(manifest)},
            "/manifest": {"get": _read("The program's manifest", (401, 503), with_error_object=True)},
            "/v2": {"get": _read("Server metadata", ())},
            "/v2/health/live": {"get": _read("Liveness", ())},
            "/v2/health/ready": {"get": _read("Readiness", (503,))},
            **_model_paths(manifest),
            **_task_paths(),
        },
        "components": {
            "schemas": {"Error": _error_schema(), "OpenInferenceError": _open_inference_error_schema()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _predict(manifest: Manifest | None) -> dict[str, Any]:
    inputs = {} if manifest is None else inputs_schema(manifest)
    outputs = {} if manifest is None else outputs_schema(manifest)
    return {
        "operationId": "predict",
        "parameters": [
            _header("X-Request-Id", {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"}),
            _header("X-Request-Timeout-S", {"type": "number", "exclusiveMinimum": 0}),
        ],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {"schema": _object_of(inputs=inputs)},
                **dict.fromkeys((NPY, NPZ, OCTETS, ARROW), _BINARY),
            },
        },
        "responses": {
            "200": {
                "description": "The prediction",
                "content": {
                    JSON: {"schema": _object_of(outputs=outputs)},
                    **dict.fromkeys((NPY, NPZ, OCTETS, ARROW), _BINARY),
                },
            },
            **_errors(_PREDICTION_STATUSES, "Error"),
        },
    }


def _model_paths(manifest: Manifest | None) -> dict[str, Any]:
    known = {} if manifest is None else {"name": manifest.name, "version": manifest.digest[:12]}
    paths: dict[str, Any] = {}
    for prefix, names in (
        ("/v2/models/{name}", ("name",)),
        ("/v2/models/{name}/versions/{version}", ("name", "version")),
    ):
        parameters = [
            {"name": name, "in": "path", "required": True, "schema": _text(known.get(name))} for name in names
        ]
        paths[prefix] = {"parameters": parameters, "get": _read("Model metadata", (400, 401, 404, 503))}
        paths[f"{prefix}/ready"] = {
            "parameters": parameters,
            "get": _read("Model readiness", (400, 401, 404, 503)),
        }
        paths[f"{prefix}/infer"] = {"parameters": parameters, "post": _infer()}
    return paths


def _task_paths() -> dict[str, Any]:
    state = {JSON: {"schema": {"type": "object", "required": ["task_id", "status", "rows", "rows_done"]}}}
    task_id = {"name": "task_id", "in": "query", "required": True, "schema": {"type": "string"}}
    files = {media_type: _BINARY for media_type in UPLOAD_TYPES if media_type != MULTIPART}
    form = {"schema": _object_of(file={"type": "string", "format": "binary"})}
    options = [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in (
            ("columns", {"type": "string"}),
            ("keep", {"type": "string"}),
            ("header", {"type": "string", "enum": ["present", "absent"]}),
            ("output", {"type": "string", "enum": [suffix[1:] for suffix in MEDIA_TYPES]}),
        )
    ]
    submit = {
        "parameters": options,
        "requestBody": {"required": True, "content": {**files, MULTIPART: form}},
        "responses": {
            "200": {"description": "The task", "content": state},
            **_errors((400, 401, 408, 413, 415, 429, 500, 503), "Error"),
        },
    }
    paths: dict[str, Any] = {"/tasks/score/submit": {"post": submit}}
    for verb, method, content in (
        ("status", "get", state),
        ("get", "get", dict.fromkeys(MEDIA_TYPES.values(), _BINARY)),
        ("retry", "post", state),
        ("cancel", "put", state),
    ):
        responses = {
            "200": {"description": f"The task: {verb}", "content": content},
            **_errors((400, 401, 404, 409, 429, 500), "Error"),
        }
        paths[f"/tasks/score/{verb}"] = {method: {"parameters": [task_id], "responses": responses}}
    return paths


def _infer() -> dict[str, Any]:
    tensor = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "datatype": {"type": "string"},
            "parameters": {"type": "object"},
            "data": {"type": "array"},
        },
        "required": ["name", "shape", "datatype"],
    }
    request = {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": {"type": "array", "items": tensor, "minItems": 1},
            "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
        },
        "required": ["inputs"],
        "additionalProperties": False,
    }
    return {
        "requestBody": {"required": True, "content": {JSON: {"schema": request}, OCTETS: _BINARY}},
        "responses": {
            "200": {
                "description": "The outputs",
                "content": {JSON: {"schema": {"type": "object"}}, OCTETS: _BINARY},
            },
            **_errors(_PREDICTION_STATUSES, "OpenInferenceError"),
        },
    }


def _read(description: str, statuses: tuple[int, ...], *, with_error_object: bool = False) -> dict[str, Any]:
    content = {JSON: {"schema": {"type": "object"}}}
    schema = "Error" if with_error_object else "OpenInferenceError"
    errors = _errors(statuses, schema)
    if 503 in statuses:
        errors["503"] = {"description": "Not ready", "content": content}
    return {"responses": {"200": {"description": description, "content": content}, **errors}}


def _errors(statuses: tuple[int, ...], schema: str) -> dict[str, Any]:
    content = {JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {
        str(status): {
            "description": ", ".join(code for code, entry in ERROR_CODES.items() if entry.status == status),
            "content": content,
        }
        for status in statuses
    }


def _text(only: str | None) -> dict[str, Any]:
    return {"type": "string"} if only is None else {"type": "string", "enum": [only]}


def _header(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": schema}


def _object_of(**properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _error_schema() -> dict[str, Any]:
    return _object_of(
        error={
            "type": "object",
            "properties": {
                "code": {"type": "string", "enum": list(ERROR_CODES)},
                "message": {"type": "string"},
                "request_id": {"type": "string"},
            },
            "required": ["code", "message"],
        }
    )


def _open_inference_error_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "error": {"type": "string"},
            "code": {"type": "string", "enum": list(ERROR_CODES)},
            "request_id": {"type": "string"},
        },
        "required": ["error", "code"],
    }
