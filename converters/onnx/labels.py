"""Class labels in their own nodes.

Classifiers of ai.onnx.ml give labels, which may be strings; under MPC a class is an index. So each classifier
gives the index, and a ``Lookup`` node of the internal domain follows it, which a pass can hand to the data
owner. ZipMap, which pairs scores with labels for Python dictionaries, becomes the scores alone.
"""

from __future__ import annotations

from typing import Any

from converters.onnx.graph import Graph, Node
from converters.onnx.registry import INTERNAL, ML

__all__ = ["separate_labels"]

_CLASSIFIERS = {"LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier"}
_LABEL_ATTRIBUTES = ("classlabels_ints", "classlabels_int64s", "classlabels_strings")


def separate_labels(graph: Graph) -> None:
    """Put a ``Lookup`` after every classifier and constant row of classes, and drop ZipMap."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.domain == ML and node.op in _CLASSIFIERS:
            nodes.extend(_after_classifier(graph, node))
        elif node.domain == ML and node.op == "ZipMap":
            nodes.append(_scores_only(graph, node))
        elif _is_row_of_classes(graph, node):
            nodes.extend(_as_lookup(graph, node))
        else:
            nodes.append(node)
    graph.nodes = nodes


def _after_classifier(graph: Graph, node: Node) -> list[Node]:
    table = next((node.attrs[name] for name in _LABEL_ATTRIBUTES if node.attrs.get(name)), ())
    label = node.outputs[0]
    if not label or table == tuple(range(len(table))):
        return [node]
    index = graph.fresh_name(f"{label}.index")
    node.outputs = [index, *node.outputs[1:]]
    return [node, _lookup(node, index, label, table)]


def _scores_only(graph: Graph, node: Node) -> Node:
    labels = next(
        (node.attrs[name] for name in ("classlabels_int64s", "classlabels_strings") if name in node.attrs), ()
    )
    graph.warnings.append(
        f"{node.outputs[0]!r} is an array with one column for each of {len(labels)} classes, in the model's "
        "order, in place of a dictionary (ZipMap)."
    )
    return Node("Identity", [node.inputs[0]], node.outputs, version=graph.opsets.get("", 13), name=node.name)


def _is_row_of_classes(graph: Graph, node: Node) -> bool:
    if node.domain != ML or node.op != "ArrayFeatureExtractor" or node.inputs[1] in graph.constants:
        return False
    table = graph.constants.get(node.inputs[0])
    return table is not None and table.size == table.shape[-1] and table.dtype.kind in "iuOSU"


def _as_lookup(graph: Graph, node: Node) -> list[Node]:
    table = graph.constants[node.inputs[0]].ravel().tolist()
    entries = tuple(entry.decode() if isinstance(entry, bytes) else entry for entry in table)
    row = graph.fresh_name(f"{node.outputs[0]}.index")
    reshape = Node("ClassRow", [node.inputs[1]], [row], domain=INTERNAL, name=node.name)
    return [reshape, _lookup(node, row, node.outputs[0], entries)]


def _lookup(node: Node, index: str, label: str, table: tuple[Any, ...]) -> Node:
    return Node("Lookup", [index], [label], attrs={"table": tuple(table)}, domain=INTERNAL, name=node.name)
