"""The class with the largest score, decided before the activation: every activation keeps the order."""

from __future__ import annotations

import numpy as np

from converters.onnx.graph import Graph, Node
from converters.onnx.registry import ML
from converters.passes.local_forms import public_scalar

__all__ = ["argmax_before_activation"]

_RISING = {"Sigmoid", "Tanh", "Exp", "Identity", "Dropout"}
_SOFTMAXES = {"Softmax", "LogSoftmax"}


def argmax_before_activation(graph: Graph) -> int:
    """Let ArgMax read what the activation reads; for two classes one comparison is enough."""
    changed = 0
    for node in list(graph.nodes):
        if node.op != "ArgMax" or node.domain or node.attrs.get("select_last_index", 0):
            continue
        known = graph.shapes.get(node.inputs[0])
        if known is None:
            continue
        axis = int(node.attrs.get("axis", 0)) % len(known[0])
        source = _before_activations(graph, node.inputs[0], axis, len(known[0]))
        changed += source != node.inputs[0]
        node.inputs[0] = source
        changed += _one_comparison(graph, node, axis)
    graph.prune()
    return changed


def _producer(graph: Graph, name: str) -> Node | None:
    return next((node for node in graph.nodes if name in node.outputs), None)


def _before_activations(graph: Graph, name: str, axis: int, rank: int) -> str:
    while (node := _producer(graph, name)) is not None and _keeps_order(graph, node, axis, rank):
        name = node.inputs[0]
    return name


def _keeps_order(graph: Graph, node: Node, axis: int, rank: int) -> bool:
    if node.domain == ML and node.op == "Normalizer":
        before = _producer(graph, node.inputs[0])
        positive = before is not None and before.op in (_SOFTMAXES | {"Sigmoid", "Exp"}) - {"LogSoftmax"}
        return positive and axis == rank - 1
    if node.domain:
        return False
    if node.op in _SOFTMAXES:
        default = -1 if node.version >= 13 else 1
        own = int(node.attrs.get("axis", default)) % rank
        return own == axis if node.version >= 13 else own <= axis
    return node.op in _RISING


def _one_comparison(graph: Graph, node: Node, axis: int) -> bool:
    """ArgMax of two columns that follow from one score, as ``score > threshold``."""
    concat = _producer(graph, node.inputs[0])
    if concat is None or concat.op != "Concat" or concat.domain or len(concat.inputs) != 2:
        return False
    known = graph.shapes.get(concat.inputs[1])
    first, score = _producer(graph, concat.inputs[0]), concat.inputs[1]
    if first is None or known is None or known[0][axis] != 1:
        return False
    threshold = 0.5 if _is_complement(graph, first, score) else 0.0
    if threshold == 0.0 and not (first.op == "Neg" and not first.domain and first.inputs == [score]):
        return False
    second = _producer(graph, score)
    if threshold and second is not None and second.op == "Sigmoid" and not second.domain:
        score, threshold = second.inputs[0], 0.0
    _compare(graph, node, score, threshold, axis)
    return True


def _is_complement(graph: Graph, node: Node, score: str) -> bool:
    return (
        node.op == "Sub"
        and not node.domain
        and node.inputs[1] == score
        and public_scalar(graph, node.inputs[0]) == 1.0
    )


def _compare(graph: Graph, node: Node, score: str, threshold: float, axis: int) -> None:
    limit = graph.add_constant(f"{node.outputs[0]}.threshold", np.asarray(threshold, np.float32))
    above = graph.fresh_name(f"{node.outputs[0]}.above")
    index = node.outputs[0] if node.attrs.get("keepdims", 1) else graph.fresh_name(f"{above}.index")
    new = [
        Node("Greater", [score, limit], [above], version=13, name=node.name),
        Node("Cast", [above], [index], {"to": 6}, version=13, name=node.name),
    ]
    if index != node.outputs[0]:
        new.append(Node("Squeeze", [index], node.outputs, {"axes": (axis,)}, version=11, name=node.name))
    place = next(i for i, other in enumerate(graph.nodes) if other is node)
    graph.nodes[place : place + 1] = new
