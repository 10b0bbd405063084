"""Arrow IPC streams as request and response bodies.

Format: https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc.
A column is an input of that name: a scalar column for shape ``[rows]``, (nested) fixed-size lists for more
dimensions. For a program of one two-dimensional input, plain columns in order are its features.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_runner.http.codes import RequestError
from secure_runner.http.types import Arrays
from secure_runner.programs.manifest import Manifest

__all__ = ["read_arrow", "write_arrow"]

_RECORD_BATCH_FIELDS_COMPRESSION = 3
_MESSAGE_FIELD_HEADER = 2


def read_arrow(body: bytes, manifest: Manifest) -> Arrays | npt.NDArray[Any]:
    """Inputs out of an Arrow stream of uncompressed record batches.

    Raises:
        RequestError: ``malformed_body``, ``wrong_dtype``, ``wrong_shape`` or ``not_finite`` (a null).
    """
    pa = _pyarrow()
    try:
        _refuse_compression(pa, body)
        with pa.ipc.open_stream(body) as reader:
            table = reader.read_all()
        table.validate(full=True)
        table = table.combine_chunks()
        names = table.column_names
    except (pa.ArrowException, OSError, ValueError, struct.error):
        raise RequestError("malformed_body", "the body is not a readable Arrow IPC stream") from None
    return _inputs(pa, names, table, manifest)


def _inputs(pa: Any, names: list[str], table: Any, manifest: Manifest) -> Arrays | npt.NDArray[Any]:
    if len(set(names)) != len(names):
        raise RequestError("malformed_body", "columns of an Arrow body have different names")
    by_name = {name: _column(pa, name, table.column(index)) for index, name in enumerate(names)}
    spec = manifest.inputs[0]
    if len(manifest.inputs) > 1 or spec.name in by_name or len(spec.shape) != 2:
        return by_name
    columns = list(by_name.values())
    if not columns or any(column.ndim != 1 for column in columns):
        raise RequestError("wrong_shape", "feature columns of an Arrow body hold one number a row")
    if len({column.dtype.kind == "b" for column in columns}) > 1:
        raise RequestError("wrong_dtype", "feature columns of an Arrow body are all numbers or all booleans")
    features: npt.NDArray[Any] = np.stack(columns, axis=1)
    return features


def _column(pa: Any, name: str, column: Any) -> npt.NDArray[Any]:
    """A column as an array; (nested) fixed-size lists become further dimensions."""
    chunks = column.chunks
    array = chunks[0] if chunks else pa.array([], type=column.type)
    shape = [len(array)]
    while pa.types.is_fixed_size_list(array.type):
        if array.null_count:
            break
        shape.append(array.type.list_size)
        array = array.flatten()
    if array.null_count:
        raise RequestError(
            "not_finite", f"column {name[:64]!r} holds null, which a fixed-point ring cannot hold"
        )
    kind = array.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise RequestError(
            "wrong_dtype",
            f"column {name[:64]!r} holds neither numbers nor booleans",
            received={"dtype": str(kind)[:64]},
        )
    flat: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return flat.reshape(shape)


def write_arrow(arrays: Arrays) -> bytes:
    """Outputs as an Arrow stream of one record batch, one column for each."""
    pa = _pyarrow()
    columns = {}
    for name, array in arrays.items():
        column = pa.array(array.reshape(-1))
        for size in reversed(array.shape[1:]):
            column = pa.FixedSizeListArray.from_arrays(column, size)
        columns[name] = column
    batch = pa.RecordBatch.from_pydict(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _pyarrow() -> Any:
    """Imported with the first Arrow body: it takes half a second."""
    import pyarrow
    import pyarrow.ipc

    return pyarrow


def _refuse_compression(pa: Any, body: bytes) -> None:
    """Compressed buffers expand to whatever they announce, before any limit can be applied."""
    for message in pa.ipc.MessageReader.open_stream(body):
        if message.type == "record batch" and _has_compression(memoryview(message.metadata)):
            raise RequestError("malformed_body", "buffers of an Arrow body are not compressed")
        if message.type not in ("schema", "record batch"):
            raise RequestError(
                "malformed_body", "an Arrow body holds a schema and record batches, no dictionaries"
            )


def _has_compression(metadata: memoryview) -> bool:
    """Whether the flatbuffer of a record batch's message names a compression (``Message.fbs`` of Arrow)."""
    root = struct.unpack_from("<I", metadata, 0)[0]
    header = _table_field(metadata, root, _MESSAGE_FIELD_HEADER)
    if header is None:
        return False
    record_batch = header + struct.unpack_from("<I", metadata, header)[0]
    return _table_field(metadata, record_batch, _RECORD_BATCH_FIELDS_COMPRESSION) is not None


def _table_field(metadata: memoryview, table: int, index: int) -> int | None:
    """Position of a field in a flatbuffer's table, if it is set (https://flatbuffers.dev/internals/)."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    size = struct.unpack_from("<H", metadata, vtable)[0]
    entry = 4 + 2 * index
    if entry + 2 > size:
        return None
    offset = struct.unpack_from("<H", metadata, vtable + entry)[0]
    return table + offset if offset else None
