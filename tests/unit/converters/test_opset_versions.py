"""Operators in the meaning they had in older opsets, compared with onnxruntime (1e-5)."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters import from_onnx

RNG = np.random.default_rng(0)


def _x(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


IMAGE = _x(2, 3, 6, 6)
CUBE = _x(2, 3, 4)
MATRIX = _x(4, 6)

CASES = [
    # opset, operator, input, constants, attributes, number of outputs
    (7, "Add", CUBE, [_x(3, 1)], {}, 1),
    (7, "Dropout", MATRIX, [], {"ratio": 0.3}, 1),
    (10, "Dropout", MATRIX, [], {"ratio": 0.3}, 1),
    (12, "Dropout", MATRIX, [np.float32(0.3)], {}, 1),
    (7, "BatchNormalization", IMAGE, [_x(3), _x(3), _x(3), np.abs(_x(3))], {"epsilon": 1e-3}, 1),
    (9, "BatchNormalization", IMAGE, [_x(3), _x(3), _x(3), np.abs(_x(3))], {}, 1),
    (14, "BatchNormalization", IMAGE, [_x(3), _x(3), _x(3), np.abs(_x(3))], {}, 1),
    (7, "Clip", MATRIX, [], {"min": -0.5, "max": 0.5}, 1),
    (11, "Clip", MATRIX, [np.float32(-0.5)], {}, 1),
    (13, "Clip", MATRIX, [None, np.float32(0.25)], {}, 1),
    (7, "Softmax", CUBE, [], {}, 1),
    (11, "Softmax", CUBE, [], {"axis": 2}, 1),
    (13, "Softmax", CUBE, [], {"axis": 1}, 1),
    (11, "LogSoftmax", CUBE, [], {"axis": 0}, 1),
    (11, "Hardmax", CUBE, [], {"axis": 1}, 1),
    (7, "Squeeze", _x(2, 1, 3), [], {"axes": [1]}, 1),
    (11, "Squeeze", _x(2, 1, 3), [], {"axes": [-2]}, 1),
    (13, "Squeeze", _x(2, 1, 3), [np.array([1])], {}, 1),
    (7, "Unsqueeze", MATRIX, [], {"axes": [0, 3]}, 1),
    (13, "Unsqueeze", MATRIX, [np.array([0, 3])], {}, 1),
    (7, "Slice", MATRIX, [], {"starts": [1, 0], "ends": [3, -1], "axes": [0, 1]}, 1),
    (9, "Slice", MATRIX, [], {"starts": [-3], "ends": [2**31 - 1]}, 1),
    (10, "Slice", MATRIX, [np.array([4]), np.array([-7]), np.array([1]), np.array([-2])], {}, 1),
    (13, "Slice", MATRIX, [np.array([0]), np.array([2**63 - 1])], {}, 1),
    (7, "Pad", MATRIX, [], {"pads": [0, 1, 2, 0], "value": 1.5}, 1),
    (10, "Pad", IMAGE, [], {"pads": [0, 0, 1, 1, 0, 0, 2, 1], "mode": "reflect"}, 1),
    (11, "Pad", MATRIX, [np.array([1, 0, 0, 2]), np.float32(-1)], {}, 1),
    (13, "Pad", MATRIX, [np.array([-1, 1, 0, 0])], {"mode": "edge"}, 1),
    (19, "Pad", MATRIX, [np.array([1, 1, 1, 1])], {"mode": "wrap"}, 1),
    (7, "Split", MATRIX, [], {"axis": 1, "split": [2, 4]}, 2),
    (11, "Split", MATRIX, [], {"axis": 1}, 3),
    (13, "Split", MATRIX, [np.array([1, 5])], {"axis": 1}, 2),
    (18, "Split", _x(2, 7), [], {"axis": 1, "num_outputs": 3}, 3),
    (7, "ReduceSum", CUBE, [], {"axes": [1], "keepdims": 0}, 1),
    (13, "ReduceSum", CUBE, [np.array([-1])], {}, 1),
    (11, "ReduceMean", CUBE, [], {"axes": [-1]}, 1),
    (18, "ReduceMean", CUBE, [np.array([0, 2])], {"keepdims": 0}, 1),
    (11, "ReduceMax", CUBE, [], {}, 1),
    (12, "ReduceLogSumExp", CUBE, [], {"axes": [2]}, 1),
    (9, "TopK", MATRIX, [], {"k": 3}, 2),
    (10, "TopK", MATRIX, [np.array([2])], {"axis": 0}, 2),
    (11, "TopK", MATRIX, [np.array([2])], {"largest": 0}, 2),
    (7, "ArgMax", MATRIX, [], {"axis": 1}, 1),
    (12, "ArgMin", MATRIX, [], {"axis": 1, "keepdims": 0, "select_last_index": 1}, 1),
    (7, "Upsample", IMAGE, [], {"scales": [1.0, 1.0, 2.0, 3.0], "mode": "nearest"}, 1),
    (9, "Upsample", IMAGE, [np.array([1, 1, 2, 2], np.float32)], {"mode": "linear"}, 1),
    (10, "Resize", IMAGE, [np.array([1, 1, 2, 2], np.float32)], {"mode": "nearest"}, 1),
    (
        11,
        "Resize",
        IMAGE,
        [np.zeros(0, np.float32), np.array([1, 1, 0.5, 2], np.float32)],
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        1,
    ),
    (
        13,
        "Resize",
        IMAGE,
        [None, None, np.array([2, 3, 9, 4])],
        {"mode": "cubic", "coordinate_transformation_mode": "half_pixel"},
        1,
    ),
    (7, "AveragePool", IMAGE, [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, 1),
    (10, "AveragePool", IMAGE, [], {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}, 1),
    (8, "MaxPool", IMAGE, [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, 2),
    (12, "MaxPool", IMAGE, [], {"kernel_shape": [2, 2], "dilations": [2, 2], "pads": [1, 1, 1, 1]}, 1),
    (7, "Conv", IMAGE, [_x(4, 3, 3, 3), _x(4)], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, 1),
    (11, "Conv", _x(2, 4, 6, 6), [_x(6, 2, 3, 3)], {"group": 2, "dilations": [2, 1]}, 1),
    (11, "Conv", _x(1, 4, 6, 6), [_x(4, 1, 3, 3)], {"group": 4}, 1),
    (11, "Conv", _x(1, 2, 4, 5, 6), [_x(3, 2, 2, 3, 3)], {"pads": [1, 1, 1, 0, 1, 0]}, 1),
    (11, "Conv", _x(2, 2, 9), [_x(3, 2, 3)], {"strides": [2]}, 1),
    (11, "ConvTranspose", _x(1, 4, 3, 3), [_x(4, 2, 3, 3)], {"group": 2, "strides": [2, 2]}, 1),
    (7, "Gemm", MATRIX, [_x(3, 6), _x(3)], {"transB": 1, "alpha": 0.5, "beta": 2.0}, 1),
    (11, "Gemm", MATRIX, [_x(6, 3)], {}, 1),
    (7, "PRelu", IMAGE, [_x(3, 1, 1)], {}, 1),
    (7, "Tile", MATRIX, [np.array([2, 3])], {}, 1),
    (8, "Expand", _x(3, 1), [np.array([2, 1, 4])], {}, 1),
    (7, "Reshape", CUBE, [np.array([0, -1])], {}, 1),
    (11, "Flatten", CUBE, [], {"axis": -1}, 1),
    (10, "ThresholdedRelu", MATRIX, [], {"alpha": 0.3}, 1),
    (9, "Shrink", MATRIX, [], {"lambd": 0.4, "bias": 0.1}, 1),
    (13, "LRN", IMAGE, [], {"size": 3, "alpha": 0.1, "beta": 0.6}, 1),
    (12, "Celu", MATRIX, [], {"alpha": 0.7}, 1),
    (18, "LpPool", IMAGE, [], {"kernel_shape": [2, 2], "p": 2}, 1),
    (9, "MeanVarianceNormalization", IMAGE, [], {}, 1),
    (17, "LayerNormalization", CUBE, [_x(4), _x(4)], {"axis": -1}, 1),
    (9, "Scatter", MATRIX, [np.array([[0, 2]]), _x(1, 2)], {"axis": 1}, 1),
    (11, "GatherND", CUBE, [np.array([[0, 1], [1, 2]])], {}, 1),
    (13, "GatherElements", MATRIX, [np.array([[0, 1], [2, 3]])], {"axis": 1}, 1),
    (11, "CumSum", MATRIX, [np.array(1)], {"reverse": 1}, 1),
    (14, "Trilu", MATRIX, [np.array(1)], {"upper": 0}, 1),
    (12, "Einsum", _x(2, 3), [_x(3, 4)], {"equation": "ij, jk -> ki"}, 1),
    (11, "DepthToSpace", _x(1, 8, 2, 2), [], {"blocksize": 2, "mode": "CRD"}, 1),
]


@pytest.mark.parametrize(("opset", "op", "x", "constants", "attributes", "outputs"), CASES)
def test_older_meanings_agree_with_onnxruntime(opset, op, x, constants, attributes, outputs):
    """The version of an operator that the model's opset names is the one that is computed."""
    names = [f"c{i}" if value is not None else "" for i, value in enumerate(constants)]
    node = helper.make_node(op, ["x", *names], [f"y{i}" for i in range(outputs)], **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_empty_tensor_value_info(f"y{i}") for i in range(outputs)],
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in zip(names, constants, strict=True)
            if name
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    expected = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})
    model = from_onnx(proto)
    found = model.predict(model.params, x)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
