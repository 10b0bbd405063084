"""Which constants of a graph are secret, and how they become params."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.errors import Problem, UnsupportedModelError
from converters.onnx.dtypes import canonical
from converters.onnx.graph import Constants, Graph, NDArray
from converters.onnx.structure import demanded_values, dependent_values
from converters.onnx.values import is_public

__all__ = ["Partition", "check_public", "partition", "to_params"]

_LARGEST_PUBLIC_FLOATS = 64
"""Elements; more floats than that are no shape arithmetic, so they may be trained."""
_TIED_ELEMENTS = 1024
"""Equal arrays of at least this size are one tied weight; equal small ones are chance, which would tell."""


@dataclass(frozen=True)
class Partition:
    """The constants of a graph in two parts."""

    demanded: frozenset[str]
    """Values that are computed in numpy while tracing, where that is possible."""
    public: Constants
    secret: Constants


def partition(graph: Graph, fixed: frozenset[str] = frozenset()) -> Partition:
    """Split the constants. ``fixed`` names those that the user made public.

    What an operator cannot do without is public. What it merely prefers to know is public if it is no float
    and not computed from a weight, or if it is a single number that people write (an exponent of 2).
    """
    dependent = dependent_values(graph)
    needed = demanded_values(graph, dependent, "needed") | fixed
    preferred = demanded_values(graph, dependent, "needed", "preferred")
    computed = demanded_values(graph, dependent, "needed", "preferred", "transposed")
    public: Constants = {}
    secret: Constants = {}
    for name, value in graph.constants.items():
        is_open = name in needed
        if not is_open and name not in graph.derived:
            alone = value.reshape(()) if name in preferred and value.size == 1 else value
            is_open = is_public(alone) or (name in preferred and value.dtype.kind in "iu")
        (public if is_open else secret)[name] = value
    return Partition(frozenset(computed | fixed), public, secret)


def check_public(graph: Graph, public: Constants, names: list[str]) -> None:
    """Refuse to publish arrays of floats that are too large for structure.

    Raises:
        UnsupportedModelError: names the nodes that need them.
    """
    large = [n for n in names if public[n].dtype.kind == "f" and public[n].size > _LARGEST_PUBLIC_FLOATS]
    problems = [
        Problem(
            node.name,
            node.op,
            node.domain,
            node.version,
            f"it needs the {public[name].size} floats of {name!r} while converting; they may be trained.",
            "compute them inside the model from an input, or pass them as static={...} to make them public.",
        )
        for name in large
        for node in graph.consumers().get(name, [])[:1]
    ]
    if problems:
        raise UnsupportedModelError(problems)


def to_params(secret: Constants, used: set[str]) -> tuple[Constants, dict[str, str]]:
    """The secret weights that the program reads, tied ones once, and who shares whose name."""
    params: Constants = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, raw in secret.items():
        if name not in used:
            continue
        value = np.ascontiguousarray(canonical(raw)).reshape(raw.shape)
        key = (value.dtype.str, value.shape, value.tobytes()) if _may_be_tied(value) else (name,)
        first = seen.setdefault(key, name)
        if first == name:
            params[name] = value
        else:
            aliases[name] = first
    return params, aliases


def _may_be_tied(value: NDArray) -> bool:
    return value.size >= _TIED_ELEMENTS and bool((value != value.flat[0]).any())
