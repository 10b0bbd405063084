"""Ordinary nodes for what follows a classifier's raw scores, so that rewrites see them."""

from __future__ import annotations

from typing import Any

import numpy as np

from converters.onnx.graph import Graph, Node
from converters.onnx.registry import INTERNAL

__all__ = ["Tail"]

_OPSET = 13


class Tail:
    """Nodes of ai.onnx that follow what takes the place of ``node``."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph = graph
        self.node = node
        self.stem = next(name for name in reversed(node.outputs) if name)
        self.nodes: list[Node] = []

    def value(self, part: str) -> str:
        """A free name."""
        taken = {output for node in self.nodes for output in node.outputs}
        stem = f"{self.stem}.{part}"
        name, number = self.graph.fresh_name(stem), 1
        while name in taken:
            name, number = f"{stem}_{number}", number + 1
        return name

    def constant(self, value: Any) -> str:
        """A public number."""
        return self.graph.add_constant(f"{self.stem}.constant", np.asarray(value))

    def add(self, op: str, inputs: list[str], output: str = "", **attrs: Any) -> str:
        """Append a node of ai.onnx and return its output."""
        output = output or self.value(op.lower())
        self.nodes.append(Node(op, inputs, [output], attrs, version=_OPSET, name=self.node.name))
        return output

    def transformed(self, raw: str, transform: str, output: str) -> None:
        """``output`` from raw scores by the standard's ``post_transform``."""
        ops = {"NONE": "Identity", "LOGISTIC": "Sigmoid"}
        if transform in ops:
            self.add(ops[transform], [raw], output)
        elif transform == "SOFTMAX":
            self.add("Softmax", [raw], output, axis=-1)
        else:
            attrs = {"transform": transform}
            self.nodes.append(
                Node("PostTransform", [raw], [output], attrs, domain=INTERNAL, name=self.node.name)
            )
