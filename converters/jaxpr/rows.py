"""Rows of a table by secret index (embeddings), as a product with one-hot rows.

A secret gather compares and selects for every row of the table; ``one_hot(ids) @ table`` is one product.
Where the indices are an input as it came, the data owner makes the one-hot rows itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import core

from converters.jaxpr.inline import Traced

__all__ = ["RowLookup", "find_row_lookups", "sole_lookup_inputs"]


_RELABELLING = {"broadcast_in_dim", "reshape", "squeeze", "copy", "convert_element_type"}
"""Primitives that leave the elements as they are, but for their type and the shape around them."""


@dataclass
class RowLookup:
    """One gather of whole rows, as ``one_hot(ids) @ table``."""

    table: Any
    ids: Any
    result: Any
    one_hot: Any | None = None
    """Given one-hot rows (…, depth) in place of the indices."""

    @property
    def depth(self) -> int:
        """Rows of the table."""
        return int(self.table.aval.shape[0])

    @property
    def reads(self) -> list[Any]:
        """Variables that the product reads."""
        return [self.table] if self.one_hot is not None else [self.table, self.ids]

    def __call__(self, read: Callable[[Any], Any]) -> Any:
        """The rows."""
        table = read(self.table)
        rows = self.one_hot if self.one_hot is not None else jax.nn.one_hot(read(self.ids), self.depth)
        shape = self.result.aval.shape
        return (rows.reshape(-1, self.depth) @ table.reshape(self.depth, -1)).reshape(shape)


def find_row_lookups(traced: Traced) -> list[RowLookup]:
    """Gathers of whole rows of a float table by indices that depend on an input."""
    dependent, producers = traced.dependent(), traced.producers()
    found = []
    for eqn in traced.jaxpr.eqns:
        if eqn.primitive.name != "gather" or not _takes_rows(eqn):
            continue
        ids = _before_wrapping(eqn.invars[1], producers)
        if not isinstance(ids, core.Literal) and ids in dependent and eqn.invars[0] not in dependent:
            found.append(RowLookup(eqn.invars[0], ids, eqn.outvars[0]))
    return found


def sole_lookup_inputs(traced: Traced, lookups: list[RowLookup]) -> dict[int, int]:
    """Inputs that are used for nothing but lookups in tables of one size: position -> depth."""
    producers = traced.producers()
    replaced: dict[Any, Any] = {lookup.result: lookup for lookup in lookups}
    origins = {id(lookup): _origin(lookup.ids, producers) for lookup in lookups}
    found = {}
    for index, var in enumerate(traced.inputs):
        mine = [lookup for lookup in lookups if origins[id(lookup)] is var]
        depths = {lookup.depth for lookup in mine}
        if len(depths) != 1 or np.dtype(var.aval.dtype).kind not in "iu":
            continue
        for lookup in mine:
            lookup.one_hot = True
        needed = traced._needed(set(), traced.outputs, replaced)
        others = [eqn for eqn in needed if eqn.outvars[0] not in replaced and var in _variables(eqn)]
        for lookup in mine:
            lookup.one_hot = None
        if not others and var not in _own(traced.outputs):
            found[index] = depths.pop()
    return found


def lookups_of(traced: Traced, lookups: list[RowLookup], index: int) -> list[RowLookup]:
    """The lookups by one input."""
    producers = traced.producers()
    return [lookup for lookup in lookups if _origin(lookup.ids, producers) is traced.inputs[index]]


def _own(atoms: Any) -> list[Any]:
    return [atom for atom in atoms if not isinstance(atom, core.Literal)]


def _variables(eqn: Any) -> list[Any]:
    return _own(eqn.invars)


def _takes_rows(eqn: Any) -> bool:
    table, numbers = eqn.invars[0].aval, eqn.params["dimension_numbers"]
    return bool(
        table.ndim >= 2
        and np.dtype(table.dtype).kind == "f"
        and tuple(numbers.collapsed_slice_dims) == (0,)
        and tuple(numbers.start_index_map) == (0,)
        and tuple(eqn.params["slice_sizes"]) == (1, *table.shape[1:])
        and tuple(numbers.offset_dims)
        == tuple(range(eqn.outvars[0].aval.ndim - table.ndim + 1, eqn.outvars[0].aval.ndim))
    )


def _before_wrapping(atom: Any, producers: dict[Any, Any]) -> Any:
    """The indices before JAX adds the table's length to negative ones and a dimension of 1."""
    while not isinstance(atom, core.Literal) and (eqn := producers.get(atom)) is not None:
        name = eqn.primitive.name
        same_size = bool(eqn.invars) and eqn.invars[0].aval.size == eqn.outvars[0].aval.size
        if name == "select_n" and _is_negative(eqn.invars[0], eqn.invars[1], producers):
            atom = eqn.invars[1]
        elif name in _RELABELLING and same_size:
            atom = eqn.invars[0]
        else:
            return atom
    return atom


def _is_negative(condition: Any, ids: Any, producers: dict[Any, Any]) -> bool:
    eqn = None if isinstance(condition, core.Literal) else producers.get(condition)
    if eqn is None or eqn.primitive.name != "lt" or eqn.invars[0] is not ids:
        return False
    zero = eqn.invars[1]
    return isinstance(zero, core.Literal) and bool(np.all(np.asarray(zero.val) == 0))


def _origin(atom: Any, producers: dict[Any, Any]) -> Any:
    """The variable that this one is, but for its integer type and dimensions of 1."""
    while not isinstance(atom, core.Literal) and (eqn := producers.get(atom)) is not None:
        same_size = bool(eqn.invars) and eqn.invars[0].aval.size == eqn.outvars[0].aval.size
        if not same_size or eqn.primitive.name not in _RELABELLING:
            return atom
        atom = eqn.invars[0]
    return atom
