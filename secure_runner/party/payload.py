"""What may travel on SecretFlow's control channel: data of an explicit list of types, and no pickle.

SecretFlow pickles what it sends, and unpickling lets a peer run code: behind its deny-list, and behind its
allow-list too, which admits every class of its own package. What a session really sends is little:
containers, scalars, numpy arrays and SPU's descriptions of shares. Here they are MessagePack, with one
extension type for each kind that MessagePack lacks; reading them constructs nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import spu
from secretflow.device.device.spu import SPUIOInfo, SPUValueMeta

from secure_runner.errors import SecureRunnerError

__all__ = ["PayloadError", "decode", "encode"]

_MAX_DEPTH = 16
# MessagePack allocates a container when it reads its length: a lie must not cost much memory.
_MAX_ITEMS = 1 << 16
_ARRAY_KINDS = "biufc"
_ENUMS: dict[str, Any] = {
    "field": spu.FieldType,
    "protocol": spu.ProtocolKind,
    "visibility": spu.Visibility,
}
_TUPLE, _ARRAY, _SCALAR, _DTYPE, _ENUM, _IO_INFO, _VALUE_META = range(1, 8)


class PayloadError(SecureRunnerError):
    """A message of another party is malformed, or one of ours holds what must not travel."""

    code = "control_message"


def encode(value: Any) -> bytes:
    """The bytes of a value.

    Raises:
        PayloadError: it holds a type that is not on the list; names the type.
    """
    try:
        return bytes(msgpack.packb(value, default=_to_extension, strict_types=True))
    except (ValueError, OverflowError, RecursionError) as error:
        raise PayloadError(
            f"a value is too large or too deeply nested for the control channel: {error}"
        ) from error


def decode(data: bytes) -> Any:
    """The value in bytes that another party sent.

    Raises:
        PayloadError: they are not what ``encode`` makes; says nothing of their content.
    """
    return _decode(data, depth=0)


def _decode(data: bytes, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise PayloadError(f"a control message nests more than {_MAX_DEPTH} levels of special types")

    def from_extension(code: int, body: bytes) -> Any:
        if code not in _FROM_EXTENSION:
            raise PayloadError(f"a control message holds the unknown extension type {code}")
        return _FROM_EXTENSION[code](_decode(body, depth + 1))

    try:
        return msgpack.unpackb(
            data,
            ext_hook=from_extension,
            strict_map_key=False,
            max_array_len=_MAX_ITEMS,
            max_map_len=_MAX_ITEMS,
        )
    except PayloadError:
        raise
    except Exception as error:  # whatever a peer's bytes provoke ends as one kind of error
        raise PayloadError(f"a control message is malformed ({type(error).__name__})") from error


def _to_extension(value: Any) -> msgpack.ExtType:
    kind = type(value)
    if kind is tuple:
        return _extension(_TUPLE, list(value))
    if isinstance(value, np.ndarray) and value.dtype.kind in _ARRAY_KINDS:
        return _extension(_ARRAY, [value.dtype.str, list(value.shape), value.tobytes()])
    if isinstance(value, np.generic) and value.dtype.kind in _ARRAY_KINDS:
        return _extension(_SCALAR, [value.dtype.str, [], value.tobytes()])
    if isinstance(value, np.dtype) and value.kind in _ARRAY_KINDS:
        return _extension(_DTYPE, value.str)
    if kind is SPUIOInfo:
        return _extension(_IO_INFO, [value.start_chunk_index, value.end_chunk_index, value.meta])
    if kind is SPUValueMeta:
        meta = [tuple(value.shape), np.dtype(value.dtype)]
        enums = [value.vtype, value.protocol, value.field]
        return _extension(_VALUE_META, [*meta, *enums, value.fxp_fraction_bits])
    for name, enum in _ENUMS.items():
        if kind is enum:
            return _extension(_ENUM, [name, int(value)])
    raise PayloadError(
        f"a value of type {kind.__module__}.{kind.__qualname__} must not leave for another party"
    )


def _extension(code: int, body: Any) -> msgpack.ExtType:
    return msgpack.ExtType(code, encode(body))


def _typed(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise PayloadError(
            f"a control message holds {type(value).__name__} where {kinds[0].__name__} belongs"
        )
    return value


def _dtype(text: Any) -> np.dtype[Any]:
    dtype = np.dtype(_typed(text, str)) if len(_typed(text, str)) <= 4 else None
    if dtype is None or dtype.kind not in _ARRAY_KINDS or dtype.str != text:
        raise PayloadError("a control message holds an array of a type other than numbers")
    return dtype


def _array(body: Any) -> np.ndarray[Any, Any]:
    text, shape, data = _typed(body, list)
    dtype = _dtype(text)
    if any(type(size) is not int or size < 0 for size in _typed(shape, list)):
        raise PayloadError("a control message holds an array of an impossible shape")
    if math.prod(shape) * dtype.itemsize != len(_typed(data, bytes)):
        raise PayloadError("a control message holds an array whose bytes do not fill its shape")
    return np.frombuffer(data, dtype).reshape(shape).copy()


def _enum(body: Any) -> Any:
    name, value = _typed(body, list)
    return {int(member): member for member in _ENUMS[_typed(name, str)].__members__.values()}[value]


def _io_info(body: Any) -> SPUIOInfo:
    start, end, meta = _typed(body, list)
    return SPUIOInfo(_typed(start, int), _typed(end, int), _typed(meta, bytes))


def _value_meta(body: Any) -> SPUValueMeta:
    shape, dtype, visibility, protocol, field, fraction_bits = _typed(body, list)
    if not isinstance(dtype, np.dtype):
        raise PayloadError("a control message holds a value without a type")
    return SPUValueMeta(
        tuple(_typed(size, int) for size in _typed(shape, tuple)),
        dtype,
        _typed(visibility, spu.Visibility),
        _typed(protocol, spu.ProtocolKind),
        _typed(field, spu.FieldType),
        _typed(fraction_bits, int),
    )


_FROM_EXTENSION: dict[int, Callable[[Any], Any]] = {
    _TUPLE: lambda body: tuple(_typed(body, list)),
    _ARRAY: _array,
    _SCALAR: lambda body: _array(body)[()],
    _DTYPE: _dtype,
    _ENUM: _enum,
    _IO_INFO: _io_info,
    _VALUE_META: _value_meta,
}
