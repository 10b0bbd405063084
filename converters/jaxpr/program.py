"""A JAX function as the private part of a model: rewritten, with steps at the data owner around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from converters.jaxpr.graph import graph_of, variable_names
from converters.jaxpr.inline import Traced, trace
from converters.jaxpr.rows import find_row_lookups, lookups_of, sole_lookup_inputs
from converters.local_steps import LocalStep
from converters.model import TensorSpec
from converters.onnx.graph import Graph, Node
from converters.onnx.ops.reduce import argmax
from converters.onnx.registry import INTERNAL
from converters.passes.peel import peel_outputs

__all__ = ["JAX_REWRITES", "JaxProgram"]

JAX_REWRITES: Mapping[str, bool] = {
    "embedding_rows": True,
    "embed_at_data_owner": True,
    "argmax_by_comparison": True,
    "always_finite": True,
    "peel_outputs": True,
}
_PROBE_BATCHES = (2, 3)
Function = Callable[..., tuple[Any, ...]]


@dataclass
class _Replacement:
    """Another way to compute one variable."""

    reads: Sequence[Any]
    compute: Callable[..., Any]

    def __call__(self, read: Callable[[Any], Any]) -> Any:
        return self.compute(*(read(atom) for atom in self.reads))


@dataclass
class JaxProgram:
    """``private_predict`` of a JAX function: ``(params, *private_inputs) -> tuple``.

    It is traced anew for each batch size, and the rewrites are found in each trace in the same way.
    """

    function: Function
    params: Mapping[str, jax.ShapeDtypeStruct]
    inputs: tuple[TensorSpec, ...]
    rewrites: frozenset[str]
    output_names: tuple[str, ...]
    depths: dict[int, int] = field(default_factory=dict)
    """Inputs that come as one-hot rows: position -> rows of the table."""
    graph: Graph = field(init=False)
    applied: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        traces = [self._trace(batch) for batch in _PROBE_BATCHES]
        if "embedding_rows" in self.rewrites:
            lookups = find_row_lookups(traces[0])
            self._note("embedding_rows", bool(lookups))
            if "embed_at_data_owner" in self.rewrites:
                self.depths = sole_lookup_inputs(traces[0], lookups)
                self._note("embed_at_data_owner", bool(self.depths))
        self.graph = graph_of(*traces)
        self._name_outputs()
        self.graph.statements.extend(
            f"{self.inputs[index].name!r}: the data owner shares one-hot rows of {depth} entries for "
            f"each index; the number of entries of the table ({depth}) is public."
            for index, depth in self.depths.items()
        )
        if "peel_outputs" in self.rewrites:
            self._note("peel_outputs", bool(peel_outputs(self.graph)))
        primitives = {eqn.primitive.name for eqn in traces[0].jaxpr.eqns}
        self._note("argmax_by_comparison", bool(primitives & {"argmax", "argmin"}))
        self._note("always_finite", "is_finite" in primitives)

    @property
    def private_inputs(self) -> tuple[TensorSpec, ...]:
        """What is shared."""
        return tuple(
            TensorSpec(f"{spec.name}.rows", "float32", (*spec.shape, self.depths[index]))
            if index in self.depths
            else spec
            for index, spec in enumerate(self.inputs)
        )

    @property
    def encode(self) -> tuple[LocalStep, ...]:
        """One-hot rows for indices."""
        return tuple(
            LocalStep(
                "one_hot", (self.inputs[index].name,), (f"{self.inputs[index].name}.rows",), {"depth": depth}
            )
            for index, depth in self.depths.items()
        )

    def __call__(self, params: Mapping[str, Any], *inputs: Any) -> tuple[Any, ...]:
        """Trace the function at the inputs' shapes and compute what is revealed."""
        abstract = [
            jax.ShapeDtypeStruct(value.shape[:-1] if index in self.depths else value.shape, spec.dtype)
            for index, (spec, value) in enumerate(zip(self.inputs, inputs, strict=True))
        ]
        traced = trace(self.function, self.params, *abstract)
        values = dict(zip(traced.params, (jnp.asarray(params[name]) for name in sorted(params)), strict=True))
        for index, value in enumerate(inputs):
            if index not in self.depths:
                values[traced.inputs[index]] = jnp.asarray(value)
        variables = {name: var for var, name in variable_names(traced).items()}
        variables |= dict(zip(self.output_names, traced.outputs, strict=True))
        centres = {node.outputs[0]: node for node in self.graph.nodes if _is_centre(node)}
        wanted = [variables[centres[n].inputs[0] if n in centres else n] for n in self.graph.outputs]
        results = traced.run(values, wanted, self._replaced(traced, inputs))
        return tuple(
            _centred(value, centres[name].attrs["axis"]) if name in centres else jnp.asarray(value)
            for name, value in zip(self.graph.outputs, results, strict=True)
        )

    def _replaced(self, traced: Traced, inputs: Sequence[Any]) -> dict[Any, Any]:
        replaced: dict[Any, Any] = {}
        if "embedding_rows" in self.rewrites:
            lookups = find_row_lookups(traced)
            for index in self.depths:
                for lookup in lookups_of(traced, lookups, index):
                    lookup.one_hot = inputs[index]
            replaced |= {lookup.result: lookup for lookup in lookups}
        for eqn in traced.jaxpr.eqns:
            replacement = self._replacement(eqn)
            if replacement is not None:
                replaced[eqn.outvars[0]] = replacement
        return replaced

    def _replacement(self, eqn: Any) -> _Replacement | None:
        name = eqn.primitive.name
        if name == "is_finite" and "always_finite" in self.rewrites:
            # A ring holds no infinity and no NaN.
            shape = eqn.outvars[0].aval.shape
            return _Replacement((), lambda: jnp.ones(shape, bool))
        if name in ("argmax", "argmin") and "argmax_by_comparison" in self.rewrites:
            axis, sign = eqn.params["axes"][0], 1 if name == "argmax" else -1
            return _Replacement(eqn.invars, lambda x: argmax(sign * x, axis, keepdims=False))
        return None

    def _trace(self, batch: int) -> Traced:
        abstract = [jax.ShapeDtypeStruct(spec.with_batch(batch), spec.dtype) for spec in self.inputs]
        return trace(self.function, self.params, *abstract)

    def _name_outputs(self) -> None:
        """Give the outputs the model's own names, in the graph and for those who look them up."""
        graph = self.graph
        first = list(graph.outputs)
        for position, (old, new) in enumerate(zip(first, self.output_names, strict=True)):
            producer = next((node for node in graph.nodes if old in node.outputs), None)
            if producer is None or first.index(old) != position or old in graph.constants:
                graph.nodes.append(Node("Identity", [old], [new], version=13))
            else:
                producer.outputs = [new if name == old else name for name in producer.outputs]
                graph.replace_uses(old, new)
            graph.shapes[new] = graph.shapes.get(old, ((), "float32"))
        graph.outputs = list(self.output_names)
        graph.received = list(self.output_names)

    def _note(self, name: str, happened: bool) -> None:
        if happened and name in self.rewrites:
            self.applied.append(name)


def _is_centre(node: Node) -> bool:
    return node.op == "Centre" and node.domain == INTERNAL


def _centred(value: Any, axis: int) -> Any:
    return value - jnp.sum(value, axis=axis, keepdims=True) * np.float32(1 / value.shape[axis])
