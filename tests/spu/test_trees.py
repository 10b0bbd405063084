"""Tree ensembles under SPU: decisions are those of floats, in every formulation and protocol."""

import numpy as np
import onnxruntime
import pytest
from lightgbm import LGBMRegressor
from onnxmltools.convert import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from converters import from_onnx
from secure_runner.testing import simulate


@pytest.fixture(scope="module")
def trained():
    """Trees on features of the order 1e-3, among them zeros, which are ties with thresholds of 1e-35."""
    rng = np.random.default_rng(0)
    rows = (1e-3 * rng.normal(size=(300, 4)) * rng.integers(0, 2, (300, 4))).astype(np.float32)
    target = np.sign(rows[:, 0]) + 1e3 * rows[:, 1]
    model = LGBMRegressor(n_estimators=6, num_leaves=12, verbose=-1, n_jobs=1).fit(rows, target)
    proto = convert_lightgbm(model, initial_types=[("X", FloatTensorType([None, 4]))])
    return (
        proto,
        rows[:24],
        onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"X": rows[:24]})[0],
    )


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        ("aby3", {"tree_formulation": "boolean"}),
        ("aby3", {"tree_formulation": "level"}),
        ("semi2k", {"tree_formulation": "mux"}),
        ("semi2k", {"tree_topology": "public"}),
        ("cheetah", {"tree_formulation": "boolean"}),
    ],
)
def test_small_features_and_ties_flip_no_decision(trained, protocol, options):
    """The sums of leaves are exact to the ring's resolution: one flipped decision would show."""
    proto, rows, expected = trained
    model = from_onnx(proto, **options)
    (found,) = simulate(model, rows, protocol=protocol)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_trees_hidden_by_matrices_of_paths_decide_alike(trained, monkeypatch):
    """The same trees where padding is not allowed to grow them."""
    monkeypatch.setattr("converters.trees.layout._LARGEST_PADDING", 0)
    proto, rows, expected = trained
    model = from_onnx(proto)
    assert model.report.ops["HiddenTrees"] == 1
    np.testing.assert_allclose(simulate(model, rows)[0], expected, atol=1e-4)
