"""The file of rows of a scoring task: how it comes, and what is in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.types import Message

from secure_runner.bulk.tables import check_output, read_inputs, read_kept
from secure_runner.errors import InputError
from secure_runner.http.codecs import NPY, NPZ
from secure_runner.http.codes import RequestError
from secure_runner.http.types import Arrays
from secure_runner.http.validation import batch_rows, validate_inputs
from secure_runner.programs.manifest import Manifest

__all__ = ["MEDIA_TYPES", "MULTIPART", "UPLOAD_TYPES", "Upload", "read_upload", "rows_of"]

CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"
MULTIPART = "multipart/form-data"
UPLOAD_TYPES = (CSV, PARQUET, NPY, MULTIPART)
MEDIA_TYPES = {".csv": CSV, ".parquet": PARQUET, ".npy": NPY, ".npz": NPZ}
"""Of files of predictions, by suffix."""

_SUFFIXES = {CSV: ".csv", PARQUET: ".parquet", NPY: ".npy"}
_VALUE_BYTES = 8


@dataclass(frozen=True)
class Upload:
    """A file of rows as it came, and what is asked of it."""

    content: bytes
    suffix: str
    output: str
    """Suffix of the file of predictions."""
    columns: tuple[str, ...] | None
    keep: tuple[str, ...]
    header: bool | None
    """Whether the first line of CSV names the columns, if that is said."""


async def read_upload(request: Request, body: bytes, manifest: Manifest) -> Upload:
    """The file out of a body, or out of the one part of a multipart body.

    Raises:
        InputError: the body holds no file of a known format, or the predictions do not fit the output.
    """
    media_type = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if media_type == MULTIPART:
        content, suffix = await _only_part(request, body)
    else:
        content, suffix = body, _SUFFIXES.get(media_type, "")
    if suffix not in _SUFFIXES.values():
        raise RequestError(
            "unsupported_media_type",
            f"a file of rows is one of {', '.join(_SUFFIXES)}, or a part of {MULTIPART} whose file name ends "
            f"in one of {', '.join(_SUFFIXES.values())}",
        )
    query = request.query_params
    output = "." + query.get("output", suffix[1:])
    keep = _names(query.get("keep")) or ()
    check_output(Path(f"predictions{output}"), manifest, keep)
    columns, header = _names(query.get("columns")), _header(query.get("header"))
    return Upload(content, suffix, output.lower(), columns, keep, header)


def rows_of(
    upload: Upload, folder: Path, manifest: Manifest, *, max_bytes: int
) -> tuple[Arrays, dict[str, Any], int]:
    """Validated inputs, kept columns and the number of rows; the file has a name only while it is read.

    Raises:
        InputError: the file cannot be read, or a row of it cannot be computed.
    """
    path = folder / f"rows{upload.suffix}"
    try:
        path.write_bytes(upload.content)
        if upload.suffix == ".parquet":
            _check_expanded(path, max_bytes)
        kept = read_kept(path, upload.keep, header=upload.header)
        raw = read_inputs(path, manifest, upload.columns, without=upload.keep, header=upload.header)
    except InputError as error:
        if isinstance(error, RequestError):
            raise
        # Where the service keeps its files is nothing to a client.
        raise RequestError("malformed_body", str(error).replace(str(path), "the file")) from None
    finally:
        path.unlink(missing_ok=True)
    inputs = validate_inputs(manifest, raw)
    return inputs, kept, batch_rows(manifest, inputs)


async def _only_part(request: Request, body: bytes) -> tuple[bytes, str]:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        async with Request(request.scope, receive).form(max_files=1, max_fields=0) as form:
            part = form.get("file")
            if part is None or isinstance(part, str):
                raise RequestError("malformed_body", "a multipart body has one part, a file named 'file'")
            return await part.read(), Path(part.filename or "").suffix.lower()
    except (HTTPException, MultiPartException):
        raise RequestError("malformed_body", "the body is no multipart with one part named 'file'") from None


def _check_expanded(path: Path, max_bytes: int) -> None:
    """Refuse a Parquet file that is small and expands without bound, compressed or by a dictionary."""
    try:
        metadata = pyarrow.parquet.read_metadata(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path} cannot be read as .parquet: {type(error).__name__}") from error
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    chunks = [group.column(index) for group in groups for index in range(group.num_columns)]
    if any(chunk.physical_type.endswith("BYTE_ARRAY") for chunk in chunks):
        raise RequestError(
            "wrong_dtype", "Parquet of a scoring task has columns of numbers only; CSV has text"
        )
    if sum(chunk.num_values for chunk in chunks) * _VALUE_BYTES > max_bytes:
        raise RequestError("body_too_large", f"a file may have {max_bytes} bytes once it is expanded")


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def _header(text: str | None) -> bool | None:
    """Words of RFC 4180."""
    if text not in (None, "present", "absent"):
        raise RequestError("malformed_body", "header: expected present or absent")
    return None if text is None else text == "present"
