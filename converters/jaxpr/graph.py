"""A traced function as a `Graph`, as far as the rewrites need to understand it.

Known patterns become nodes of the standard's operators (a softmax is five primitives in JAX); all else
becomes a node of the domain ``jax`` that only says what it reads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import core

from converters.jaxpr.inline import Traced
from converters.model import TensorSpec
from converters.onnx.graph import Graph, Node

__all__ = ["graph_of", "variable_names"]

_OPSET = 13
_UNARY = {"logistic": "Sigmoid", "tanh": "Tanh", "exp": "Exp", "neg": "Neg", "copy": "Identity"}
_BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div"}
_LAYOUT = {"reshape", "squeeze", "expand_dims"}


def variable_names(traced: Traced) -> dict[Any, str]:
    """A name for each variable: the same at every batch size."""
    names = {var: f"input_{index}" for index, var in enumerate(traced.inputs)}
    names |= {var: f"param_{index}" for index, var in enumerate(traced.params)}
    for index, var in enumerate(traced.jaxpr.constvars):
        names[var] = f"const_{index}"
    count = 0
    for eqn in traced.jaxpr.eqns:
        for var in eqn.outvars:
            names[var] = f"{eqn.primitive.name}_{count}"
            count += 1
    return names


def graph_of(first: Traced, second: Traced) -> Graph:
    """The function at two batch sizes, which tell the batch dimension, as a graph."""
    names = variable_names(first)
    other = {name: var for var, name in variable_names(second).items()}
    graph = Graph(nodes=[], inputs=[], outputs=[], opsets={"": _OPSET})
    for var, name in names.items():
        pair = other.get(name)
        if pair is not None and hasattr(var, "aval"):
            shape = tuple(a if a == b else None for a, b in zip(var.aval.shape, pair.aval.shape, strict=True))
            graph.shapes[name] = (shape, str(np.dtype(var.aval.dtype)))
    graph.inputs = [TensorSpec(names[var], *graph.shapes[names[var]][::-1]) for var in first.inputs]
    _Reader(first, names, graph).read()
    return graph


class _Reader:
    def __init__(self, traced: Traced, names: dict[Any, str], graph: Graph) -> None:
        self.traced, self.names, self.graph = traced, names, graph
        self.producers = traced.producers()

    def read(self) -> None:
        for eqn in self.traced.jaxpr.eqns:
            self.graph.nodes.append(self.node(eqn))
        self.graph.outputs = [self.name(atom) for atom in self.traced.outputs]

    def name(self, atom: Any) -> str:
        if not isinstance(atom, core.Literal):
            return self.names[atom]
        value = np.asarray(atom.val)
        name = f"literal_{value.dtype}_{value!r}"
        self.graph.constants[name] = value
        return name

    def node(self, eqn: Any) -> Node:
        primitive, params = eqn.primitive.name, eqn.params
        inputs = [self.name(atom) for atom in eqn.invars]
        outputs = [self.names[var] for var in eqn.outvars]
        softmax = self.softmax(eqn) or self.log_softmax(eqn)
        if softmax is not None:
            op, source, axis = softmax
            return Node(op, [self.name(source)], outputs, {"axis": axis}, version=_OPSET)
        if primitive in _UNARY:
            return Node(_UNARY[primitive], inputs, outputs, version=_OPSET)
        if primitive in _BINARY:
            return Node(_BINARY[primitive], inputs, outputs, version=_OPSET)
        if primitive in _LAYOUT or self.only_adds_dimensions(eqn):
            return Node("Reshape", inputs[:1], outputs, version=_OPSET)
        if primitive == "transpose":
            return Node("Transpose", inputs, outputs, {"perm": params["permutation"]}, version=_OPSET)
        if primitive == "concatenate":
            return Node("Concat", inputs, outputs, {"axis": params["dimension"]}, version=_OPSET)
        if primitive in ("argmax", "argmin") and len(params["axes"]) == 1:
            op = "ArgMax" if primitive == "argmax" else "ArgMin"
            attrs = {"axis": params["axes"][0], "keepdims": 0}
            return Node(op, inputs, outputs, attrs, version=_OPSET)
        if primitive == "convert_element_type" and self.is_float(eqn.invars[0], eqn.outvars[0]):
            return Node("Identity", inputs, outputs, version=_OPSET)
        return Node(primitive, inputs, outputs, domain="jax")

    @staticmethod
    def is_float(*atoms: Any) -> bool:
        return all(np.dtype(atom.aval.dtype).kind == "f" for atom in atoms)

    @staticmethod
    def only_adds_dimensions(eqn: Any) -> bool:
        if eqn.primitive.name != "broadcast_in_dim":
            return False
        before, after = eqn.invars[0].aval, eqn.outvars[0].aval
        return bool(before.size == after.size and before.ndim > 0)

    def softmax(self, eqn: Any) -> tuple[str, Any, int] | None:
        """``e / broadcast(sum(e))`` with ``e = exp(x - broadcast(max(x)))``."""
        if eqn.primitive.name != "div":
            return None
        powers = self.made_by(eqn.invars[0], "exp")
        total = self.reduction(eqn.invars[1], "reduce_sum")
        if powers is None or total is None or total[0] is not eqn.invars[0]:
            return None
        source = self.shifted(powers.invars[0], total[1])
        return None if source is None else ("Softmax", source, total[1])

    def log_softmax(self, eqn: Any) -> tuple[str, Any, int] | None:
        """``s - log(broadcast(sum(exp(s))))`` with ``s = x - broadcast(max(x))``."""
        if eqn.primitive.name != "sub":
            return None
        log = self.made_by(eqn.invars[1], "log")
        total = self.reduction(log.invars[0], "reduce_sum") if log is not None else None
        powers = self.made_by(total[0], "exp") if total is not None else None
        if total is None or powers is None or powers.invars[0] is not eqn.invars[0]:
            return None
        source = self.shifted(eqn.invars[0], total[1])
        return None if source is None else ("LogSoftmax", source, total[1])

    def shifted(self, atom: Any, axis: int) -> Any | None:
        """x, if the atom is x minus its maximum along the axis."""
        sub = self.made_by(atom, "sub")
        largest = self.reduction(sub.invars[1], "reduce_max") if sub is not None else None
        if sub is None or largest is None or largest[0] is not sub.invars[0] or largest[1] != axis:
            return None
        return largest[0]

    def reduction(self, atom: Any, primitive: str) -> tuple[Any, int] | None:
        """What is reduced, over which axis (from the back), if the atom is a reduction, broadcast."""
        while (eqn := self.eqn(atom)) is not None and (
            eqn.primitive.name in ("stop_gradient", "broadcast_in_dim", "reshape", "max")
        ):
            others = [a for a in eqn.invars if not isinstance(a, core.Literal)]
            if len(others) != 1:
                return None
            atom = others[0]
        if eqn is None or eqn.primitive.name != primitive or len(eqn.params["axes"]) != 1:
            return None
        return eqn.invars[0], eqn.params["axes"][0] - eqn.invars[0].aval.ndim

    def made_by(self, atom: Any, primitive: str) -> Any | None:
        eqn = self.eqn(atom)
        return eqn if eqn is not None and eqn.primitive.name == primitive else None

    def eqn(self, atom: Any) -> Any | None:
        return None if isinstance(atom, core.Literal) else self.producers.get(atom)
