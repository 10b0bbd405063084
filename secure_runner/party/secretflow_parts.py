"""What of SecretFlow a party process loads: devices and the control channel, nothing else."""

from __future__ import annotations

import sys
import types

__all__ = ["leave_out_unused_parts"]

_UNUSED = ("component", "data", "kuscia", "ml", "preprocessing", "security")


class _DataFrame:
    """Named in the signature of a method for set intersection, and used nowhere else."""


def leave_out_unused_parts() -> None:
    """Have ``import secretflow`` skip packages that no session uses. To be called before it, once a process.

    ``secretflow/__init__.py`` imports its data frames, training algorithms and the catalogue of components,
    and with them scikit-learn, DuckDB and clients of object stores: half of a party's start, 190 MB of its
    memory, and code that has no business in a process that holds shares. An empty module stands in for each.
    Its SPU device imports pandas too, two fifths of what is left, for the files of set intersection alone.
    """
    for name in _UNUSED:
        module = f"secretflow.{name}"
        sys.modules.setdefault(module, types.ModuleType(module, "Left out of party processes."))
    pandas = types.ModuleType("pandas", "Left out of party processes.")
    pandas.DataFrame = _DataFrame  # type: ignore[attr-defined]
    sys.modules.setdefault("pandas", pandas)
