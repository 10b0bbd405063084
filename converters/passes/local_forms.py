"""Which nodes the data owner can compute itself, on values that it reconstructs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from converters.local_steps import LocalStep
from converters.onnx.dtypes import numpy_dtype
from converters.onnx.graph import Graph, Node
from converters.onnx.registry import INTERNAL
from converters.onnx.values import is_public

__all__ = ["is_activation", "is_bijection", "local_step", "private_reads", "shape_of", "softmax_axis"]

Attributes = dict[str, Any]
Form = Callable[[Graph, Node], tuple[str, Attributes] | None]

_ACTIVATIONS = {"Sigmoid", "Tanh", "Exp", "Softplus", "Elu", "Selu", "Celu", "LeakyRelu"}
_SOFTMAXES = {"Softmax": "softmax", "LogSoftmax": "log_softmax"}
_BY_SHAPE = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_NO_CHANGE = {"Identity", "Dropout"}


def shape_of(graph: Graph, name: str) -> tuple[int | None, ...] | None:
    """The recorded shape; None in it is the batch. Nothing where it is not known."""
    known = graph.shapes.get(name)
    return known[0] if known is not None else None


def softmax_axis(graph: Graph, node: Node) -> int | None:
    """The one axis that a softmax sums over, counted from the back, or nothing if there are several."""
    shape = shape_of(graph, node.inputs[0])
    if shape is None or not shape:
        return None
    last = len(shape) - 1
    axis = int(node.attrs.get("axis", -1 if node.version >= 13 else 1)) % len(shape)
    if node.version < 13 and axis != last:
        return None  # up to opset 12, all dimensions from the axis on are one
    return axis - len(shape)


def private_reads(graph: Graph, node: Node) -> list[str]:
    """Inputs of the node that are not constants."""
    return [name for name in node.reads if name not in graph.constants]


def is_activation(graph: Graph, node: Node) -> bool:
    """Whether the node costs much under MPC and tells its input (a softmax: its input minus a number)."""
    if (node.domain, node.op) == (INTERNAL, "PairProbabilities"):
        return True
    if node.domain or local_step(graph, node) is None:
        return False
    if node.op in _SOFTMAXES:
        return True
    if node.op in ("Elu", "Selu", "Celu", "LeakyRelu"):
        # Not invertible for other parameters: x and alpha * x would be mixed up.
        return float(node.attrs.get("alpha", 1.0)) > 0 and float(node.attrs.get("gamma", 1.0)) > 0
    return node.op in _ACTIVATIONS


def is_bijection(graph: Graph, node: Node) -> bool:
    """Whether the node's output tells its input exactly, and costs next to nothing under MPC."""
    if local_step(graph, node) is None or node.domain:
        return False
    if node.op == "Cast":
        return _is_float(graph, node.outputs[0])
    if node.op == "Concat":
        return all(name not in graph.constants for name in node.inputs)
    return node.op in (_BY_SHAPE | _NO_CHANGE | {"Transpose", "Neg", "Add", "Sub", "Mul", "Div"})


def local_step(graph: Graph, node: Node) -> LocalStep | None:
    """The node as a step at the data owner, or nothing if there is none.

    Secret constants are in no step: a step travels in the manifest.
    """
    form = _FORMS.get((node.domain, node.op))
    found = form(graph, node) if form is not None else None
    if found is None or (len(node.outputs) > 1 and any(node.outputs[1:])):
        return None
    name, attrs = found
    return LocalStep(name, tuple(private_reads(graph, node)), (node.outputs[0],), attrs)


def _is_float(graph: Graph, name: str) -> bool:
    known = graph.shapes.get(name)
    return known is not None and known[1].startswith("float")


def _named(name: str) -> Form:
    return lambda graph, node: (name, {})


def _softmax(graph: Graph, node: Node) -> tuple[str, Attributes] | None:
    axis = softmax_axis(graph, node)
    return None if axis is None else (_SOFTMAXES[node.op], {"axis": axis})


def _by_shape(graph: Graph, node: Node) -> tuple[str, Attributes] | None:
    if node.inputs[0] in graph.constants or any(name not in graph.constants for name in node.inputs[1:]):
        return None
    after = shape_of(graph, node.outputs[0])
    if after is not None:
        wanted = [-1 if dim is None else dim for dim in after]
    elif node.op == "Reshape" and node.version >= 5:
        wanted = [int(dim) for dim in graph.constants[node.inputs[1]].reshape(-1)]
    else:
        return None
    return None if wanted.count(-1) > 1 or 0 in wanted else ("reshape", {"shape": wanted})


def _transpose(graph: Graph, node: Node) -> tuple[str, Attributes] | None:
    shape = shape_of(graph, node.inputs[0])
    if shape is None:
        return None
    return "transpose", {"perm": list(node.attrs.get("perm") or range(len(shape))[::-1])}


def _concat(graph: Graph, node: Node) -> tuple[str, Attributes] | None:
    if any(name in graph.constants for name in node.inputs) or len(set(node.inputs)) < len(node.inputs):
        return None
    return "concat", {"axis": int(node.attrs.get("axis", 1))}


