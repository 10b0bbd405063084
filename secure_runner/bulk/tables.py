"""Rows out of CSV, Parquet, .npy and .npz files, and predictions into them."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from secure_runner.errors import InputError
from secure_runner.http.npy import write_npy, write_npz
from secure_runner.http.types import Arrays
from secure_runner.programs.manifest import Manifest, TensorSpec

__all__ = ["check_output", "read_inputs", "read_kept", "write_outputs"]

_TABLE_READERS: dict[str, Callable[[Path, bool], Any]] = {
    ".csv": lambda path, header: pyarrow.csv.read_csv(
        path, pyarrow.csv.ReadOptions(autogenerate_column_names=not header)
    ),
    ".parquet": lambda path, _: pyarrow.parquet.read_table(path),
}
INPUT_SUFFIXES = (*_TABLE_READERS, ".npy", ".npz")


def read_inputs(
    path: Path,
    manifest: Manifest,
    columns: tuple[str, ...] | None = None,
    *,
    without: tuple[str, ...] = (),
    header: bool | None = None,
) -> Arrays:
    """The file's rows as the program's inputs, not yet validated.

    Args:
        path: ``.csv`` and ``.parquet`` are read whole, ``.npy`` is mapped into memory.
        manifest: of the program.
        columns: of a table, the columns that are features, in order; all by default. With several inputs, an
            input of shape ``[rows]`` or ``[rows, 1]`` is the column of its name, one of ``[rows, k]`` the
            columns ``name_0`` to ``name_{k-1}`` or a column of lists.
        without: columns that are no features where ``columns`` does not name them.
        header: whether the first line of a ``.csv`` names the columns. False: it is a row, and the columns
            are ``f0``, ``f1`` and so on. None: it names them, and is refused where it cannot be told from a
            row: it is made of numbers, and neither ``columns`` nor ``without`` has a name of it.

    Raises:
        InputError: the file cannot be read, or its columns are not what the program takes.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return {_only_input(manifest, path).name: _load(path, mmap_mode="r")}
    if suffix == ".npz":
        with _load(path) as archive:
            return {name: archive[name] for name in archive.files}
    if header is None and columns is None and not without:
        _check_first_line(path)
    table = _read_table(path, header)
    names = (
        list(columns) if columns is not None else [name for name in table.column_names if name not in without]
    )
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise InputError(f"{path} has no column {', '.join(map(repr, missing))}")
    if len(manifest.inputs) > 1:
        return {spec.name: _named_input(table, spec, path) for spec in manifest.inputs}
    spec = manifest.inputs[0]
    if len(names) == 1 and _is_list(table.schema.field(names[0]).type):
        return {spec.name: _numbers(table, names[0], path)}
    return {spec.name: _features(table, names, spec, path)}


def read_kept(path: Path, columns: tuple[str, ...], *, header: bool | None = None) -> dict[str, Any]:
    """Columns of a table as they are, to stand beside the predictions; ``header`` as of `read_inputs`.

    Raises:
        InputError: the file is no table, or has no such column.
    """
    if not columns:
        return {}
    table = _read_table(path, header)
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise InputError(f"{path} has no column {', '.join(map(repr, missing))} to keep")
    return {name: table.column(name) for name in columns}


def _check_first_line(path: Path) -> None:
    """Refuse a first line that may be a row: taken for names, it would be lost without a word."""
    if path.suffix.lower() != ".csv":
        return
    # Also where numbers number the columns, as pandas writes them: only the file's owner can tell.
    cells = _read_csv_line(path)
    if cells and all(_is_value(cell) for cell in cells):
        raise InputError(
            f"{path}: the first line holds values alone, where names of columns are expected; say whether it "
            "is a row (--no-header, over HTTP header=absent) or names (--header, over HTTP header=present)"
        )


def _read_csv_line(path: Path) -> list[str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        # What is wrong with the file is said by the one that reads it.
        return []


def _is_value(cell: str) -> bool:
    """Whether a cell is a number, empty or a boolean."""
    try:
        float(cell or "0")
    except ValueError:
        return cell.strip().lower() in ("true", "false")
    return True


def _read_table(path: Path, header: bool | None) -> Any:
    reader = _TABLE_READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: a file of rows ends in one of {', '.join(INPUT_SUFFIXES)}")
    try:
        table = reader(path, header is not False)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path} cannot be read as {path.suffix}: {type(error).__name__}") from error
    if len(set(table.column_names)) < table.num_columns:
        raise InputError(f"{path} has several columns of the same name")
    return table


def _load(path: Path, **options: Any) -> Any:
    try:
        return np.load(path, allow_pickle=False, **options)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read as {path.suffix}: {type(error).__name__}") from error


