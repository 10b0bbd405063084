"""What of SecretFlow a party process loads: devices and the control channel, nothing else."""

from __future__ import annotations

import sys
import types

__all__ = ["leave_out_unused_parts"]

_UNUSED = ("component", "data", "kuscia", "ml", "preprocessing", "security")


def leave_out_unused_parts() -> None:
    """Have ``import secretflow`` skip packages that no session uses. To be called before it, once a process.

    ``secretflow/__init__.py`` imports its data frames, training algorithms and the catalogue of components,
    and with them scikit-learn, DuckDB and clients of object stores: half of a party's start, 190 MB of its
    memory, and code that has no business in a process that holds shares. An empty module stands in for each.
    """
    for name in _UNUSED:
        module = f"secretflow.{name}"
        sys.modules.setdefault(module, types.ModuleType(module, "Left out of party processes."))