def _cast(graph: Graph, node: Node) -> tuple[str, Attributes] | None:
    if _is_float(graph, node.inputs[0]) and _is_float(graph, node.outputs[0]):
        return "identity", {}
    try:
        return "cast", {"dtype": numpy_dtype(int(node.attrs["to"])).name}
    except Exception:  # a type that does not exist here: the tracer will say so
        return None


def public_scalar(graph: Graph, name: str) -> float | None:
    """The number, if it may be public: it has a short closed form, or it is the 1 of ``1 - p``."""
    value = graph.constants.get(name)
    if value is None or value.size != 1 or value.dtype.kind != "f" or name in graph.derived:
        return None
    number = float(value.reshape(()))
    if value.ndim and number != 1.0:
        return None
    return number if np.isfinite(number) and is_public(value.reshape(())) else None


def _affine(graph: Graph, node: Node) -> tuple[str, Attributes] | None:
    left, right = (public_scalar(graph, name) for name in node.inputs[:2])
    number = left if right is None else right
    if number is None or (left is not None) == (right is not None) or not _keeps_shape(graph, node):
        return None
    if node.op == "Add":
        return "scale", {"offset": number}
    if node.op == "Sub":
        return "scale", {"offset": -number} if left is None else {"factor": -1.0, "offset": number}
    if number == 0 or (node.op == "Div" and left is not None):
        return None
    return "scale", {"factor": number if node.op == "Mul" else 1.0 / number}


def _keeps_shape(graph: Graph, node: Node) -> bool:
    (read,) = private_reads(graph, node) or [""]
    shape = shape_of(graph, read)
    return shape is not None and shape == shape_of(graph, node.outputs[0]) and _is_float(graph, read)


def _arg(name: str) -> Form:
    def form(graph: Graph, node: Node) -> tuple[str, Attributes] | None:
        if node.attrs.get("select_last_index", 0):
            return None
        return name, {
            "axis": int(node.attrs.get("axis", 0)),
            "keepdims": bool(node.attrs.get("keepdims", 1)),
        }

    return form


def _elu(graph: Graph, node: Node) -> tuple[str, Attributes] | None:
    if node.op == "Selu":
        alpha, gamma = node.attrs.get("alpha", 1.67326319217681884), node.attrs.get("gamma", 1.05070102214813)
        return "elu", {"alpha": float(alpha), "gamma": float(gamma)}
    return "elu", {"alpha": float(node.attrs.get("alpha", 1.0))}


def _celu(graph: Graph, node: Node) -> tuple[str, Attributes] | None:
    return ("elu", {}) if float(node.attrs.get("alpha", 1.0)) == 1.0 else None


def _leaky_relu(graph: Graph, node: Node) -> tuple[str, Attributes] | None:
    return "leaky_relu", {"alpha": float(node.attrs.get("alpha", 0.01))}


def _take(graph: Graph, node: Node) -> tuple[str, Attributes] | None:
    indices = graph.constants.get(node.inputs[1])
    if indices is None or indices.dtype.kind != "i" or indices.ndim != 1 or node.inputs[1] in graph.derived:
        return None
    axis = int(node.attrs.get("axis", 0)) if node.op == "Gather" else -1
    return "take", {"indices": [int(index) for index in indices], "axis": axis}


def _greater(graph: Graph, node: Node) -> tuple[str, Attributes] | None:
    threshold = public_scalar(graph, node.inputs[1])
    return (
        None
        if threshold is None or node.inputs[0] in graph.constants
        else (
            "greater",
            {"threshold": threshold},
        )
    )


def _lookup(graph: Graph, node: Node) -> tuple[str, Attributes] | None:
    return "lookup", {"table": list(node.attrs["table"])}


_FORMS: dict[tuple[str, str], Form] = {
    ("", "Identity"): _named("identity"),
    ("", "Dropout"): lambda graph, node: ("identity", {}) if len(node.inputs) == 1 else None,
    **{("", name): _by_shape for name in _BY_SHAPE},
    **{("", name): _affine for name in ("Add", "Sub", "Mul", "Div")},
    ("", "Sigmoid"): _named("sigmoid"),
    ("", "Tanh"): _named("tanh"),
    ("", "Exp"): _named("exp"),
    ("", "Softplus"): _named("softplus"),
    ("", "Softmax"): _softmax,
    ("", "LogSoftmax"): _softmax,
    ("", "Elu"): _elu,
    ("", "Selu"): _elu,
    ("", "Celu"): _celu,
    ("", "LeakyRelu"): _leaky_relu,
    ("", "Neg"): lambda graph, node: ("scale", {"factor": -1.0}) if _keeps_shape(graph, node) else None,
    ("", "Transpose"): _transpose,
    ("", "Concat"): _concat,
    ("", "Cast"): _cast,
    ("", "ArgMax"): _arg("argmax"),
    ("", "ArgMin"): _arg("argmin"),
    ("", "Gather"): _take,
    ("ai.onnx.ml", "ArrayFeatureExtractor"): _take,
    ("", "Greater"): _greater,
    (INTERNAL, "Lookup"): _lookup,
    (INTERNAL, "PairProbabilities"): _named("pair_probabilities"),
    (INTERNAL, "ClassRow"): lambda graph, node: ("reshape", {"shape": [1, -1]}),
}
