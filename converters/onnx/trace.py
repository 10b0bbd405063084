"""Runs a graph in JAX: under `jax.jit` that gives the program, under `jax.eval_shape` the shapes.

A value is *static* (a numpy array, known at this moment: shapes, axes, public constants) or *traced*. The
batch size is never written anywhere: shapes are read from the inputs each time the function is traced, and
arithmetic on them is done in numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from converters.errors import NodeError, Problem, UnsupportedModelError
from converters.onnx.control import CONTROL
from converters.onnx.dtypes import STRING, canonical
from converters.onnx.fold import evaluate
from converters.onnx.graph import Graph, NDArray, Node
from converters.onnx.registry import INTERNAL, OpSpec, find, versions
from converters.onnx.structure import inputs_behind

__all__ = ["PrivateFunction", "Tracer"]


@dataclass(frozen=True, eq=False)
class PrivateFunction:
    """``private_predict`` of a graph: ``(params, *private_inputs) -> tuple``."""

    graph: Graph
    """Its table of constants holds the public ones alone."""
    demanded: frozenset[str]
    aliases: Mapping[str, str]
    """Secret constant of the graph -> its name in params."""

    def __call__(self, params: Mapping[str, Any], *inputs: Any) -> tuple[Any, ...]:
        """Trace the graph at the inputs' shapes."""
        tracer = Tracer(self.graph, self.demanded, self.aliases, params)
        return tracer.run(inputs)


