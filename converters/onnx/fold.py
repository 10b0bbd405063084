"""Constant folding in numpy, by the standard's own reference implementation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from converters.onnx.graph import Graph, NDArray, Node
from converters.onnx.registry import INTERNAL
from converters.onnx.values import is_public

__all__ = ["evaluate", "fold_constants"]

_LARGEST_GROWTH = 1 << 16
"""Elements by which a folded result may exceed its inputs: an Expand of a scalar is cheaper when traced."""
_RANDOM = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
}


def evaluate(node: Node, inputs: Sequence[NDArray | None]) -> list[NDArray]:
    """What the node gives for these arrays, exactly as the standard says (64-bit integers included)."""
    names = [f"i{index}" if value is not None else "" for index, value in enumerate(inputs)]
    outputs = [f"o{index}" if name else "" for index, name in enumerate(node.outputs)]
    attrs = {key: value for key, value in node.attrs.items() if not (isinstance(value, tuple) and not value)}
    tensors = {
        key: helper.make_tensor(key, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape, value.ravel())
        for key, value in attrs.items()
        if isinstance(value, np.ndarray)
    }
    proto = helper.make_node(node.op, names, outputs, domain=node.domain, **{**attrs, **tensors})
    graph = helper.make_graph(
        [proto],
        "fold",
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in names if name],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs if name],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(node.domain, node.version)])
    feeds = {name: value for name, value in zip(names, inputs, strict=True) if name}
    with np.errstate(all="ignore"):
        results = iter(ReferenceEvaluator(model).run(None, feeds))
    return [np.asarray(next(results)) if name else np.zeros(0) for name in outputs]


def fold_constants(graph: Graph) -> int:
    """Replace nodes that depend on constants alone by constants. Returns how many."""
    count = _fold_in(graph, graph)
    graph.prune()
    return count


def _fold_in(graph: Graph, root: Graph) -> int:
    count = 0
    kept: list[Node] = []
    pending = list(graph.nodes)
    while pending:
        node = pending.pop(0)
        branch = _known_branch(node, root)
        if branch is not None:
            pending[:0] = branch
            count += 1
        elif _foldable(node, root) and _fold(node, root):
            count += 1
        else:
            count += sum(_fold_in(body, root) for body in node.subgraphs)
            kept.append(node)
    graph.nodes = kept
    return count


def _known_branch(node: Node, root: Graph) -> list[Node] | None:
    """The nodes of the branch that an If with a constant condition takes."""
    if node.op != "If" or node.domain or node.inputs[0] not in root.constants:
        return None
    taken = bool(root.constants[node.inputs[0]].reshape(()))
    body: Graph = node.attrs["then_branch" if taken else "else_branch"]
    ends = [
        Node("Identity", [inner], [outer], version=node.version, name=node.name)
        for inner, outer in zip(body.outputs, node.outputs, strict=True)
        if outer
    ]
    return [*body.nodes, *ends]


def _foldable(node: Node, root: Graph) -> bool:
    return (
        not node.subgraphs
        and not node.weights
        and node.domain != INTERNAL
        and node.op not in _RANDOM
        and all(name in root.constants for name in node.inputs if name)
    )


def _fold(node: Node, root: Graph) -> bool:
    inputs = [root.constants[name] if name else None for name in node.inputs]
    try:
        results = evaluate(node, inputs)
    except Exception:  # the reference has no such operator: the tracer will say what is wrong with it
        return False
    size = sum(value.size for value in inputs if value is not None)
    if sum(result.size for result in results) > size + _LARGEST_GROWTH:
        return False
    secret = node.op not in ("Shape", "Size") and any(
        name in root.derived or (value.dtype.kind == "f" and not is_public(value))
        for name, value in zip(node.inputs, inputs, strict=True)
        if value is not None
    )
    for name, result in zip(node.outputs, results, strict=True):
        if name:
            root.constants[name] = result
            if secret:
                root.derived.add(name)
    return True
