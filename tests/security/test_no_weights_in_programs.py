"""Trained values are arguments of a program, never part of it, wherever the file hides them."""

import jax
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters import UnsupportedModelError, from_onnx

PLANTED = np.array([0.7310421, -1.2345678, 2.7181281, -0.5772157], np.float32)
"""Values that no converter would write by itself."""


def _model(nodes, initializers=(), opset=17, domains=(), outputs=("y",), dtype=TensorProto.FLOAT):
    graph = helper.make_graph(
        list(nodes),
        "planted",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in initializers],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 3) for name in domains)]
    return helper.make_model(graph, opset_imports=opsets)


def _in_initializer(weights):
    return _model([helper.make_node("Mul", ["x", "w"], ["y"])], [("w", weights)])


def _in_constant_node(weights):
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weights))
    return _model([constant, helper.make_node("Mul", ["x", "w"], ["y"])])


def _in_list_attribute(weights):
    constant = helper.make_node("Constant", [], ["w"], value_floats=weights.tolist())
    return _model([constant, helper.make_node("Add", ["x", "w"], ["y"])])


def _in_static_branch(weights):
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weights))
    outputs = [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)]
    taken = helper.make_graph([constant, helper.make_node("Mul", ["x", "w"], ["b"])], "then", [], outputs)
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["b"])], "else", [], outputs)
    branch = helper.make_node("If", ["c"], ["y"], then_branch=taken, else_branch=other)
    return _model([branch], [("c", np.array(True))])


def _in_branch_that_a_shape_decides(weights):
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weights))
    outputs = [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)]
    taken = helper.make_graph([constant, helper.make_node("Mul", ["x", "w"], ["b"])], "then", [], outputs)
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["b"])], "else", [], outputs)
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], start=1, end=2),
        helper.make_node("Squeeze", ["s"], ["width"]),
        helper.make_node("Equal", ["width", "four"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=taken, else_branch=other),
    ]
    return _model(nodes, [("four", np.array(4))])


def _in_ml_attribute(weights):
    node = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=weights.tolist(), scale=[1.0])
    return _model([node], domains=["ai.onnx.ml"])


def _in_linear_classifier(weights):
    node = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "y"],
        domain="ai.onnx.ml",
        coefficients=[*weights.tolist(), *(-weights).tolist()],
        intercepts=[float(weights[0]), float(weights[1])],
        classlabels_ints=[0, 1],
        post_transform="SOFTMAX",
    )
    return _model([node], domains=["ai.onnx.ml"])


def _behind_arithmetic(weights):
    nodes = [helper.make_node("Sqrt", ["square"], ["root"]), helper.make_node("Div", ["x", "root"], ["y"])]
    return _model(nodes, [("square", weights**2)])


def _trained_scalar(weights):
    return _model([helper.make_node("Mul", ["x", "w"], ["y"])], [("w", np.array(weights[0]))])


PLACES = [
    _in_initializer,
    _in_constant_node,
    _in_list_attribute,
    _in_static_branch,
    _in_branch_that_a_shape_decides,
    _in_ml_attribute,
    _in_linear_classifier,
    _behind_arithmetic,
    _trained_scalar,
]


def _lowered(model):
    inputs = [jax.ShapeDtypeStruct(spec.with_batch(2), spec.dtype) for spec in model.private_inputs]
    return jax.jit(model.private_predict).lower(model.params, *inputs).as_text()


def _jaxpr(model):
    inputs = [jax.ShapeDtypeStruct(spec.with_batch(2), spec.dtype) for spec in model.private_inputs]
    return jax.make_jaxpr(model.private_predict)(model.params, *inputs)


@pytest.mark.parametrize("place", PLACES)
def test_planted_weights_are_params_and_nothing_else(place):
    """No planted value is a constant of the traced function or in the text of the lowered program."""
    model = from_onnx(place(PLANTED))
    planted = {float(value) for value in np.concatenate([np.abs(PLANTED), PLANTED**2])}
    held = {round(abs(float(v)), 6) for array in model.params.values() for v in np.ravel(array)}
    assert held, "the weights are nowhere"
    closed = _jaxpr(model)
    assert all(
        np.shape(constant) == () or np.asarray(constant).dtype.kind != "f" for constant in closed.consts
    )
    text = _lowered(model)
    for value in planted:
        single = np.float32(value)
        assert f"{single:.5f}"[:-1] not in text
        assert single.tobytes().hex().upper() not in text.upper()
        assert single.tobytes()[::-1].hex().upper() not in text.upper()


@pytest.mark.parametrize("place", PLACES)
def test_other_weights_give_the_same_program(place):
    """A program tells the architecture and nothing else: with other weights it is the same to the byte."""
    first, second = (
        _lowered(from_onnx(place(weights))) for weights in (PLANTED, PLANTED[::-1] * 1.37 + 0.01)
    )
    assert first == second


@pytest.mark.parametrize("place", PLACES)
def test_the_function_itself_holds_no_weight(place):
    """What stays with the function after conversion are public constants alone."""
    model = from_onnx(place(PLANTED))
    kept = model.private_predict.graph.constants
    assert not any(
        np.isin(np.abs(PLANTED), np.abs(value)).any() for value in kept.values() if value.dtype.kind == "f"
    )


def test_params_that_are_passed_decide_the_result():
    """The function computes with the params it is given, not with those of the conversion."""
    model = from_onnx(_in_initializer(PLANTED))
    features = np.ones((3, 4), np.float32)
    zeros = {name: np.zeros_like(value) for name, value in model.params.items()}
    assert not np.asarray(model.predict(zeros, features)[0]).any()
    np.testing.assert_allclose(model.predict(model.params, features)[0], features * PLANTED, rtol=1e-6)


def test_equal_weights_do_not_shorten_the_program():
    """Two small weights that happen to be equal stay two params: the program must not tell that they are."""
    nodes = [helper.make_node("Mul", ["x", "a"], ["t"]), helper.make_node("Add", ["t", "b"], ["y"])]
    same = from_onnx(_model(nodes, [("a", PLANTED), ("b", PLANTED)]))
    other = from_onnx(_model(nodes, [("a", PLANTED), ("b", PLANTED[::-1].copy())]))
    assert _lowered(same) == _lowered(other)


def test_what_an_operator_merely_prefers_to_know_stays_secret():
    """An exponent computed from weights is a param, though an operator would rather know it."""
    nodes = [
        helper.make_node("ReduceMax", ["w"], ["largest"], axes=[0], keepdims=1),
        helper.make_node("Pow", ["x", "largest"], ["y"]),
    ]
    model = from_onnx(_model(nodes, [("w", PLANTED)]))
    assert list(model.params) == ["largest"]
    assert model.report.public_constants == ()


def test_a_written_exponent_is_public():
    """An exponent of 2 makes a product of a power, and is listed among the public constants."""
    model = from_onnx(
        _model([helper.make_node("Pow", ["x", "two"], ["y"])], [("two", np.array([2.0], np.float32))])
    )
    assert model.params == {}
    assert model.report.public_constants == ("two float32[1]",)


def test_many_floats_where_structure_belongs_are_refused():
    """What an operator must know becomes public; floats there may be trained, and stop the build."""
    weights = np.linspace(1.1, 2.3, 128, dtype=np.float32)
    node = helper.make_node("TopK", ["x", "w"], ["y", "i"])
    with pytest.raises(UnsupportedModelError, match="may be trained"):
        from_onnx(_model([node], [("w", weights)]))
