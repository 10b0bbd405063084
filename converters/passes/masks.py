"""Attention masks that the ring can hold: -1e4 in place of the most negative float."""

from __future__ import annotations

import numpy as np

from converters.onnx.graph import Graph, Node

__all__ = ["clamp_masks"]

_LOWEST = -1e4
"""exp(-1e4) is 0 in any ring, and products of it with scores stay far below the limit of 1.3e8."""
_MASK_LIMIT = -1e5
"""Numbers below this one that are added to logits are masks."""
_CARRIERS = {
    "Add",
    "Cast",
    "Concat",
    "Div",
    "Expand",
    "Flatten",
    "Identity",
    "Max",
    "Mul",
    "Reshape",
    "ScatterND",
    "Slice",
    "Squeeze",
    "Sub",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Where",
}


def clamp_masks(graph: Graph) -> int:
    """Raise constants like finfo.min and -inf that flow into a softmax to -1e4; returns how many."""
    masks = [
        name
        for name, value in graph.constants.items()
        if value.dtype.kind == "f" and value.size and bool((value < _MASK_LIMIT).any())
    ]
    changed = 0
    for name in masks:
        if _reaches_softmax(graph, name):
            value = graph.constants[name]
            graph.constants[name] = np.where(value < _MASK_LIMIT, _LOWEST, value).astype(value.dtype)
            changed += 1
    return changed


def _reaches_softmax(graph: Graph, name: str) -> bool:
    """Whether everything that the constant flows into, through arithmetic and layout alone, is a softmax."""
    consumers, pending, seen, reached = graph.consumers(), [name], {name}, False
    while pending:
        current = pending.pop()
        if current in graph.outputs:
            return False
        for node in consumers.get(current, []):
            if node.op in ("Softmax", "LogSoftmax") and not node.domain:
                reached = True
            elif _carries(node):
                new = [output for output in node.outputs if output and output not in seen]
                seen.update(new)
                pending.extend(new)
            else:
                return False
    return reached


def _carries(node: Node) -> bool:
    return not node.domain and node.op in _CARRIERS
