"""An ONNX network whose weights lie beside it, in a file larger than a protobuf message can be.

``python -m benchmarks.large_model DIRECTORY LAYERS WIDTH`` writes ``large.onnx``, ``weights.bin``, some
``rows.npy`` and, in ``expected.npy``, what onnxruntime says of them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

__all__ = ["ROWS", "write_model"]

ROWS = 4


def write_model(directory: Path, layers: int, width: int) -> None:
    """Dense layers of one width with ReLU between them, and one output; random weights of He's scale."""
    draw = np.random.default_rng(0)
    nodes, tensors, value = [], [], "rows"
    with (directory / "weights.bin").open("wb") as file:
        for layer in range(layers):
            outputs = 1 if layer == layers - 1 else width
            weight = draw.standard_normal((width, outputs), np.float32) * np.float32(np.sqrt(2 / width))
            bias = draw.standard_normal(outputs, np.float32) / 10
            for name, array in ((f"weight_{layer}", weight), (f"bias_{layer}", bias)):
                tensors.append(_external(name, array.shape, file.tell(), array.nbytes))
                file.write(array.data)
            inputs = [value, f"weight_{layer}", f"bias_{layer}"]
            value = f"dense_{layer}"
            nodes.append(helper.make_node("Gemm", inputs, [value]))
            if layer < layers - 1:
                nodes.append(helper.make_node("Relu", [value], [f"relu_{layer}"]))
                value = f"relu_{layer}"
    given = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", width])
    wanted = helper.make_tensor_value_info(value, TensorProto.FLOAT, ["n", 1])
    graph = helper.make_graph(nodes, "large", [given], [wanted], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    (directory / "large.onnx").write_bytes(model.SerializeToString())
    np.save(directory / "rows.npy", draw.standard_normal((ROWS, width), np.float32))


def write_expected(directory: Path) -> None:
    """What onnxruntime says of the rows."""
    import onnxruntime

    session = onnxruntime.InferenceSession(directory / "large.onnx")
    (outputs,) = session.run(None, {"rows": np.load(directory / "rows.npy")})
    np.save(directory / "expected.npy", outputs)


def _external(name: str, shape: tuple[int, ...], offset: int, length: int) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


if __name__ == "__main__":
    write_model(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    write_expected(Path(sys.argv[1]))
