"""Support vector machines with one pair of classes as decision values and ordinary nodes.

So the probability leaves MPC as its logit, like that of a linear model.
"""

from __future__ import annotations

import numpy as np

from converters.onnx.graph import Graph, Node
from converters.onnx.registry import INTERNAL, ML
from converters.onnx.tail import Tail

__all__ = ["split_support_vectors"]

_KERNEL = ("coefficients", "rho", "support_vectors", "gamma", "offset")
_PUBLIC = ("degree", "kernel_type", "vectors_per_class")


def split_support_vectors(graph: Graph) -> int:
    """SVMClassifier of two classes as SVMDecisions, label and scores; returns how many."""
    nodes: list[Node] = []
    split = 0
    for node in graph.nodes:
        pairs = len(node.attrs.get("vectors_per_class", ()))
        transform = node.attrs.get("post_transform", "NONE")
        fits = node.domain == ML and node.op == "SVMClassifier" and pairs == 2 and transform == "NONE"
        nodes.extend(_parts(graph, node) if fits else [node])
        split += fits
    graph.nodes = nodes
    return split


def _parts(graph: Graph, node: Node) -> list[Node]:
    tail = Tail(graph, node)
    batch = graph.shapes.get(node.inputs[0], ((None,), ""))[0][0]
    raw = tail.value("decision")
    weights = {key: node.weights[key] for key in _KERNEL if key in node.weights}
    attrs = {key: node.attrs[key] for key in _PUBLIC if key in node.attrs}
    first = Node("SVMDecisions", [node.inputs[0]], [raw], attrs, weights, INTERNAL, name=node.name)
    label, scores = (*node.outputs, "")[:2]
    if label:
        above = tail.add("Greater", [raw, tail.constant(np.float32(0))])
        flat = tail.add("Squeeze", [tail.add("Not", [above]), tail.constant(np.array([1], np.int64))])
        tail.add("Cast", [flat], label, to=6)
    if scores and "prob_a" in node.weights and "prob_b" in node.weights:
        logit = tail.add("Add", [tail.add("Mul", [raw, node.weights["prob_a"]]), node.weights["prob_b"]])
        tail.nodes.append(Node("PairProbabilities", [logit], [scores], {}, {}, INTERNAL, name=node.name))
    elif scores:
        tail.add("Concat", [tail.add("Neg", [raw]), raw], scores, axis=1)
    for made in (first, *tail.nodes):
        if made.op in ("SVMDecisions", "Mul", "Add", "Neg"):
            graph.shapes[made.outputs[0]] = ((batch, 1), "float32")
    return [first, *tail.nodes]
