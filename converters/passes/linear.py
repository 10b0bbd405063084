"""Linear layers: their parts by name, and what can be folded into their weights at the model owner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from converters.local_steps import LocalStep
from converters.onnx.graph import Graph, NDArray, Node
from converters.onnx.registry import INTERNAL

__all__ = ["LinearLayer", "fold_centring", "fold_scaling", "linear_layer", "scale_features"]


@dataclass
class LinearLayer:
    """``x @ weights + bias`` in the form that the file has it in: MatMul, MatMul and Add, or Gemm."""

    graph: Graph
    product: Node
    add: Node | None
    """The Add after a MatMul, where it reads nothing but the product and a constant row."""

    @property
    def transposed(self) -> bool:
        """Whether the weights are stored as (outputs, inputs)."""
        return bool(self.product.attrs.get("transB", 0))

    @property
    def weights(self) -> NDArray:
        """(inputs, outputs), with Gemm's alpha in them."""
        stored = self.graph.constants[self.product.inputs[1]]
        stored = stored.T if self.transposed else stored
        return stored * np.float32(self.product.attrs.get("alpha", 1.0))

    @property
    def bias(self) -> NDArray:
        """(outputs,); zeros where the layer has none."""
        columns = self.weights.shape[1]
        total = np.zeros(columns, np.float32)
        if self._has_gemm_bias:
            beta = np.float32(self.product.attrs.get("beta", 1.0))
            total = total + beta * self.graph.constants[self.product.inputs[2]].reshape(-1)
        if self.add is not None:
            total = total + self.graph.constants[_constant_input(self.graph, self.add)].reshape(-1)
        return total

    @property
    def _has_gemm_bias(self) -> bool:
        return self.product.op == "Gemm" and len(self.product.inputs) > 2 and bool(self.product.inputs[2])

    @property
    def output(self) -> str:
        """Name of the layer's result."""
        return (self.add or self.product).outputs[0]

    def write(self, weights: NDArray, bias: NDArray, *, source: str | None = None) -> None:
        """Replace weights, bias and, where given, what the layer reads. It becomes one Gemm."""
        name, graph = self.product.inputs[1], self.graph
        output = self.output
        row = _constant_input(graph, self.add) if self.add is not None else f"{name}.bias"
        self.product.inputs = [
            source or self.product.inputs[0],
            graph.add_constant(f"{name}.folded", weights.astype(np.float32)),
            graph.add_constant(f"{row}.folded", np.broadcast_to(bias, weights.shape[1:]).astype(np.float32)),
        ]
        self.product.op, self.product.version, self.product.attrs = "Gemm", 13, {}
        self.product.outputs = [output]
        if self.add is not None:
            graph.nodes = [node for node in graph.nodes if node is not self.add]


def linear_layer(graph: Graph, product: Node) -> LinearLayer | None:
    """The layer around a MatMul or Gemm of two-dimensional values with constant weights, or nothing."""
    if product.domain or product.op not in ("MatMul", "Gemm") or product.attrs.get("transA", 0):
        return None
    weights = graph.constants.get(product.inputs[1])
    known = graph.shapes.get(product.inputs[0])
    if (
        weights is None
        or weights.ndim != 2
        or weights.dtype.kind != "f"
        or product.inputs[0] in graph.constants
    ):
        return None
    if known is None or len(known[0]) != 2:
        return None
    layer = LinearLayer(graph, product, None)
    columns = layer.weights.shape[1]
    if layer._has_gemm_bias and not _is_row(graph, product.inputs[2], columns):
        return None
    readers = graph.consumers().get(product.outputs[0], [])
    if len(readers) == 1 and graph.uses().get(product.outputs[0]) == 1 and _is_top(graph, readers[0]):
        row = _constant_input(graph, readers[0]) if readers[0].op == "Add" else ""
        if row and not readers[0].domain and _is_row(graph, row, columns):
            layer.add = readers[0]
    return layer


def _is_row(graph: Graph, name: str, columns: int) -> bool:
    value = graph.constants.get(name)
    return value is not None and value.shape in ((columns,), (1, columns), (1,), (), (1, 1))


def _constant_input(graph: Graph, node: Node) -> str:
    names = [name for name in node.inputs if name in graph.constants]
    return names[0] if len(names) == 1 else ""


def _is_top(graph: Graph, node: Node) -> bool:
    return any(node is other for other in graph.nodes)


def fold_centring(graph: Graph) -> int:
    """Subtract the mean of a layer's outputs in its weights, where nothing else reads the outputs."""
    folded = 0
    for centre in [node for node in graph.nodes if node.op == "Centre" and node.domain == INTERNAL]:
        source = centre.inputs[0]
        if graph.uses().get(source) != 1 or centre.attrs["axis"] != -1:
            continue
        producer = next((node for node in graph.nodes if source in node.outputs), None)
        layer = _layer_that_gives(graph, source) if producer is not None else None
        if layer is None:
            continue
        weights, bias = layer.weights, layer.bias
        layer.write(weights - weights.mean(axis=1, keepdims=True), bias - bias.mean())
        layer.product.outputs = list(centre.outputs)
        graph.nodes = [node for node in graph.nodes if node is not centre]
        folded += 1
    graph.prune()
    return folded