def _only_input(manifest: Manifest, path: Path) -> TensorSpec:
    if len(manifest.inputs) == 1:
        return manifest.inputs[0]
    names = ", ".join(spec.name for spec in manifest.inputs)
    raise InputError(f"{path}: the program has several inputs; use a table, or an .npz with {names}")


def _is_list(kind: Any) -> bool:
    return bool(
        pyarrow.types.is_list(kind)
        or pyarrow.types.is_large_list(kind)
        or pyarrow.types.is_fixed_size_list(kind)
    )


def _features(table: Any, names: list[str], spec: TensorSpec, path: Path) -> npt.NDArray[Any]:
    row_shape = [size for size in spec.shape[1:] if size is not None]
    if len(names) != math.prod(row_shape):
        raise InputError(
            f"{path} has {len(names)} columns, the program takes {math.prod(row_shape)} features; "
            "choose them (columns)"
        )
    stacked = np.stack([_numbers(table, name, path) for name in names], axis=1)
    features: npt.NDArray[Any] = stacked.reshape([len(stacked), *row_shape])
    return features


def _named_input(table: Any, spec: TensorSpec, path: Path) -> npt.NDArray[Any]:
    if spec.name in table.column_names:
        column = _numbers(table, spec.name, path)
        return column[:, None] if column.ndim == 1 and spec.shape[1:] == (1,) else column
    size = spec.shape[1] if len(spec.shape) == 2 else None
    names = [f"{spec.name}_{index}" for index in range(size or 0)]
    if not names or any(name not in table.column_names for name in names):
        raise InputError(f"{path} has no column {spec.name!r} for the input of that name")
    return np.stack([_numbers(table, name, path) for name in names], axis=1)


def _numbers(table: Any, name: str, path: Path) -> npt.NDArray[Any]:
    column = table.column(name)
    if column.null_count:
        raise InputError(f"{path}: column {name!r} has {column.null_count} empty cells; impute them first")
    if _is_list(column.type):
        try:
            return np.array(column.to_pylist(), dtype=np.float64)
        except (TypeError, ValueError):
            raise InputError(
                f"{path}: lists of column {name!r} differ in length or hold no numbers"
            ) from None
    numbers: npt.NDArray[Any] = column.to_numpy()
    if numbers.dtype.kind not in "fiub":
        raise InputError(f"{path}: column {name!r} holds {column.type}, no numbers; choose others (columns)")
    return numbers


def _write_table(write: Callable[[Any, Path], None]) -> Callable[[Path, dict[str, Any], Arrays], None]:
    def write_all(path: Path, kept: dict[str, Any], outputs: Arrays) -> None:
        columns = dict(kept)
        for name, array in outputs.items():
            flat = array.reshape(len(array), -1)
            width = flat.shape[1]
            for index in range(width):
                columns[name if width == 1 else f"{name}_{index}"] = flat[:, index]
        write(pyarrow.table(columns), path)

    return write_all


def _write_npy(path: Path, kept: dict[str, Any], outputs: Arrays) -> None:
    path.write_bytes(write_npy(next(iter(outputs.values()))))


def _write_npz(path: Path, kept: dict[str, Any], outputs: Arrays) -> None:
    path.write_bytes(write_npz(outputs))


_WRITERS: dict[str, Callable[[Path, dict[str, Any], Arrays], None]] = {
    ".csv": _write_table(lambda table, path: pyarrow.csv.write_csv(table, path)),
    ".parquet": _write_table(lambda table, path: pyarrow.parquet.write_table(table, path)),
    ".npy": _write_npy,
    ".npz": _write_npz,
}


def check_output(path: Path, manifest: Manifest, keep: tuple[str, ...]) -> None:
    """Refuse an output file that could not hold the predictions, before they are computed.

    Raises:
        InputError: the suffix is unknown, or the format cannot hold what there will be.
    """
    suffix = path.suffix.lower()
    if suffix not in _WRITERS:
        raise InputError(f"{path}: an output file ends in one of {', '.join(_WRITERS)}")
    if keep and suffix in (".npy", ".npz"):
        raise InputError(f"{path}: columns can be kept in .csv and .parquet only")
    if suffix == ".npy" and len(manifest.outputs) > 1:
        raise InputError(f"{path}: one .npy holds one output; use .npz, .csv or .parquet for several")


def write_outputs(path: Path, kept: dict[str, Any], outputs: Arrays) -> None:
    """Write predictions, whole or not at all: into a file beside the target, which then takes its place.

    Args:
        path: one that `check_output` has passed.
        kept: columns as `read_kept` gives them.
        outputs: by name, all rows.
    """
    temporary = path.with_name(f".{path.name}.writing{path.suffix}")
    try:
        _WRITERS[path.suffix.lower()](temporary, kept, outputs)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
