"""Each rewrite leaves the answer as it was (onnxruntime's) and the graph as it should be."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from converters import ConversionError, from_onnx

RNG = np.random.default_rng(0)


def _model(body, output, inputs, weights=None, opset=17):
    formal = ", ".join([inputs, *(f"float[{_dims(w)}] {name}" for name, w in (weights or {}).items())])
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> m ({formal}) => ({output}) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    for value in [value for value in model.graph.input if value.name in (weights or {})]:
        model.graph.input.remove(value)
    for name, weight in (weights or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype(np.float32), name))
    onnx.checker.check_model(model)
    return model


def _dims(value):
    return ", ".join(str(dim) for dim in value.shape)


def _ops(proto, x, atol=1e-5, **options):
    """Convert, compare with onnxruntime, and give the operators that are left."""
    model = from_onnx(proto, **options)
    (expected,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})
    (found,) = model.predict(model.params, x)
    np.testing.assert_allclose(found, expected, atol=atol)
    return dict(model.report.ops)


def _statistics(channels):
    names = ("gamma", "beta", "mean", "variance")
    return dict(zip(names, RNG.uniform(0.5, 2, (4, channels)), strict=True))


BATCH_NORM = "BatchNormalization(h, gamma, beta, mean, variance)"


@pytest.mark.parametrize("bias", ["", ", b"])
def test_batch_norm_becomes_part_of_the_convolution(bias):
    """Scale and offset of each channel are in the kernel, with and without a bias of its own."""
    weights = {"w": RNG.normal(size=(4, 3, 3, 3)), **({"b": RNG.normal(size=4)} if bias else {})}
    body = f"h = Conv<pads=[1, 1, 1, 1]>(x, w{bias}) y = {BATCH_NORM}"
    proto = _model(body, "float[N, 4, 6, 6] y", "float[N, 3, 6, 6] x", weights | _statistics(4))
    assert _ops(proto, RNG.normal(size=(2, 3, 6, 6)).astype(np.float32), 1e-4) == {"Conv": 1}


def test_batch_norm_becomes_part_of_a_grouped_transposed_convolution():
    """The outputs of each group lie side by side in a transposed kernel."""
    weights = {"w": RNG.normal(size=(4, 3, 2, 2))} | _statistics(6)
    body = f"h = ConvTranspose<group=2, strides=[2, 2]>(x, w) y = {BATCH_NORM}"
    proto = _model(body, "float[N, 6, 8, 8] y", "float[N, 4, 4, 4] x", weights)
    assert _ops(proto, RNG.normal(size=(2, 4, 4, 4)).astype(np.float32), 1e-4) == {"ConvTranspose": 1}


@pytest.mark.parametrize(
    ("layer", "left"),
    [
        ("h = Gemm<transB=1, alpha=0.5>(x, w, b)", {"Gemm": 1}),
        ("m = MatMul(x, v) h = Add(m, b)", {"Gemm": 1}),
        ("h = MatMul(x, v)", {"Gemm": 1}),
        ("h = Mul(x, x)", {"Mul": 2, "Add": 1}),
    ],
)
def test_batch_norm_becomes_part_of_a_linear_layer(layer, left):
    """In the weights of the layer before, or as one product and one sum where there is none."""
    matrix = RNG.normal(size=(3, 5)) if "Mul(x, x)" not in layer else RNG.normal(size=(5, 5))
    weights = {"w": matrix, "v": matrix.T, "b": RNG.normal(size=len(matrix))} | _statistics(len(matrix))
    proto = _model(f"{layer} y = {BATCH_NORM}", f"float[N, {len(matrix)}] y", "float[N, 5] x", weights)
    assert _ops(proto, RNG.normal(size=(4, 5)).astype(np.float32), 1e-4) == left


def test_batch_norm_stays_where_its_input_is_used_elsewhere():
    """A value that something else reads is not changed."""
    weights = {"w": RNG.normal(size=(5, 5))} | _statistics(5)
    proto = _model(
        f"h = MatMul(x, w) n = {BATCH_NORM} y = Add(n, h)", "float[N, 5] y", "float[N, 5] x", weights
    )
    left = _ops(proto, RNG.normal(size=(4, 5)).astype(np.float32), 1e-4)
    assert left == {"MatMul": 1, "Mul": 1, "Add": 2}


def test_scalers_become_part_of_the_next_layer():
    """(x - mean) / scale, then 2 - that, then a layer: one layer is left."""
    weights = {
        "mean": RNG.normal(size=(1, 5)),
        "scale": RNG.uniform(0.5, 2, 5),
        "w": RNG.normal(size=(5, 3)),
        "b": RNG.normal(size=3),
    }
    body = "two = Constant<value_float=2.0>() a = Sub(x, mean) c = Div(a, scale) d = Sub(two, c) "
    body += "y = Gemm(d, w, b)"
    proto = _model(body, "float[N, 3] y", "float[N, 5] x", weights)
    x = RNG.normal(size=(4, 5)).astype(np.float32)
    assert _ops(proto, x, 1e-4) == {"Gemm": 1}
    assert _ops(proto, x, 1e-4, rewrites={"fold_scaling": False})["Div"] == 1


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", "Tanh", "LeakyRelu<alpha=0.1>"])
def test_the_maximum_is_taken_before_the_activation(activation):
    """A fourth of the values is left to rectify after a 2 x 2 maximum."""
    body = f"h = Mul(x, x) r = {activation}(h) y = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(r)"
    proto = _model(body, "float[N, 3, 3, 3] y", "float[N, 3, 6, 6] x")
    model = from_onnx(proto, rewrites=["pool_before_activation"])
    assert [node.op for node in model.private_predict.graph.nodes][1] == "MaxPool"
    _ops(proto, RNG.normal(size=(2, 3, 6, 6)).astype(np.float32))


def test_a_falling_activation_keeps_its_place():
    """A leaky rectifier of a negative slope does not keep the order."""
    body = "r = LeakyRelu<alpha=-0.5>(x) y = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(r)"
    proto = _model(body, "float[N, 3, 3, 3] y", "float[N, 3, 6, 6] x")
    assert "pool_before_activation" not in from_onnx(proto).report.rewrites
    _ops(proto, RNG.normal(size=(2, 3, 6, 6)).astype(np.float32))


MASKED = (
    "one = Constant<value_float=1.0>() low = Constant<value_float={low}>() m = Greater(x, one) "
    "f = Cast<to=1>(m) i = Sub(one, f) bias = Mul(i, low) h = Mul(x, x) s = Add(h, bias) p = Softmax(s) "
    "y = Mul(p, x)"
)


def test_masks_are_numbers_that_the_ring_holds():
    """The lowest float becomes -1e4 where it only flows into a softmax, and stays where it does not."""
    x = RNG.normal(size=(4, 6)).astype(np.float32)
    lowest = "-340282346638528859811704183484516925440.0"
    proto = _model(MASKED.format(low=lowest), "float[N, 6] y", "float[N, 6] x")
    x[:, 0] = 2.0  # one entry of each row at least is not masked
    model = from_onnx(proto)
    _ops(proto, x)
    assert "clamp_masks" in model.report.rewrites
    assert min(float(value) for value in model.private_predict.graph.constants.values()) == -1e4
    elsewhere = _model(
        f"low = Constant<value_float={lowest}>() y = Max(x, low)", "float[N, 6] y", "float[N, 6] x"
    )
    assert "clamp_masks" not in from_onnx(elsewhere).report.rewrites


@pytest.mark.parametrize(
    "body",
    [
        "y = Gelu(x)",
        "a = Div(x, r) e = Erf(a) s = Add(e, one) m = Mul(x, s) y = Mul(m, half)",
        "a = Mul(x, q) e = Erf(a) s = Add(one, e) g = Mul(x, half) y = Mul(g, s)",
    ],
)
def test_gelu_is_a_polynomial_in_every_form_that_exporters_write(body):
    """One node or five: the error of the polynomial is below 3e-4 everywhere."""
    constants = "r = Constant<value_float=1.4142135>() q = Constant<value_float=0.70710677>() "
    constants += "one = Constant<value_float=1.0>() half = Constant<value_float=0.5>() "
    proto = _model(constants + body, "float[N, 400] y", "float[N, 400] x", opset=20)
    x = np.linspace(-9, 9, 400, dtype=np.float32)[None]
    assert _ops(proto, x, 3e-4) == {"GeluPolynomial": 1}
    assert "GeluPolynomial" not in _ops(proto, x, rewrites={"gelu_polynomial": False})


def test_word_indices_are_shared_as_one_hot_rows():
    """The input is expanded by the data owner; two tables of one size share the rows."""
    weights = {"table": RNG.normal(size=(9, 4)), "other": RNG.normal(size=(9, 4))}
    body = "a = Gather(table, x) b = Gather(other, x) y = Add(a, b)"
    proto = _model(body, "float[N, 5, 4] y", "int64[N, 5] x", weights)
    x = RNG.integers(0, 9, (3, 5))
    assert _ops(proto, x) == {"MatMul": 2, "Add": 1}
    model = from_onnx(proto)
    assert [(spec.dtype, spec.shape) for spec in model.private_inputs] == [("float32", (None, 5, 9))]
    assert [(spec.dtype, spec.shape) for spec in model.inputs] == [("int32", (None, 5))]
    assert model.numeric.input_ranges["x"] == (0.0, 8.0)


def test_indices_that_are_compared_too_are_shared_as_they_are():
    """A padding mask needs the indices themselves."""
    body = "zero = Constant<value_int=0>() m = Equal(x, zero) f = Cast<to=1>(m) u = Unsqueeze(f, last) "
    body = "last = Constant<value_ints=[2]>() " + body + "a = Gather(table, x) y = Mul(a, u)"
    proto = _model(body, "float[N, 5, 4] y", "int64[N, 5] x", {"table": RNG.normal(size=(9, 4))})
    assert "embed_at_data_owner" not in from_onnx(proto).report.rewrites
    _ops(proto, RNG.integers(0, 9, (3, 5)))


def test_a_rewrite_that_does_not_exist_is_refused():
    """The message lists the rewrites that there are."""
    proto = _model("y = Relu(x)", "float[N, 3] y", "float[N, 3] x")
    with pytest.raises(ConversionError, match=r"no rewrite fold; there are .*fold_scaling"):
        from_onnx(proto, rewrites={"fold": True})
