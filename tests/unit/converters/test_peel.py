"""What the data owner computes itself, and what is never peeled. Expected values come from onnxruntime."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from converters import from_onnx


def _model(body, outputs, inputs="float[N, 3] x", opset=17):
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> m ({inputs}) => ({outputs}) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    return model


def _check(proto, x, **options):
    """Convert, and compare all outputs with onnxruntime."""
    model = from_onnx(proto, **options)
    expected = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})
    for found, wanted in zip(model.predict(model.params, x), expected, strict=True):
        np.testing.assert_allclose(np.asarray(found), wanted, rtol=1e-5, atol=1e-6)
    return model


X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "node", ["Sigmoid(h)", "Tanh(h)", "Exp(h)", "Softplus(h)", "Elu(h)", "Selu(h)", "Celu(h)", "LeakyRelu(h)"]
)
def test_an_invertible_activation_leaves_mpc(node):
    """The value before the activation is revealed, and the private part holds no activation."""
    model = _check(_model(f"h = Mul(x, x) y = {node}", "float[N, 3] y"), X)
    assert dict(model.report.ops) == {"Mul": 1}
    assert [spec.name for spec in model.private_outputs] == ["h"]
    assert "peel_outputs" in model.report.rewrites
    assert any("'y'" in statement for statement in model.report.statements)


@pytest.mark.parametrize("node", ["Softmax(h)", "LogSoftmax(h)"])
def test_softmax_reveals_logits_minus_their_mean(node):
    """Two inputs with the same softmax have the same revealed logits: these tell nothing more."""
    model = _check(_model(f"h = Mul(x, x) y = {node}", "float[N, 3] y"), X)
    (logits,) = model.private_predict(model.params, X)
    np.testing.assert_allclose(logits.sum(axis=1), 0, atol=1e-5)
    plain = _check(_model(f"h = Identity(x) y = {node}", "float[N, 3] y"), X)
    (one,), (other,) = (plain.private_predict(plain.params, value) for value in (X, X + 3))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_mean_is_subtracted_in_the_weights():
    """After a layer with constant weights, centring costs nothing: it is part of the weights."""
    rng = np.random.default_rng(1)
    proto = _model(
        "h = Gemm(x, w, b) y = Softmax(h)", "float[N, 4] y", "float[N, 3] x, float[3, 4] w, float[4] b"
    )
    for name, shape in (("w", (3, 4)), ("b", (4,))):
        value = rng.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    for value in [value for value in proto.graph.input if value.name in "wb"]:
        proto.graph.input.remove(value)
    model = _check(proto, X)
    assert dict(model.report.ops) == {"Gemm": 1}
    (logits,) = model.private_predict(model.params, X)
    np.testing.assert_allclose(logits.sum(axis=1), 0, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("y = Softmax(x) k = Constant<value_ints=[2]>() v, i = TopK(y, k)", "float[N, 2] v"),
        ("y = Softmax(x) i = ArgMax<axis=1>(y)", "int64[N, 1] i"),
        ("y = Sigmoid(x) v = ReduceMax<axes=[1]>(y)", "float[N, 1] v"),
        ("y = Relu(x)", "float[N, 3] y"),
        ("y = HardSigmoid(x)", "float[N, 3] y"),
        ("y = LeakyRelu<alpha=0.0>(x)", "float[N, 3] y"),
        ("s = Sigmoid(x) w = Constant<value_floats=[0.1, 0.2, 0.37]>() y = Mul(s, w)", "float[N, 3] y"),
        ("s = Sigmoid(x) a, b, c = Split<axis=1>(s)", "float[N, 1] a"),
    ],
)
def test_an_output_that_tells_less_is_not_peeled(body, outputs):
    """A label, a top-k, a maximum, a part: what is revealed is the output itself."""
    model = _check(_model(body, outputs), X)
    assert [spec.name for spec in model.private_outputs] == [spec.name for spec in model.outputs]
    assert model.decode == ()


def test_a_softmax_over_several_dimensions_is_left_alone():
    """Up to opset 12 a softmax may sum over all dimensions from its axis on: no single mean to subtract."""
    proto = _model("y = Softmax<axis=1>(x)", "float[N, 2, 3] y", "float[N, 2, 3] x", opset=11)
    model = _check(proto, np.stack([X, X + 1], axis=1))
    assert model.report.ops["Softmax"] == 1


def test_what_follows_from_another_output_is_derived_from_it():
    """Probabilities, label and complement follow from the one logit."""
    body = "axis = Constant<value_ints=[1]>() one = Constant<value_float=1.0>() h = ReduceSum(x, axis) "
    body += (
        "p = Sigmoid(h) q = Sub(one, p) both = Concat<axis=1>(q, p) label = ArgMax<axis=1, keepdims=0>(both)"
    )
    model = _check(_model(body, "int64[N] label, float[N, 2] both, float[N, 1] q"), X)
    assert [spec.name for spec in model.private_outputs] == ["h"]
    assert dict(model.report.ops) == {"ReduceSum": 1}


def test_logits_among_the_outputs_stay_as_they_are():
    """A model that gives its logits reveals them; its softmax follows from them."""
    model = _check(_model("h = Mul(x, x) y = Softmax(h)", "float[N, 3] h, float[N, 3] y"), X)
    assert [spec.name for spec in model.private_outputs] == ["h"]


def test_layout_between_activation_and_output_is_peeled_with_it():
    """Reshapes, transposes and casts after the activation are computed by the data owner too."""
    body = "h = Mul(x, x) s = Sigmoid(h) t = Unsqueeze(s, axis) y = Transpose<perm=[1, 2, 0]>(t) "
    body += "axis = Constant<value_ints=[1]>()"
    nodes = body.split(" axis = ")
    model = _check(_model(f"axis = {nodes[1]} {nodes[0]}", "float[1, 3, N] y"), X)
    assert dict(model.report.ops) == {"Mul": 1}
    unchanged = _check(_model("h = Mul(x, x) y = Transpose(h)", "float[3, N] y"), X)
    assert unchanged.decode == ()


def test_peeling_can_be_switched_off():
    """Without the rewrite the whole model is private."""
    model = _check(
        _model("h = Mul(x, x) y = Sigmoid(h)", "float[N, 3] y"), X, rewrites={"peel_outputs": False}
    )
    assert dict(model.report.ops) == {"Mul": 1, "Sigmoid": 1}
    assert model.decode == ()


def test_the_class_of_a_label_only_model_is_decided_before_the_activation():
    """The order of the classes needs no softmax; two classes need one comparison."""
    body = "h = Mul(x, x) p = Softmax(h) label = ArgMax<axis=1, keepdims=0>(p)"
    model = _check(_model(body, "int64[N] label"), X)
    assert dict(model.report.ops) == {"Mul": 1, "ArgMax": 1}
    body = "one = Constant<value_float=1.0>() p = Sigmoid(x) q = Sub(one, p) both = Concat<axis=1>(q, p) "
    body += "label = ArgMax<axis=1, keepdims=0>(both)"
    model = _check(_model(body, "int64[N] label", "float[N, 1] x"), X[:, :1])
    assert "Sigmoid" not in model.report.ops
    assert model.report.ops["Greater"] == 1