def _layer_that_gives(graph: Graph, output: str) -> LinearLayer | None:
    for node in graph.nodes:
        layer = linear_layer(graph, node) if node.op in ("MatMul", "Gemm") else None
        if layer is not None and layer.output == output:
            return layer
    return None


def fold_scaling(graph: Graph) -> int:
    """Fold scalers (``x * s + t`` by column, all constant) into the weights of the layer after them."""
    folded = 0
    for product in list(graph.nodes):
        layer = linear_layer(graph, product)
        if layer is None:
            continue
        source, factor, offset, found = _scaling_before(graph, product.inputs[0], layer.weights.shape[0])
        if not found:
            continue
        weights, bias = layer.weights.astype(np.float64), layer.bias.astype(np.float64)
        layer.write(factor[:, None] * weights, bias + offset @ weights, source=source)
        folded += 1
    graph.prune()
    return folded


_FREE_SCALE = 4
"""Powers of two by which a feature may be off without losing more bits than the ring can spare."""


def scale_features(graph: Graph) -> int:
    """Let the data owner multiply each feature by the power of two next to its trained scale.

    A scaler of 1e-5 for an income of 1e5 would be one or two steps of an 18-bit fraction. Multiplying by a
    power of two is exact; the scaler, which stays secret, is then near 1.
    """
    scaled = 0
    for product in list(graph.nodes):
        layer = linear_layer(graph, product)
        if layer is None:
            continue
        columns = layer.weights.shape[0]
        name, factor, _, found = _scaling_before(graph, product.inputs[0], columns)
        own = any(spec.name == name and spec.dtype == "float32" for spec in graph.inputs)
        encoded = any(name in (*step.inputs, *step.outputs) for step in graph.encode)
        if not found or not own or encoded or graph.uses().get(name) != 1:
            continue
        powers = np.round(np.log2(np.where(factor == 0, 1, np.abs(factor)))).astype(int)
        if np.abs(powers).max() > _FREE_SCALE:
            _scale_input(graph, name, powers)
            scaled += 1
    return scaled


def _scale_input(graph: Graph, name: str, powers: NDArray) -> None:
    unscaled = graph.fresh_name(f"{name}.unscaled")
    graph.replace_uses(name, unscaled)
    row = graph.add_constant(f"{unscaled}.factor", (2.0 ** -powers.astype(np.float64)).astype(np.float32))
    graph.nodes.insert(0, Node("Mul", [name, row], [unscaled], version=13))
    graph.shapes[unscaled] = graph.shapes[name]
    factors = [float(2.0**power) for power in powers]
    graph.encode.append(LocalStep("scale", (name,), (name,), {"factor": factors}))
    graph.statements.append(
        f"{name!r}: the data owner multiplies each feature by a power of two next to its trained scale; "
        "these powers are public, so the order of magnitude of each feature's spread in training is."
    )


def _scaling_before(graph: Graph, name: str, columns: int) -> tuple[str, NDArray, NDArray, int]:
    """Walk up from a value: what it is ``factor * value + offset`` of, and over how many nodes."""
    factor, offset, found = np.ones(columns), np.zeros(columns), 0
    producers = {output: node for node in graph.nodes for output in node.outputs if output}
    source, pending = name, 0
    while (node := producers.get(name)) is not None:
        step = _column_step(graph, node, columns)
        if step is None:
            break
        name, step_factor, step_offset = step
        # factor * (step_factor * value + step_offset) + offset
        offset = offset + factor * step_offset
        factor = factor * step_factor
        pending += node.op not in ("Cast", "Identity")
        source, found = name, pending
    return source, factor, offset, found


def _column_step(graph: Graph, node: Node, columns: int) -> tuple[str, NDArray, NDArray] | None:
    """One node as ``factor * value + offset`` by column, or nothing."""
    known = graph.shapes.get(node.outputs[0])
    reads = [name for name in node.inputs if name and name not in graph.constants]
    if node.domain or known is None or len(known[0]) != 2 or known[0][1] != columns or len(reads) != 1:
        return None
    before = graph.shapes.get(reads[0])
    if before is None or before[0] != known[0] or not (before[1] == known[1] == "float32"):
        return None
    one, zero = np.ones(columns), np.zeros(columns)
    if node.op in ("Cast", "Identity"):
        return reads[0], one, zero
    row = _constant_input(graph, node)
    if node.op not in ("Add", "Sub", "Mul", "Div") or not row or not _is_row(graph, row, columns):
        return None
    value = np.broadcast_to(graph.constants[row].reshape(-1).astype(np.float64), (columns,))
    first = node.inputs[0] == row
    if node.op == "Add":
        return reads[0], one, value
    if node.op == "Sub":
        return reads[0], (-one if first else one), (value if first else -value)
    if node.op == "Div" and (first or (value == 0).any()):
        return None
    return reads[0], (value if node.op == "Mul" else 1 / value), zero