@dataclass
class Tracer:
    """One run of a graph."""

    graph: Graph
    demanded: frozenset[str] | set[str]
    aliases: Mapping[str, str]
    params: Mapping[str, Any]
    problems: list[Problem] | None = None
    """Where a list is given, a node that fails is noted there and all that depends on it is left out."""
    static: dict[str, NDArray] = field(default_factory=dict)
    traced: dict[str, Any] = field(default_factory=dict)
    used_params: set[str] = field(default_factory=set)
    used_constants: set[str] = field(default_factory=set)
    """Public constants that became part of the program or decided its structure."""
    failed: set[str] = field(default_factory=set)

    def run(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """Outputs of the graph. A failed output (only with ``problems``) is None."""
        self.static.update(self.graph.constants)
        for spec, value in zip(self.graph.inputs, inputs, strict=True):
            self.traced[spec.name] = _as_input(value, spec.dtype)
        self.run_nodes(self.graph)
        return tuple(None if name in self.failed else self.value(name) for name in self.graph.outputs)

    def run_nodes(self, graph: Graph) -> None:
        """Compute every node of a graph or subgraph."""
        for node in graph.nodes:
            if self.failed.intersection(node.reads):
                self.failed.update(node.outputs)
                continue
            try:
                self.run_node(node)
            except UnsupportedModelError:
                raise
            except Exception as error:
                problem = _problem(node, error)
                if self.problems is None:
                    raise UnsupportedModelError([problem]) from error
                self.problems.append(problem)
                self.failed.update(node.outputs)

    def run_node(self, node: Node) -> None:
        """Compute one node and bind its outputs."""
        control = CONTROL.get(node.op) if not node.domain else None
        if control is not None:
            control(self, node)
            return
        if self._folds(node):
            values = [self.known(name) if name else None for name in node.inputs]
            self.bind(node.outputs, evaluate(node, values))
            return
        spec = find(node.domain, node.op, node.version)
        if spec is None:
            raise _unknown_operator(node)
        self.bind(node.outputs, self._call(spec, node))

    def bind(self, names: Sequence[str], results: Any) -> None:
        """Give values their names: numpy arrays are static, all else is traced."""
        results = results if isinstance(results, tuple | list) else (results,)
        for name, value in zip(names, results, strict=False):
            if not name:
                continue
            self.failed.discard(name)
            self.static.pop(name, None)
            self.traced.pop(name, None)
            (self.static if isinstance(value, np.ndarray) else self.traced)[name] = value

    def value(self, name: str) -> Any:
        """The value as a JAX array, whatever it is."""
        if name in self.traced:
            return self.traced[name]
        if name in self.static:
            return _literal(self.known(name))
        self.used_params.add(name)
        return self.params[self.aliases.get(name, name)]

    def known(self, name: str) -> NDArray:
        """The value of a static name."""
        if name in self.graph.constants:
            self.used_constants.add(name)
        return self.static[name]

    def is_static(self, name: str) -> bool:
        """Whether the value is known while tracing."""
        return name in self.static

    def _folds(self, node: Node) -> bool:
        if (
            node.weights
            or node.domain == INTERNAL
            or not all(self.is_static(name) for name in node.inputs if name)
        ):
            return False
        wanted = any(output in self.demanded for output in node.outputs)
        small = all(self.static[name].size <= 1 for name in node.inputs if name)
        return bool(node.inputs) and (wanted or small)

    def _call(self, spec: OpSpec, node: Node) -> Any:
        unknown = sorted(set(node.attrs) - spec.keywords)
        if unknown:
            raise NodeError(f"attribute {', '.join(unknown)} is not known to this version of the operator.")
        arguments = [self._argument(spec, index, name) for index, name in enumerate(node.inputs)]
        if len(arguments) > len(spec.input_names) and not spec.variadic:
            raise NodeError(f"it has {len(arguments)} inputs; the operator takes {len(spec.input_names)}.")
        keywords = dict(node.attrs)
        keywords.update({key: self.value(name) for key, name in node.weights.items()})
        if spec.wants_output_count:
            keywords["output_count"] = len(node.outputs)
        return spec.function(*arguments, **keywords)

    def _argument(self, spec: OpSpec, index: int, name: str) -> Any:
        if not name:
            return None
        parameter = spec.input_name(index)
        if parameter in spec.static:
            if not self.is_static(name):
                behind = ", ".join(map(repr, inputs_behind(self.graph, [name]))) or "traced values"
                raise NodeError(
                    f"input {parameter!r} ({name!r}) must be known while converting, but it depends on "
                    f"{behind}.",
                    f"export the model with a constant {parameter!r}, or fix {behind} with static={{...}}.",
                )
            return self.known(name)
        if parameter in spec.prefers_static and self.is_static(name):
            return self.known(name)
        return self.value(name)


def _as_input(value: Any, dtype: str) -> Any:
    if dtype == STRING:
        return value  # only its shape counts: the data owner maps it before anything is computed
    if isinstance(value, np.ndarray | np.generic):
        value = canonical(np.asarray(value))
    return jnp.asarray(value, dtype)


def _literal(value: NDArray) -> Any:
    value = canonical(value)
    if value.size > 1 and (value == value.flat[0]).all():
        return jnp.full(value.shape, value.flat[0], value.dtype)
    return jnp.asarray(value)


def _unknown_operator(node: Node) -> NodeError:
    known = versions().get((node.domain, node.op))
    if known:
        return NodeError(
            f"it is supported from opset {known[0].since} on.",
            "convert the file with onnx.version_converter.",
        )
    if not node.domain:
        return NodeError(
            "the operator is not supported.", "replace it by supported operators before exporting."
        )
    return NodeError(
        f"the operator is not part of a supported standard domain ({node.domain!r}).",
        "export with standard operators (ai.onnx, ai.onnx.ml) only.",
    )


def _problem(node: Node, error: Exception) -> Problem:
    if isinstance(error, NodeError):
        reason, remedy = error.reason, error.remedy
    else:
        lines = str(error).strip().splitlines() or [""]
        reason, remedy = f"{type(error).__name__}: {lines[0]}", ""
        if isinstance(error, jax.errors.ConcretizationTypeError | jax.errors.TracerArrayConversionError):
            reason, remedy = "its result's shape depends on private values.", "export it with fixed shapes."
    return Problem(node.name, node.op, node.domain, node.version, reason, remedy)
