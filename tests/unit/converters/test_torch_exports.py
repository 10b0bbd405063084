"""Torch models from both exporters, compared with torch's own outputs.

``tests/fixtures/export_torch_models.py`` made the files, with torch 2.13.
"""

from pathlib import Path

import jax
import numpy as np
import pytest

from converters import from_onnx

FOLDER = Path(__file__).parents[2] / "fixtures" / "torch"
APPROXIMATE = {"gelu_polynomial": False}
"""The one rewrite that changes numbers; the others are on."""


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.onnx")), ids=lambda path: path.stem)
def test_exports_agree_with_torch(path):
    """Every model of both exporters gives torch's outputs within 1e-4, at another batch size, too.

    What of a file's floats is public are single numbers: factors of attention, bounds, masks.
    """
    data = np.load(FOLDER / f"{path.stem.split('-')[0]}.npz")
    inputs = [data[name] for name in data.files if name != "output"]
    model = from_onnx(path, rewrites=APPROXIMATE)
    assert all(spec.shape[0] is None for spec in model.inputs + model.outputs)
    predict = jax.jit(model.predict)
    np.testing.assert_allclose(predict(model.params, *inputs)[0], data["output"], atol=1e-4)
    one = predict(model.params, *(array[:1] for array in inputs))[0]
    np.testing.assert_allclose(one, data["output"][:1], atol=1e-4)
    floats = [entry for entry in model.report.public_constants if "float" in entry]
    assert all(entry.endswith("float32[]") for entry in floats)
