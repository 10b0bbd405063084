"""Batch normalisation in evaluation mode is a scale and an offset for each channel: part of the weights."""

from __future__ import annotations

import numpy as np

from converters.onnx.graph import Graph, NDArray, Node
from converters.passes.linear import linear_layer

__all__ = ["fold_batch_norm"]

_OPSET = 13
_STATISTICS = 5


def fold_batch_norm(graph: Graph) -> int:
    """Fold BatchNormalization into the Conv, ConvTranspose, Gemm or MatMul before it.

    Where there is none, it becomes one product and one sum: the reciprocal square root of the variance is
    taken now, in the clear.
    """
    folded = 0
    for node in list(graph.nodes):
        found = _scale_and_offset(graph, node)
        if found is None:
            continue
        scale, offset = found
        if not _into_layer_before(graph, node, scale, offset):
            _as_product_and_sum(graph, node, scale, offset)
        folded += 1
    graph.prune()
    return folded


def _scale_and_offset(graph: Graph, node: Node) -> tuple[NDArray, NDArray] | None:
    """Scale and offset by channel, float64."""
    if node.op != "BatchNormalization" or node.domain or len(node.inputs) != _STATISTICS:
        return None
    training = node.attrs.get("training_mode", 0) or not node.attrs.get("spatial", 1)
    values = [graph.constants.get(name) for name in node.inputs[1:]]
    if training or any(node.outputs[1:]) or any(value is None or value.ndim != 1 for value in values):
        return None
    gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in values)
    scale = gamma / np.sqrt(variance + float(node.attrs.get("epsilon", 1e-5)))
    return scale, beta - mean * scale


def _into_layer_before(graph: Graph, node: Node, scale: NDArray, offset: NDArray) -> bool:
    source = node.inputs[0]
    if graph.uses().get(source) != 1:
        return False
    producer = next((other for other in graph.nodes if source in other.outputs), None)
    if producer is None or producer.domain:
        return False
    if producer.op in ("Conv", "ConvTranspose"):
        folded = _into_convolution(graph, producer, scale, offset)
    else:
        folded = _into_linear(graph, source, scale, offset)
    if not folded:
        return False
    producer = next(other for other in graph.nodes if source in other.outputs)
    producer.outputs = [node.outputs[0] if name == source else name for name in producer.outputs]
    graph.nodes = [other for other in graph.nodes if other is not node]
    return True


def _into_convolution(graph: Graph, conv: Node, scale: NDArray, offset: NDArray) -> bool:
    weights = graph.constants.get(conv.inputs[1])
    bias_name = conv.inputs[2] if len(conv.inputs) > 2 else ""
    bias = graph.constants.get(bias_name) if bias_name else np.zeros(scale.size)
    if weights is None or bias is None or weights.dtype.kind != "f":
        return False
    if conv.op == "Conv":
        scaled = weights * scale.reshape(-1, *[1] * (weights.ndim - 1))
    else:  # (inputs, outputs / groups, …), the outputs of each group side by side
        groups = int(conv.attrs.get("group", 1))
        by_group = scale.reshape(groups, 1, -1, *[1] * (weights.ndim - 2))
        scaled = (weights.reshape(groups, -1, *weights.shape[1:]) * by_group).reshape(weights.shape)
    conv.inputs = [
        conv.inputs[0],
        graph.add_constant(f"{conv.inputs[1]}.folded", scaled.astype(np.float32)),
        graph.add_constant(
            f"{bias_name or conv.inputs[1] + '.bias'}.folded", (bias * scale + offset).astype(np.float32)
        ),
    ]
    return True


def _into_linear(graph: Graph, source: str, scale: NDArray, offset: NDArray) -> bool:
    for node in graph.nodes:
        layer = linear_layer(graph, node) if node.op in ("MatMul", "Gemm") else None
        if layer is not None and layer.output == source:
            layer.write(layer.weights * scale, layer.bias * scale + offset)
            return True
    return False


def _as_product_and_sum(graph: Graph, node: Node, scale: NDArray, offset: NDArray) -> None:
    known = graph.shapes.get(node.inputs[0])
    rank = len(known[0]) if known is not None else 4
    shape = (-1, *[1] * (rank - 2))
    factor = graph.add_constant(f"{node.inputs[1]}.folded", scale.reshape(shape).astype(np.float32))
    term = graph.add_constant(f"{node.inputs[2]}.folded", offset.reshape(shape).astype(np.float32))
    product = graph.fresh_name(f"{node.outputs[0]}.scaled")
    if known is not None:
        graph.shapes[product] = known
    place = next(i for i, other in enumerate(graph.nodes) if other is node)
    graph.nodes[place : place + 1] = [
        Node("Mul", [node.inputs[0], factor], [product], version=_OPSET, name=node.name),
        Node("Add", [product, term], [node.outputs[0]], version=_OPSET, name=node.name),
    ]
