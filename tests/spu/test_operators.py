"""Operators under SPU's real protocols, all parties in one process; `operators.py` makes the full table."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters import from_onnx
from secure_runner.testing import simulate

_SPEC = importlib.util.spec_from_file_location("operators", Path(__file__).with_name("operators.py"))
operators = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(operators)

SAMPLE = (
    "Conv",
    "MaxPool",
    "Softmax",
    "LayerNormalization",
    "LSTM",
    "ArgMax",
    "TopK",
    "Gather",
    "Where",
    "Gelu",
)
"""Operators of every theme."""
SAMPLES = {"aby3": SAMPLE, "semi2k": SAMPLE, "cheetah": ("Conv", "Softmax", "ArgMax", "Where")}
"""A run of cheetah takes seconds, whatever the operator."""


def _verdicts(tasks):
    return {
        (name, protocol): operators.verdict(name, result)
        for (name, _, protocol), result in operators.run(tasks)
    }


@pytest.mark.timeout(600)
@pytest.mark.parametrize("protocol", ["aby3", "semi2k", "cheetah"])
def test_sampled_operators_agree_with_the_suite(protocol):
    """One operator of every theme gives the suite's outputs within its stated tolerance."""
    chosen = operators.choose()
    found = _verdicts([(name, chosen[name], protocol) for name in SAMPLES[protocol]])
    assert {key for key, verdict in found.items() if verdict != "works"} == set()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("protocol", ["aby3", "semi2k", "cheetah"])
def test_every_operator_agrees_with_the_suite(protocol):
    """Every operator that the suite holds alone works under every protocol."""
    found = _verdicts([(name, case, protocol) for name, case in operators.choose().items()])
    assert {key: verdict for key, verdict in found.items() if verdict != "works"} == {}


def test_the_page_lists_every_operator():
    """``python tests/spu/operators.py`` writes the page anew after an operator was added."""
    rows = [line.split(" | ")[0].removeprefix("| ") for line in operators.PAGE.read_text().splitlines()]
    assert set(operators.choose()) <= set(rows)


def test_a_transposed_public_mask_keeps_its_order():
    """SPU drops the layout that XLA gives to a transposed constant; the converter transposes before."""
    mask = np.array([[1, 0, 0, 1, 0], [0, 1, 1, 1, 0], [1, 1, 0, 1, 1]], bool)
    nodes = [
        helper.make_node("Shape", ["x"], ["width"], start=1),
        helper.make_node("Slice", ["mask", "zero", "width", "axis"], ["narrow"]),
        helper.make_node("Transpose", ["narrow"], ["turned"]),
        helper.make_node("Where", ["turned", "x", "none"], ["y"]),
    ]
    constants = {"mask": mask, "zero": np.array([0]), "axis": np.array([0]), "none": np.float32(0)}
    graph = helper.make_graph(
        nodes,
        "masked",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 2])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    features = np.arange(1, 11, dtype=np.float32).reshape(5, 2)
    (found,) = simulate(from_onnx(helper.make_model(graph)), features)
    np.testing.assert_allclose(found, np.where(mask[:2].T, features, 0), atol=1e-4)
