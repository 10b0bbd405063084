"""Formats of request and response bodies, and which one a request gets.

| media type | request | response |
|---|---|---|
| ``application/json`` | ``{"inputs": rows}``, or an object of name to rows | ``{"outputs": …}`` alike |
| ``application/x-npy`` | one array | one array; several outputs need one of the forms below |
| ``application/x-npz`` | arrays by input name | arrays by output name |
| ``application/octet-stream`` | .npy or .npz, told apart by their first bytes | same as the request |
| ``application/vnd.apache.arrow.stream`` | columns, see `secure_runner.http.arrow` | a column an output |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from secure_runner.http.arrow import read_arrow, write_arrow
from secure_runner.http.codes import RequestError
from secure_runner.http.npy import read_npy, read_npz, write_npy, write_npz
from secure_runner.http.types import Arrays
from secure_runner.programs.manifest import Manifest

__all__ = ["ARROW", "JSON", "MEDIA_TYPES", "NPY", "NPZ", "OCTETS", "Encoding", "decode_body", "encoding_for"]

JSON = "application/json"
NPY = "application/x-npy"
NPZ = "application/x-npz"
OCTETS = "application/octet-stream"
ARROW = "application/vnd.apache.arrow.stream"
MEDIA_TYPES = (JSON, NPY, NPZ, OCTETS, ARROW)

_ZIP_MAGIC = b"PK"
_MAX_ACCEPT_CHARACTERS = 1024


def media_type_of(header: str | None) -> str:
    """The media type of a Content-Type header, without parameters; JSON if there is none.

    Raises:
        RequestError: ``unsupported_media_type``.
    """
    if header is None or not header.strip():
        return JSON
    media_type = header.split(";", 1)[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise RequestError(
            "unsupported_media_type",
            f"Content-Type {media_type[:80]!r} is not understood; send one of {', '.join(MEDIA_TYPES)}",
            expected={"media_types": list(MEDIA_TYPES)},
        )
    return media_type


def decode_body(media_type: str, body: bytes, manifest: Manifest, *, max_bytes: int) -> Any:
    """Inputs as `validate_inputs` takes them, out of a body of a supported media type.

    Raises:
        RequestError: the body is malformed or expands to more than ``max_bytes``.
    """
    if media_type == JSON:
        return _inputs_of_json(body)
    if media_type == ARROW:
        return read_arrow(body, manifest)
    if media_type == NPZ or (media_type == OCTETS and body.startswith(_ZIP_MAGIC)):
        return read_npz(body, max_bytes=max_bytes)
    return read_npy(body)


def read_json(body: bytes) -> Any:
    """Strict JSON (RFC 8259): UTF-8, no NaN or Infinity, nested at most 1024 deep.

    Raises:
        RequestError: ``malformed_body``, with line and column.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # The parser's message may quote the body; its position does not.
        raise RequestError(
            "malformed_body",
            f"the body is not JSON (RFC 8259, UTF-8, no NaN or Infinity): wrong at line {error.lineno}, "
            f"column {error.colno}",
        ) from None


def _inputs_of_json(body: bytes) -> Any:
    document = read_json(body)
    if not isinstance(document, dict) or "inputs" not in document:
        raise RequestError(
            "malformed_body",
            'the body is an object with the field "inputs", for example {"inputs": [[0.5, 1.5]]}',
        )
    unknown = [name[:64] for name in document if name != "inputs"]
    if unknown:
        raise RequestError("unknown_field", f"the body has one field, inputs; received {unknown[:8]} as well")
    return document["inputs"]


@dataclass(frozen=True)
class Encoding:
    """A form of response: its media type and how outputs become bytes."""

    media_type: str
    encode: Callable[[Arrays], bytes]


_ENCODINGS: dict[str, Callable[[Arrays], bytes]] = {
    JSON: lambda outputs: _json_of_outputs(outputs),
    NPY: lambda outputs: write_npy(next(iter(outputs.values()))),
    NPZ: write_npz,
    ARROW: write_arrow,
}


def encoding_for(accept: str | None, request_media_type: str, manifest: Manifest) -> Encoding:
    """The form of the answer: the first that Accept names; the request's own where it accepts anything.

    Raises:
        RequestError: ``not_acceptable``.
    """
    single = len(manifest.outputs) == 1
    for wanted in _accepted(accept):
        media_type = wanted
        if wanted in ("*/*", "application/*"):
            media_type = request_media_type
            if media_type in (OCTETS, NPY, NPZ):
                media_type = NPY if single else NPZ
        elif wanted == OCTETS:
            media_type = NPY if single else NPZ
        if media_type in _ENCODINGS and (single or media_type != NPY):
            return Encoding(OCTETS if wanted == OCTETS else media_type, _ENCODINGS[media_type])
    offered = [name for name in _ENCODINGS if single or name != NPY]
    raise RequestError(
        "not_acceptable", f"answers come as {', '.join(offered)}", expected={"media_types": offered}
    )


def _accepted(header: str | None) -> list[str]:
    """Media ranges of an Accept header (RFC 9110, 12.5.1), most wanted first, those of quality 0 left out."""
    if header is None or not header.strip():
        return ["*/*"]
    ranges: list[tuple[float, str]] = []
    for part in header[:_MAX_ACCEPT_CHARACTERS].split(","):
        media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                quality = _quality(parameter[2:])
        if media_range and quality > 0:
            ranges.append((quality, media_range))
    return [media_range for _, media_range in sorted(ranges, key=lambda item: -item[0])]


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _json_of_outputs(outputs: Arrays) -> bytes:
    """``{"outputs": rows}`` for one output, ``{"outputs": {name: rows}}`` for several; labels are strings."""
    values = {name: _plain(array) for name, array in outputs.items()}
    document = {"outputs": next(iter(values.values())) if len(values) == 1 else values}
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _plain(array: Any) -> Any:
    """What orjson writes as it is: numeric arrays in C order; everything else as lists."""
    array = np.asarray(array)
    if array.dtype in _ORJSON_DTYPES and array.ndim > 0:
        return np.ascontiguousarray(array)
    return array.tolist()


_ORJSON_DTYPES = frozenset(
    map(np.dtype, ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"])
)
