"""Which values must be known while converting, and which depend on private inputs.

``demanded`` values decide shapes, axes and indices: they are computed in numpy and the constants behind them
are public. Demand stops at values that depend on a private input, so a weight never becomes public because
something computed from it *and* from a feature happens to be used as an index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from converters.onnx.graph import Graph, Node
from converters.onnx.registry import find

__all__ = ["demanded_values", "dependent_values", "inputs_behind", "required_static"]

_SHAPE_READERS = {"Shape", "Size"}
_CONTROL_STATIC = {"If": (0,), "Loop": (0, 1)}


def dependent_values(graph: Graph) -> set[str]:
    """Values that depend on what the private inputs hold, not only on their shapes."""
    dependent = {spec.name for spec in graph.inputs}
    size = -1
    while size != len(dependent):  # loops feed values back: repeat until nothing changes
        size = len(dependent)
        _spread(graph.nodes, dependent)
    return dependent


def _spread(nodes: list[Node], dependent: set[str]) -> None:
    for node in nodes:
        for body in node.subgraphs:
            _bind_formals(node, body, dependent)
            _spread(body.nodes, dependent)
        if node.op in _SHAPE_READERS and not node.domain:
            continue
        inside = any(name in dependent for body in node.subgraphs for name in body.outputs)
        if inside or any(name in dependent for name in node.reads):
            dependent.update(output for output in node.outputs if output)


def _bind_formals(node: Node, body: Graph, dependent: set[str]) -> None:
    actuals = _actuals(node, body)
    carried = body.outputs if node.op == "Scan" else body.outputs[1:]
    for position, spec in enumerate(body.inputs):
        sources = [actuals[position]] if position < len(actuals) else []
        if node.op == "Loop" and position >= 2:
            sources.append(body.outputs[position - 1])
        elif node.op == "Scan" and position < len(carried):
            sources.append(carried[position])
        if any(source in dependent for source in sources):
            dependent.add(spec.name)


def _actuals(node: Node, body: Graph) -> list[str]:
    """What the node hands to each formal input of its body."""
    surplus = len(node.inputs) - len(body.inputs)
    return node.inputs[max(surplus, 0) :]  # Scan of opset 8 has the lengths in front


Demand = Literal["needed", "preferred", "transposed"]
"""Why a value should be known while converting: an operator cannot do without, does better with it, or
transposes it. SPU drops the layout that XLA gives to a transposed constant, and so takes its elements in the
wrong order."""


def demanded_values(graph: Graph, dependent: set[str], *reasons: Demand) -> set[str]:
    """Values that are wanted while converting for one of the reasons, and do not depend on private inputs."""
    producers = graph.producers()
    inner = {
        output: body_output
        for node in graph.walk()
        for body in node.subgraphs
        for output, body_output in zip(node.outputs, _results(node, body), strict=False)
    }
    formal = {
        spec.name: actual
        for node in graph.walk()
        for body in node.subgraphs
        for spec, actual in zip(body.inputs, _actuals(node, body), strict=False)
    }
    demanded: set[str] = set()
    pending = [name for node in graph.walk() for name in _wanted(node, reasons)]
    while pending:
        name = pending.pop()
        if not name or name in demanded or name in dependent:
            continue
        demanded.add(name)
        if name in formal:
            pending.append(formal[name])
        node = producers.get(name)
        if node is not None and node.op not in _SHAPE_READERS:
            pending.extend(node.reads)
            if name in inner:
                pending.append(inner[name])
    return demanded


def _results(node: Node, body: Graph) -> list[str]:
    return body.outputs[1:] if node.op == "Loop" else body.outputs


def inputs_behind(graph: Graph, names: list[str]) -> list[str]:
    """The private inputs whose values (not only whose shapes) decide any of these values, in order."""
    producers = graph.producers()
    seen: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        node = producers.get(name)
        if node is not None and node.op not in _SHAPE_READERS:
            pending.extend(node.reads)
    return [spec.name for spec in graph.inputs if spec.name in seen]


def required_static(graph: Graph) -> list[str]:
    """The inputs that must be given as ``static=``, since an operator needs what they decide."""
    return inputs_behind(graph, [name for node in graph.walk() for name in _wanted(node, ("needed",))])


def _wanted(node: Node, reasons: Sequence[Demand]) -> list[str]:
    if node.op == "Transpose" and not node.domain:
        return node.outputs if "transposed" in reasons else []
    if not node.domain and node.op in _CONTROL_STATIC:
        return [node.inputs[i] for i in _CONTROL_STATIC[node.op] if i < len(node.inputs)]
    spec = find(node.domain, node.op, node.version)
    if spec is None:
        return []
    wanted = spec.static if "needed" in reasons else frozenset()
    wanted |= spec.prefers_static if "preferred" in reasons else frozenset()
    return [name for index, name in enumerate(node.inputs) if spec.input_name(index) in wanted]
