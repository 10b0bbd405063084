"""A function as one flat list of primitives, with calls inlined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import core

__all__ = ["Traced", "trace"]

_CALLS = {
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
Replacement = Callable[..., Any]


@dataclass(frozen=True)
class Traced:
    """``function(params, *inputs) -> tuple`` at certain shapes."""

    jaxpr: Any
    consts: Sequence[Any]
    params: Sequence[Any]
    """Variables of the params, sorted by name."""
    inputs: Sequence[Any]
    outputs: Sequence[Any]

    def producers(self) -> dict[Any, Any]:
        """The equation that gives each variable."""
        return {var: eqn for eqn in self.jaxpr.eqns for var in eqn.outvars}

    def dependent(self) -> set[Any]:
        """Variables that depend on an input, not on shapes and params alone."""
        found = set(self.inputs)
        for eqn in self.jaxpr.eqns:
            if any(not isinstance(atom, core.Literal) and atom in found for atom in eqn.invars):
                found.update(eqn.outvars)
        return found

    def run(
        self,
        values: Mapping[Any, Any],
        wanted: Sequence[Any],
        replaced: Mapping[Any, Replacement] | None = None,
    ) -> list[Any]:
        """Values of the wanted variables; equations that they do not need are left out.

        Args:
            values: what is given: params, inputs, or any variable in between.
            wanted: variables or literals.
            replaced: another way to compute the equation that gives a variable: a function of ``read``.
        """
        replaced = replaced or {}
        known = dict(zip(self.jaxpr.constvars, self.consts, strict=True)) | dict(values)

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, core.Literal) else known[atom]

        for eqn in self._needed(set(known), wanted, replaced):
            replacement = replaced.get(eqn.outvars[0])
            if replacement is not None:
                known[eqn.outvars[0]] = replacement(read)
                continue
            known.update(zip(eqn.outvars, _bind(eqn, [read(atom) for atom in eqn.invars]), strict=True))
        return [read(atom) for atom in wanted]

    def _needed(
        self, known: set[Any], wanted: Sequence[Any], replaced: Mapping[Any, Replacement]
    ) -> list[Any]:
        needed = {atom for atom in wanted if not isinstance(atom, core.Literal)} - known
        kept = []
        for eqn in reversed(self.jaxpr.eqns):
            if not needed.intersection(eqn.outvars):
                continue
            kept.append(eqn)
            replacement = replaced.get(eqn.outvars[0])
            reads = eqn.invars if replacement is None else replacement.reads  # type: ignore[attr-defined]
            needed.update(atom for atom in reads if not isinstance(atom, core.Literal) and atom not in known)
        return kept[::-1]


def trace(function: Callable[..., Any], params: Mapping[str, Any], *inputs: Any) -> Traced:
    """Trace ``function(params, *inputs)``; arguments are arrays or abstract shapes."""
    closed = jax.make_jaxpr(function)(dict(params), *inputs)
    abstract = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in closed.jaxpr.invars]
    flat = jax.make_jaxpr(lambda *args: _inline(closed.jaxpr, closed.consts, args))(*abstract)
    count = len(params)
    variables = flat.jaxpr.invars
    return Traced(flat.jaxpr, flat.consts, variables[:count], variables[count:], flat.jaxpr.outvars)


def _inline(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    known = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    made = {var: eqn for eqn in jaxpr.eqns for var in eqn.outvars}
    for eqn in jaxpr.eqns:
        values = [read(atom) for atom in eqn.invars]
        body = eqn.params.get(_CALLS.get(eqn.primitive.name, ""))
        if eqn.primitive.name == "device_put" and not isinstance(values[0], core.Tracer):
            results: Sequence[Any] = values  # a constant is where it is
        elif eqn.primitive.name == "transpose":
            results = [_transposed(eqn, values[0], made, read)]
        elif body is None:
            results = _bind(eqn, values)
        elif isinstance(body, core.ClosedJaxpr):
            results = _inline(body.jaxpr, body.consts, values)
        else:
            results = _inline(body, (), values)
        known.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _transposed(eqn: Any, value: Any, made: Mapping[Any, Any], read: Callable[[Any], Any]) -> Any:
    """Constants transposed in numpy, before or behind a change of type.

    XLA folds the transpose of a constant into its layout, which SPU's compiler drops: it would compute with
    the elements in the wrong order.
    """
    order = eqn.params["permutation"]
    if not isinstance(value, core.Tracer):
        return np.ascontiguousarray(np.transpose(np.asarray(value), order))
    cast = made.get(eqn.invars[0])
    if cast is not None and cast.primitive.name == "convert_element_type":
        constant = read(cast.invars[0])
        if not isinstance(constant, core.Tracer):
            return _bind(cast, [np.ascontiguousarray(np.transpose(np.asarray(constant), order))])[0]
    return _bind(eqn, [value])[0]


def _bind(eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
    functions, params = eqn.primitive.get_bind_params(eqn.params)
    results = eqn.primitive.bind(*functions, *values, **params)
    return results if eqn.primitive.multiple_results else [results]
