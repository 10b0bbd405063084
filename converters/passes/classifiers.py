"""Linear models of ai.onnx.ml as plain layers, so that every other rewrite sees them."""

from __future__ import annotations

import numpy as np

from converters.onnx.graph import Graph, Node
from converters.onnx.registry import ML

__all__ = ["split_linear_models"]

_OPSET = 13


def split_linear_models(graph: Graph) -> int:
    """Scaler, LinearRegressor and LinearClassifier as Sub, Mul, MatMul, Add, activation and ArgMax."""
    nodes: list[Node] = []
    split = 0
    for node in graph.nodes:
        parts = _parts(graph, node)
        split += parts is not None
        nodes.extend([node] if parts is None else parts)
    graph.nodes = nodes
    split += _drop_normalizers(graph)
    graph.prune()
    return split


def _parts(graph: Graph, node: Node) -> list[Node] | None:
    forms = {"Scaler": _scaler, "LinearRegressor": _regressor, "LinearClassifier": _classifier}
    if node.domain != ML or node.op not in forms:
        return None
    known = graph.shapes.get(node.inputs[0])
    if known is None or len(known[0]) != 2 or known[0][1] is None or known[0][0] == 0:
        return None
    return forms[node.op](_Parts(graph, node, known[0][0], known[0][1]))


class _Parts:
    """The nodes that take the place of one node."""

    def __init__(self, graph: Graph, node: Node, batch: int | None, columns: int) -> None:
        self.graph, self.node, self.batch, self.columns = graph, node, batch, columns
        self.nodes: list[Node] = []

    def add(
        self, op: str, inputs: list[str], width: int | None, output: str | None = None, **attrs: object
    ) -> str:
        name = output or self.graph.fresh_name(f"{self.node.outputs[-1]}.{op.lower()}")
        while any(name in other.outputs for other in self.nodes):
            name += "_"
        self.nodes.append(Node(op, inputs, [name], dict(attrs), version=_OPSET, name=self.node.name))
        if width is not None:
            self.graph.shapes[name] = ((self.batch, width), "float32")
        return name

    def features(self) -> str:
        name = self.node.inputs[0]
        if self.graph.shapes[name][1] == "float32":
            return name
        return self.add("Cast", [name], self.columns, to=1)

    def weight(self, key: str) -> np.ndarray | None:  # type: ignore[type-arg]
        name = self.node.weights.get(key)
        return None if name is None or not self.graph.constants[name].size else self.graph.constants[name]

    def constant(self, key: str, value: np.ndarray) -> str:  # type: ignore[type-arg]
        return self.graph.add_constant(f"{self.node.weights[key]}.row", value.astype(np.float32))

    def scores(self, output: str | None) -> tuple[str, int]:
        """``features @ coefficients + intercepts`` and the number of its columns."""
        coefficients = self.weight("coefficients")
        assert coefficients is not None
        rows = coefficients.size // self.columns
        matrix = self.constant("coefficients", coefficients.reshape(rows, self.columns).T)
        intercepts = self.weight("intercepts")
        last = output if intercepts is None else None
        name = self.add("MatMul", [self.features(), matrix], rows, last)
        if intercepts is not None:
            name = self.add("Add", [name, self.constant("intercepts", intercepts.reshape(-1))], rows, output)
        return name, rows

    def transformed(self, scores: str, width: int, transform: str, output: str) -> None:
        ops = {"NONE": "Identity", "LOGISTIC": "Sigmoid", "SOFTMAX": "Softmax"}
        self.add(ops[transform], [scores], width, output, **({"axis": -1} if transform == "SOFTMAX" else {}))


def _scaler(parts: _Parts) -> list[Node] | None:
    offset, scale = parts.weight("offset"), parts.weight("scale")
    if any(value is not None and value.size not in (1, parts.columns) for value in (offset, scale)):
        return None
    name, output = parts.features(), parts.node.outputs[0]
    if offset is not None:
        last = output if scale is None else None
        name = parts.add("Sub", [name, parts.constant("offset", offset.reshape(-1))], parts.columns, last)
    if scale is not None:
        name = parts.add("Mul", [name, parts.constant("scale", scale.reshape(-1))], parts.columns, output)
    return parts.nodes if name == output else None


def _regressor(parts: _Parts) -> list[Node] | None:
    if parts.node.attrs.get("post_transform", "NONE") != "NONE":
        return None
    parts.scores(parts.node.outputs[0])
    return parts.nodes


def _classifier(parts: _Parts) -> list[Node] | None:
    node = parts.node
    transform = str(node.attrs.get("post_transform", "NONE"))
    labels = node.attrs.get("classlabels_ints") or node.attrs.get("classlabels_strings") or ()
    if transform not in ("NONE", "LOGISTIC", "SOFTMAX"):
        return None
    output = node.outputs[1] if len(node.outputs) > 1 and node.outputs[1] else None
    output = output or parts.graph.fresh_name(f"{node.outputs[0]}.scores")
    scores, width = parts.scores(None)
    if width == 1 and len(labels) == 2:
        _two_classes(parts, scores, transform, output)
    else:
        parts.transformed(scores, width, transform, output)
    if node.outputs[0]:
        # Every transform keeps the order of the classes.
        parts.nodes.append(
            Node(
                "ArgMax",
                [output],
                [node.outputs[0]],
                {"axis": 1, "keepdims": 0},
                version=_OPSET,
                name=node.name,
            )
        )
    return parts.nodes


def _two_classes(parts: _Parts, score: str, transform: str, output: str) -> None:
    if transform == "LOGISTIC":
        second = parts.add("Sigmoid", [score], 1)
        one = parts.graph.add_constant(f"{output}.one", np.ones((), np.float32))
        first = parts.add("Sub", [one, second], 1)
        parts.add("Concat", [first, second], 2, output, axis=1)
        return
    both = parts.add("Concat", [parts.add("Neg", [score], 1), score], 2, None, axis=1)
    parts.transformed(both, 2, transform, output)


def _drop_normalizers(graph: Graph) -> int:
    """Rows of a softmax sum to 1 already: an L1 normalisation after it changes nothing."""
    producers = graph.producers()
    dropped = 0
    for node in graph.nodes:
        if node.domain != ML or node.op != "Normalizer" or node.attrs.get("norm") != "L1":
            continue
        before = producers.get(node.inputs[0])
        if (
            before is not None
            and not before.domain
            and before.op == "Softmax"
            and before.attrs.get("axis") == -1
        ):
            node.op, node.domain, node.version, node.attrs = "Identity", "", _OPSET, {}
            dropped += 1
    return dropped
