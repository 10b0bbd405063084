"""Torch exports under ABY3, all parties in one process, compared with torch's own outputs."""

from pathlib import Path

import numpy as np
import pytest

from converters import from_onnx
from secure_runner.testing import simulate

FOLDER = Path(__file__).parents[1] / "fixtures" / "torch"
TOLERANCE = 5e-3
"""Of the largest output; SPU's tanh is off by as much."""


@pytest.mark.parametrize(
    "name",
    [
        "mlp-dynamo",
        "lenet-legacy",
        "lstm-dynamo",
        "gru-legacy",
        "bert-dynamo",
        "gpt2-legacy",
        "vit-dynamo",
        "mobilenetv2-legacy",
        "resnet18-dynamo",
    ],
)
def test_secure_outputs_agree_with_torch(name):
    """Each kind of network gives torch's output for one row, with inputs and weights secret."""
    data = np.load(FOLDER / f"{name.split('-')[0]}.npz")
    rows = [data[key][:1] for key in data.files if key != "output"]
    expected = data["output"][:1]
    (found,) = simulate(from_onnx(FOLDER / f"{name}.onnx"), *rows)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE * max(np.abs(expected).max(), 0.1))
