"""The model owner's params file, read from front to back: no more of it in memory than is shared next."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt

from secure_runner.errors import ProgramError

if TYPE_CHECKING:
    from secure_runner.party.pieces import Piece

__all__ = ["ParamsFile"]

Array = npt.NDArray[Any]
_npy: Any = np.lib.format  # has no types


class ParamsFile:
    """An ``.npz`` file of params.

    Args:
        path: of the file; only the model owner has one, and only there is it read.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._present: _Param | None = None

    def read(self, pieces: Sequence[Piece]) -> dict[str, Array]:
        """Values of pieces, by key; a part is flat.

        Args:
            pieces: from the first call to the last, all pieces of each param in order.

        Raises:
            ProgramError: the file holds another number of elements than the program's param has.
            zipfile.BadZipFile: the content is not what was written.
        """
        return {piece.key: self._read(piece) for piece in pieces}

    def _read(self, piece: Piece) -> Array:
        assert self._path is not None, "the model owner's session names the params"
        if self._present is None or piece.start == 0:
            self._present = _Param(self._path, piece.name)
        return self._present.take(piece)


class _Param:
    """One param, read in order. The file is closed at its end, where its checksum has been compared too."""

    def __init__(self, path: Path, name: str) -> None:
        self._archive = ZipFile(path)
        self._member: IO[bytes] = self._archive.open(f"{name}.npy")
        major, _ = _npy.read_magic(self._member)
        read_header = _npy.read_array_header_1_0 if major == 1 else _npy.read_array_header_2_0
        self._shape, by_columns, self._dtype = read_header(self._member)
        self._count = math.prod(self._shape)
        if by_columns:
            # Rows are spread over such a file, so it is read at once.
            flat = np.frombuffer(self._member.read(), self._dtype).reshape(self._shape, order="F")
            self._member = io.BytesIO(flat.tobytes())

    def take(self, piece: Piece) -> Array:
        """The next elements."""
        if self._count != piece.count:
            raise ProgramError(
                f"param {piece.name} has {self._count} elements in the params file and {piece.count} in the "
                "program: they are of different runs; save the model again"
            )
        data = self._member.read((piece.stop - piece.start) * self._dtype.itemsize)
        if piece.stop == self._count:
            self._member.close()
            self._archive.close()
        value = np.frombuffer(data, self._dtype)
        return value.reshape(self._shape) if piece.is_whole else value
