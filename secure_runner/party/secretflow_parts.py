"""What of SecretFlow a party process loads: devices and the control channel, nothing else."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any

import numpy as np

__all__ = ["leave_out_unused_parts"]

_SECRETFLOW = ("component", "data", "kuscia", "ml", "preprocessing", "security")
_SPU = ("experimental", "intrinsic", "utils.frontend", "utils.simulation")
_NARROWED = {"int64": "int32", "uint64": "uint32", "float64": "float32", "complex128": "complex64"}


class _DataFrame:
    """Named in the signature of a method for set intersection, and used nowhere else."""


def leave_out_unused_parts() -> None:
    """Have ``import secretflow`` skip packages that no session uses. To be called before it, once a process.

    ``secretflow/__init__.py`` imports its data frames, training algorithms and the catalogue of components,
    and with them scikit-learn, DuckDB and clients of object stores: half of a party's start, 190 MB of its
    memory, and code that has no business in a process that holds shares. An empty module stands in for each.
    Its SPU device imports pandas too, two fifths of what is left, for the files of set intersection alone.

    Of JAX, which compiles programs and does not run them, sessions use nothing but its trees of values: 1.0 s
    of the 2.5 s of processor time that the rest takes, and 20 MB. So SPU's compiler goes too.
    """
    for name in (*(f"secretflow.{name}" for name in _SECRETFLOW), *(f"spu.{name}" for name in _SPU)):
        _stand_in(name)
    _stand_in("pandas").DataFrame = _DataFrame
    if "jax" not in sys.modules:
        _leave_out_jax()


def _leave_out_jax() -> None:
    spec = importlib.util.find_spec("jax")
    assert spec is not None, "SecretFlow depends on it"
    jax = _stand_in("jax")
    # Its modules can be imported one by one, without all that its own __init__.py imports.
    jax.__path__ = list(spec.submodule_search_locations or ())
    jax.numpy = _stand_in("jax.numpy")
    jax.numpy.asarray = _as_jax_does
    importlib.import_module("jax.tree_util")


def _as_jax_does(value: Any) -> Any:
    """The array that JAX would make of a value: of 32 bits where numpy's has 64."""
    array = np.asarray(value)
    return array.astype(_NARROWED.get(array.dtype.name, array.dtype), copy=False)


def _stand_in(name: str) -> Any:
    return sys.modules.setdefault(name, types.ModuleType(name, "Left out of party processes."))
