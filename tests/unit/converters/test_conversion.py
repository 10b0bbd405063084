"""From file to function: shapes, batches, control flow, files and errors."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters import ConversionError, InputSpecError, ModelFileError, UnsupportedModelError, from_onnx

RNG = np.random.default_rng(1)


def _model(nodes, inputs, outputs, constants=(), opset=17, extra_opsets=()):
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(*entry) for entry in extra_opsets)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def _flattening_model(batch):
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["c", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    constants = {"k": _weights(3, 2, 3, 3), "shape": np.array([1, -1]), "w": _weights(48, 5)}
    return _model(nodes, {"x": [batch, 2, 4, 4]}, ["y"], constants)


def test_a_batch_fixed_by_the_exporter_can_be_opened():
    """``Reshape(x, [1, -1])`` of a model exported for one row gives one row for each row."""
    images = _weights(5, 2, 4, 4)
    proto = _flattening_model(1)
    fixed = from_onnx(proto)
    opened = from_onnx(proto, input_shapes={"x": (None, 2, 4, 4)})
    assert fixed.outputs[0].shape == (1, 5)
    assert opened.outputs[0].shape == (None, 5)
    apart = np.concatenate([fixed.predict(fixed.params, image[None])[0] for image in images])
    np.testing.assert_allclose(opened.predict(opened.params, images)[0], apart, atol=1e-5)


def test_a_batch_that_cannot_be_opened_is_refused():
    """Rows that influence each other are noticed by computing them together and apart."""
    model = _model(
        [helper.make_node("CumSum", ["x", "axis"], ["y"])], {"x": [1, 3]}, ["y"], {"axis": np.array(0)}
    )
    with pytest.raises(InputSpecError, match="exported for a batch of 1"):
        from_onnx(model, input_shapes={"x": (None, 3)})


def test_shape_arithmetic_follows_the_batch():
    """Shape, Gather, Concat, Reshape and Expand with the batch inside work at every batch size."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Concat", ["n", "tail"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
        helper.make_node("Concat", ["n", "five"], ["wide"], axis=0),
        helper.make_node("Expand", ["w", "wide"], ["z"]),
    ]
    constants = {"zero": np.array([0]), "tail": np.array([3, -1]), "five": np.array([5]), "w": _weights(1, 5)}
    model = from_onnx(_model(nodes, {"x": ["batch", 6]}, ["y", "z"], constants))
    assert [spec.shape for spec in model.outputs] == [(None, 3, 2), (None, 5)]
    for batch in (1, 4):
        first, second = model.predict(model.params, np.zeros((batch, 6), np.float32))
        assert (first.shape, second.shape) == ((batch, 3, 2), (batch, 5))


def test_an_open_dimension_that_is_not_the_batch_must_be_given():
    """The message shows the option that is missing, and with it the model converts."""
    model = _model([helper.make_node("Relu", ["x"], ["y"])], {"x": ["batch", "length", 8]}, ["y"])
    with pytest.raises(InputSpecError, match=r"input_shapes=\{'x': \(None, 128, 8\)\}"):
        from_onnx(model)
    converted = from_onnx(model, input_shapes={"x": (None, 16, 8)})
    assert converted.inputs[0].shape == (None, 16, 8)


def test_a_loop_with_a_known_count_is_unrolled():
    """Loop-carried values and collected ones come out as the standard says."""
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["carried", "w"], ["next"]),
            helper.make_node("Identity", ["next"], ["row"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, None),
        ],
        [helper.make_empty_tensor_value_info(name) for name in ("go_on", "next", "row")],
    )
    loop = helper.make_node("Loop", ["count", "true", "x"], ["last", "rows"], body=body)
    constants = {"count": np.array(3), "true": np.array(True), "w": np.float32([1.7, -0.3])}
    model = from_onnx(_model([loop], {"x": ["n", 2]}, ["last", "rows"], constants))
    features = _weights(4, 2)
    last, rows = model.predict(model.params, features)
    np.testing.assert_allclose(last, features * constants["w"] ** 3, rtol=1e-5)
    assert rows.shape == (3, 4, 2)


def test_a_condition_that_depends_on_a_feature_is_refused():
    """Taking a branch would reveal the condition; the message names the node and the remedy."""
    outputs = [helper.make_empty_tensor_value_info("b")]
    branches = {
        f"{name}_branch": helper.make_graph([helper.make_node(op, ["x"], ["b"])], name, [], outputs)
        for name, op in (("then", "Relu"), ("else", "Neg"))
    }
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "limit"], ["c"]),
        helper.make_node("If", ["c"], ["y"], name="choice", **branches),
    ]
    model = _model(nodes, {"x": ["n", 2]}, ["y"], {"limit": np.float32(0)})
    with pytest.raises(UnsupportedModelError, match=r"choice: If .* reveal it.*choose with Where"):
        from_onnx(model)


def test_every_problem_is_reported_at_once():
    """Unknown operators, foreign domains and traced shapes appear together, each with its node."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["a"], name="first"),
        helper.make_node("FusedGelu", ["x"], ["b"], name="second", domain="com.example"),
        helper.make_node("Cast", ["x"], ["k"], to=TensorProto.INT64),
        helper.make_node("Tile", ["x", "k"], ["c"], name="third"),
        helper.make_node("Relu", ["b"], ["y"], name="behind the second"),
    ]
    model = _model(nodes, {"x": [2]}, ["a", "y", "c"], extra_opsets=[("com.example", 1)])
    with pytest.raises(UnsupportedModelError) as caught:
        from_onnx(model)
    assert [problem.node for problem in caught.value.problems] == ["first", "second", "third"]
    assert "depends on 'x'" in str(caught.value)
    assert "static={" in str(caught.value)


def test_an_input_can_be_fixed_while_converting():
    """``static=`` makes an input a public constant: it is no longer asked for."""
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6]),
            helper.make_tensor_value_info("shape", TensorProto.INT64, [3]),
        ],
        [helper.make_empty_tensor_value_info("y")],
    )
    model = from_onnx(helper.make_model(graph), static={"shape": np.array([-1, 2, 3])})
    assert [spec.name for spec in model.inputs] == ["x"]
    assert model.outputs[0].shape == (None, 2, 3)


def _save_with_external_data(folder, location):
    path = folder / "model.onnx"
    model = _model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 64]}, ["y"], {"w": _weights(64, 64)}
    )
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    stored = onnx.load(path, load_external_data=False)
    for entry in stored.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(stored.SerializeToString())
    return path


def test_external_data_beside_the_model_is_read(tmp_path):
    """Weights in a second file of the same folder become params."""
    model = from_onnx(_save_with_external_data(tmp_path, "weights.bin"))
    assert model.params["w"].shape == (64, 64)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "link/weights.bin"])
def test_external_data_elsewhere_is_refused(tmp_path, location):
    """A model file cannot make the converter read another folder, not even through a link."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"x" * 64 * 64 * 4)
    with pytest.raises(ModelFileError, match="outside the model's folder"):
        from_onnx(_save_with_external_data(folder, location))


def test_what_is_no_model_is_said_to_be_none(tmp_path):
    """A missing file and a file of another kind give an error of this package."""
    with pytest.raises(ModelFileError, match="no model file"):
        from_onnx(tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(ModelFileError, match="not an ONNX model"):
        from_onnx(tmp_path / "text.onnx")


def test_an_unknown_rewrite_is_named():
    """A typing error in ``rewrites`` does not silently switch nothing off."""
    model = _model([helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 2]}, ["y"])
    with pytest.raises(ConversionError, match="no rewrite fold_nothing"):
        from_onnx(model, rewrites={"fold_nothing": False})
