"""ModelProto or file -> `Graph`.

Names become unique over all subgraphs, initializers and Constant nodes become entries of one table, trained
attributes (ai.onnx.ml) become constants too, and functions that the file defines are inlined.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, external_data_helper, inliner, numpy_helper

from converters.errors import ModelFileError
from converters.onnx.graph import Graph, NDArray, Node
from converters.onnx.registry import domain_name, find
from converters.onnx.values import constant_value

__all__ = ["load_graph", "load_model"]

Path_ = str | os.PathLike[str]


def load_model(source: Path_ | onnx.ModelProto) -> onnx.ModelProto:
    """Read a model, its external data included if that lies inside the model's own folder.

    Raises:
        ModelFileError: not an ONNX file, or external data outside the folder or missing.
    """
    if isinstance(source, onnx.ModelProto):
        if next(_external_tensors(source), None) is not None:
            raise ModelFileError(
                "this ModelProto refers to external data: pass the path of its file instead."
            )
        return _inlined(source)
    path = Path(source)
    if not path.is_file():
        raise ModelFileError(f"there is no model file {str(path)!r}.")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ModelFileError(f"{str(path)!r} is not an ONNX model: {type(error).__name__}.") from error
    if not model.graph.output:
        raise ModelFileError(f"{str(path)!r} is not an ONNX model: it has no output.")
    folder = path.resolve().parent
    for tensor in _external_tensors(model):
        _check_location(tensor, folder)
    try:
        external_data_helper.load_external_data_for_model(model, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelFileError(
            f"external data of {str(path)!r} cannot be read: {type(error).__name__}."
        ) from error
    return _inlined(model)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    return inliner.inline_local_functions(model) if model.functions else model


def _external_tensors(model: onnx.ModelProto) -> Any:
    for tensor in external_data_helper._get_all_tensors(model):
        if external_data_helper.uses_external_data(tensor):
            yield tensor


def _check_location(tensor: onnx.TensorProto, folder: Path) -> None:
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    target = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not target.is_relative_to(folder):
        raise ModelFileError(
            f"tensor {tensor.name!r} is stored in {location!r}, outside the model's folder; that is refused. "
            "Move the data next to the model file and save the model again."
        )
    if not target.is_file():
        raise ModelFileError(f"tensor {tensor.name!r} is stored in {location!r}, which is not there.")


def load_graph(model: onnx.ModelProto) -> Graph:
    """The graph of a model, without its inputs' shapes, which `converters.onnx.inputs` resolves."""
    opsets = {domain_name(entry.domain): entry.version for entry in model.opset_import}
    graph = Graph(nodes=[], inputs=[], outputs=[], opsets=opsets)
    reader = _Reader(graph)
    reader.fill(graph, model.graph, scope={}, formal_inputs=False)
    graph.received = list(graph.outputs)
    return graph


class _Reader:
    def __init__(self, root: Graph) -> None:
        self.root = root
        self.taken: set[str] = set()
        self.index = 0

    def fill(
        self, graph: Graph, proto: onnx.GraphProto, scope: dict[str, str], *, formal_inputs: bool
    ) -> None:
        """Read one graph. ``scope`` gives the flat name of each name of the graphs around it."""
        scope = dict(scope)
        for tensor in proto.initializer:
            self.constant(scope, tensor.name, numpy_helper.to_array(tensor))
        for sparse in proto.sparse_initializer:
            self.constant(scope, sparse.values.name, _dense(sparse))
        for value in proto.input:
            if value.name in scope and scope[value.name] in self.root.constants:
                continue  # IR version 3 lists initializers among the inputs
            name = self.define(scope, value.name)
            if formal_inputs:
                graph.inputs.append(_formal(name))
        for node in proto.node:
            self.node(graph, node, scope)
        graph.outputs = [scope.get(value.name, value.name) for value in proto.output]

    def define(self, scope: dict[str, str], name: str) -> str:
        flat, number = name, 1
        while flat in self.taken:
            flat, number = f"{name}__{number}", number + 1
        self.taken.add(flat)
        scope[name] = flat
        return flat

    def constant(self, scope: dict[str, str], name: str, value: NDArray) -> None:
        self.root.constants[self.define(scope, name)] = value

    def node(self, graph: Graph, proto: onnx.NodeProto, scope: dict[str, str]) -> None:
        index, self.index = self.index, self.index + 1
        domain = domain_name(proto.domain)
        if proto.op_type == "Constant" and not domain:
            self.constant(scope, proto.output[0], constant_value(proto))
            return
        inputs = [scope.get(name, name) for name in proto.input]
        attrs = {attribute.name: self.attribute(attribute, scope) for attribute in proto.attribute}
        node = Node(
            op=proto.op_type,
            inputs=inputs,
            outputs=[self.define(scope, name) if name else "" for name in proto.output],
            attrs=attrs,
            domain=domain,
            version=self.root.opsets.get(domain, 1),
            name=proto.name or f"node {index}",
        )
        self.lift(node)
        graph.nodes.append(node)

    def attribute(self, attribute: AttributeProto, scope: dict[str, str]) -> Any:
        if attribute.type == AttributeProto.GRAPH:
            subgraph = Graph([], [], [], constants=self.root.constants, opsets=self.root.opsets)
            self.fill(subgraph, attribute.g, scope, formal_inputs=True)
            return subgraph
        return attribute_value(attribute)

    def lift(self, node: Node) -> None:
        spec = find(node.domain, node.op, node.version)
        if spec is None or spec.lift is None:
            return
        node.attrs, arrays = spec.lift(node.attrs)
        for keyword, array in arrays.items():
            name = f"{node.outputs[0]}.{keyword}"
            self.taken.add(name)
            self.root.constants[name] = array
            node.weights[keyword] = name


def attribute_value(attribute: AttributeProto) -> Any:
    """An attribute as a Python value: numbers, strings, tuples of them, or a numpy array."""
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, onnx.SparseTensorProto):
        return _dense(value)
    if isinstance(value, (list, tuple)) or (hasattr(value, "__len__") and not isinstance(value, str)):
        return tuple(item.decode() if isinstance(item, bytes) else item for item in value)
    return value


def _dense(sparse: onnx.SparseTensorProto) -> NDArray:
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def _formal(name: str) -> Any:
    from converters.model import TensorSpec

    return TensorSpec(name, "", ())
