"""``secure-runner import`` and ``inspect``, as they are typed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def run(home: Path, *arguments: str) -> str:
    """The command's output; it must succeed."""
    command = [str(Path(sys.executable).parent / "secure-runner"), *arguments]
    environment = os.environ | {"BENTOML_HOME": str(home), "COLUMNS": "200"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_samples_are_run_under_the_protocol_and_compared(tmp_path: Path) -> None:
    """Import tells how far secure answers are from onnxruntime's; inspect shows the program."""
    weights = np.array([[0.5, -1.25], [2.0, 0.75], [-0.3, 1.1]], np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Sigmoid", ["z"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])],
        [numpy_helper.from_array(weights, "w")],
    )
    # A format version that the installed onnxruntime reads.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "small.onnx"))
    np.save(tmp_path / "samples.npy", np.random.default_rng(3).normal(size=(8, 3)).astype(np.float32))
    home = tmp_path / "bentoml"
    home.mkdir()
    said = run(
        home,
        *("import", str(tmp_path / "small.onnx"), "--protocol", "aby3", "--batch-size", "1"),
        *("--calibration", str(tmp_path / "samples.npy")),
    )
    assert "on 8 rows under aby3, against onnxruntime" in said
    assert "program  small:" in said
    shown = run(home, "inspect", "small:latest")
    assert "x float32[rows, 3]" in shown
    assert "Sigmoid is invertible" in shown
