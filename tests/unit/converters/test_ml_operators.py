"""Operators of ai.onnx.ml apart from trees: what the data owner does, what stays secret, what is refused."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from converters import UnsupportedModelError, from_onnx

sys.path.insert(0, str(Path(__file__).parents[2] / "conformance"))
import suite

CASES = sorted(path.name for path in (suite.DATA / "node").glob("test_ai_onnx_ml_*"))


def _model(nodes, inputs, output=TensorProto.FLOAT):
    values = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs]
    last = helper.make_tensor_value_info(nodes[-1].output[0], output, None)
    graph = helper.make_graph(nodes, "model", values, [last])
    opsets = [helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _node(op, inputs, outputs, **attrs):
    return helper.make_node(op, inputs, outputs, domain="ai.onnx.ml", **attrs)


def _agrees(proto, feeds, atol=1e-6):
    (expected,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feeds)
    model = from_onnx(proto)
    (found,) = model.predict(model.params, *(feeds[spec.name] for spec in model.inputs))
    if expected.dtype.kind in "OU":
        assert (found == expected).all()
    else:
        np.testing.assert_allclose(found, expected, atol=atol)
    return model


def test_the_suite_holds_eight_cases():
    """So that a case that is added is seen."""
    assert len(CASES) == 8


@pytest.mark.parametrize("name", CASES)
def test_every_case_of_the_backend_suite_passes(name):
    """Strings included, which the data owner maps before anything is shared."""
    assert suite.run(suite.Case(f"node/{name}")) == ""


def test_missing_values_are_marked_by_the_data_owner_and_imputed_under_mpc():
    """The mark is a second private input; what is imputed is a param."""
    imputer = _node(
        "Imputer", ["X"], ["Y"], imputed_value_floats=[0.25, -7.5], replaced_value_float=float("nan")
    )
    rows = np.array([[np.nan, 1], [2, np.nan], [3, 4]], np.float32)
    model = _agrees(_model([imputer], [("X", TensorProto.FLOAT, [None, 2])]), {"X": rows})
    assert [(spec.name, spec.dtype) for spec in model.private_inputs] == [
        ("X.filled", "float32"),
        ("X.missing", "int32"),
    ]
    assert [value.tolist() for value in model.params.values()] == [[0.25, -7.5]]
    assert any("missing" in line for line in model.report.statements)


def test_a_number_can_mark_missing_values():
    """As older pipelines do."""
    imputer = _node("Imputer", ["X"], ["Y"], imputed_value_floats=[0.5], replaced_value_float=-1.0)
    rows = np.array([[-1, 1], [2, -1]], np.float32)
    _agrees(_model([imputer], [("X", TensorProto.FLOAT, [None, 2])]), {"X": rows})


def test_an_input_that_is_also_used_unimputed_keeps_its_missing_values():
    """A missing value never silently becomes a 0 that somebody reads."""
    nodes = [
        _node("Imputer", ["X"], ["Y"], imputed_value_floats=[1.0], replaced_value_float=-1.0),
        helper.make_node("Add", ["X", "Y"], ["Z"]),
    ]
    rows = np.array([[-1, 1], [2, -1]], np.float32)
    _agrees(_model(nodes, [("X", TensorProto.FLOAT, [None, 2])]), {"X": rows})


def test_trained_numbers_of_categories_stay_secret():
    """Target encoding: the data owner sends which category it is, the model owner's numbers are params."""
    encoder = _node(
        "LabelEncoder", ["X"], ["Y"], keys_strings=["a", "b"], values_floats=[0.125, -3.5], default_float=9.0
    )
    rows = np.array([["b"], ["a"], ["?"]], dtype=object)
    model = _agrees(_model([encoder], [("X", TensorProto.STRING, [None, 1])]), {"X": rows})
    assert model.private_inputs[0].shape == (None, 1, 2)
    assert "3.5" not in str(model.encode)


def test_numbers_inside_the_model_are_mapped_by_comparison():
    """Where the data owner cannot do it, the keys and the values are params."""
    nodes = [
        helper.make_node("Abs", ["X"], ["A"]),
        _node(
            "LabelEncoder", ["A"], ["Y"], keys_floats=[1.0, 2.0], values_floats=[7.5, 8.5], default_float=-1.0
        ),
    ]
    rows = np.array([[-1, 2, 5]], np.float32)
    model = _agrees(_model(nodes, [("X", TensorProto.FLOAT, [None, 3])]), {"X": rows})
    assert not model.encode
    assert len(model.params) == 3


def test_strings_that_come_out_are_looked_up_by_the_data_owner():
    """Also when the classes are not numbered from 0."""
    encoder = _node(
        "LabelEncoder", ["A"], ["Y"], keys_int64s=[3, 5], values_strings=["no", "yes"], default_string="?"
    )
    nodes = [helper.make_node("Abs", ["X"], ["A"]), encoder]
    proto = _model(nodes, [("X", TensorProto.INT64, [None])], TensorProto.STRING)
    model = _agrees(proto, {"X": np.array([-5, 3, 4])})
    assert [step.op for step in model.decode] == ["lookup"]


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_rows_are_normalized_as_onnxruntime_does(norm):
    """Rows of zeros stay zeros, and the largest value keeps its sign."""
    rows = np.array([[1, -3, 2], [0, 0, 0], [-1, -2, -3], [1e-3, 2e-3, 0]], np.float32)
    _agrees(
        _model([_node("Normalizer", ["X"], ["Y"], norm=norm)], [("X", TensorProto.FLOAT, [None, 3])]),
        {"X": rows},
    )


def test_strings_for_the_model_itself_are_refused_with_a_remedy():
    """The error names the node, the input and what to do."""
    nodes = [helper.make_node("Equal", ["X", "X"], ["Y"], name="same")]
    with pytest.raises(UnsupportedModelError, match=r"same: Equal.*strings of X.*LabelEncoder"):
        from_onnx(_model(nodes, [("X", TensorProto.STRING, [None, 1])], TensorProto.BOOL))


def test_dictionaries_are_refused_with_a_remedy():
    """DictVectorizer has no fixed input."""
    vectorizer = _node("DictVectorizer", ["X"], ["Y"], string_vocabulary=["a", "b"])
    with pytest.raises(UnsupportedModelError, match="without DictVectorizer"):
        from_onnx(_model([vectorizer], [("X", TensorProto.FLOAT, [None, 2])]))
