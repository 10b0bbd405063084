"""numpy's .npy and .npz as request and response bodies; never pickle.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. An array is a view of the
body: numpy's own reader would allocate whatever a header claims before it looks at the data.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_runner.http.codes import RequestError
from secure_runner.http.types import Arrays

# numpy ships no types for it.
npy_format: Any = np.lib.format

__all__ = ["read_npy", "read_npz", "write_npy", "write_npz"]

# Headers of plain arrays have 118 bytes; the limit keeps numpy's literal parser far from its recursion limit.
_MAX_HEADER_CHARACTERS = 1024
_MAX_MEMBERS = 64


def read_npy(body: bytes) -> npt.NDArray[Any]:
    """One array out of a .npy body, as a read-only view of it.

    Raises:
        RequestError: ``malformed_body`` or ``wrong_dtype``.
    """
    stream = io.BytesIO(body)
    try:
        version = npy_format.read_magic(stream)
        read_header = {
            (1, 0): npy_format.read_array_header_1_0,
            (2, 0): npy_format.read_array_header_2_0,
        }[version]
        shape, fortran_order, dtype = read_header(stream, max_header_size=_MAX_HEADER_CHARACTERS)
    except Exception:  # numpy parses the header as a Python literal and lets every error of that through
        raise RequestError("malformed_body", "the body is not a .npy file of version 1.0 or 2.0") from None
    if dtype.kind not in "fiub":
        raise RequestError(
            "wrong_dtype",
            "a .npy body holds numbers or booleans, no objects, strings, records or complex numbers",
            received={"dtype": str(dtype)[:64]},
        )
    offset = stream.tell()
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count * dtype.itemsize != len(body) - offset:
        raise RequestError(
            "malformed_body",
            f"the .npy header announces {count * dtype.itemsize} bytes, the body holds {len(body) - offset}",
        )
    flat = np.frombuffer(body, dtype=dtype, count=count, offset=offset)
    return flat.reshape(shape, order="F" if fortran_order else "C")


def read_npz(body: bytes, *, max_bytes: int) -> Arrays:
    """Arrays by name out of a .npz body whose contents expand to at most ``max_bytes``.

    Raises:
        RequestError: ``malformed_body``, ``body_too_large`` or ``wrong_dtype``.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = archive.infolist()
            _check_members(members, max_bytes)
            return {
                member.filename.removesuffix(".npy"): read_npy(archive.read(member)) for member in members
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError):
        raise RequestError("malformed_body", "the body is not a readable .npz archive") from None


def _check_members(members: list[zipfile.ZipInfo], max_bytes: int) -> None:
    if len(members) > _MAX_MEMBERS or len({member.filename for member in members}) != len(members):
        raise RequestError(
            "malformed_body", f"a .npz body has at most {_MAX_MEMBERS} members, of different names"
        )
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise RequestError("malformed_body", "members of a .npz body are stored or deflated")
    # zipfile never reads more than a member announces.
    if sum(member.file_size for member in members) > max_bytes:
        raise RequestError("body_too_large", f"the .npz body expands to more than {max_bytes} bytes")


def write_npy(array: npt.NDArray[Any]) -> bytes:
    """One array as .npy."""
    stream = io.BytesIO()
    npy_format.write_array(stream, np.asarray(array), allow_pickle=False)
    return stream.getvalue()


def write_npz(arrays: Arrays) -> bytes:
    """Arrays by name as .npz, not compressed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", write_npy(array))
    return stream.getvalue()
