"""Tree ensembles: every split mode, exact ties, topology, formulations, and what stays secret."""

import jax
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnxmltools.convert import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from xgboost import XGBRegressor

from converters import ConversionError, UnsupportedModelError, from_onnx
from converters.trees.rounding import on_grid

CLOSE = 1e-6


def _model(attrs, op="TreeEnsembleRegressor", version=3, columns=2, outputs=1):
    node = helper.make_node(op, ["X"], ["Y", "Z"][:outputs], domain="ai.onnx.ml", **attrs)
    graph = helper.make_graph(
        [node],
        "trees",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, columns])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output],
    )
    opsets = [helper.make_opsetid("ai.onnx.ml", version), helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _stump(mode, value, **more):
    """One split of column 1: 10 where it holds, 20 where not."""
    return _model(
        {
            "n_targets": 1,
            "nodes_treeids": [0, 0, 0],
            "nodes_nodeids": [0, 1, 2],
            "nodes_featureids": [1, 0, 0],
            "nodes_modes": [mode, "LEAF", "LEAF"],
            "nodes_values": [value, 0.0, 0.0],
            "nodes_truenodeids": [1, 0, 0],
            "nodes_falsenodeids": [2, 0, 0],
            "target_treeids": [0, 0],
            "target_nodeids": [1, 2],
            "target_ids": [0, 0],
            "target_weights": [10.0, 20.0],
            **more,
        }
    )


def _ask(proto, rows):
    return onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"X": rows})


def _trained(seed, trees=20, depth=4, labels_of=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(400, 6)).astype(np.float32)
    target = rows[:, labels_of] * rows[:, 1] + rng.normal(size=400)
    model = XGBRegressor(n_estimators=trees, max_depth=depth, n_jobs=1).fit(rows, target)
    return convert_xgboost(model, initial_types=[("X", FloatTensorType([None, 6]))]), rows


def _text(model, batch=2):
    params = {name: jax.ShapeDtypeStruct(v.shape, v.dtype) for name, v in model.params.items()}
    inputs = [jax.ShapeDtypeStruct(spec.with_batch(batch), spec.dtype) for spec in model.private_inputs]
    return jax.jit(model.private_predict).lower(params, *inputs).as_text()


@pytest.mark.parametrize("mode", ["LEQ", "LT", "GTE", "GT", "EQ", "NEQ"])
def test_every_split_mode_decides_like_onnxruntime_also_at_ties(mode):
    """On the threshold, one float above and one below it, near zero and far away."""
    for value in (0.1, -0.3, 0.0, 1234.567, 1e-35, -1e-35):
        if mode in ("EQ", "NEQ") and 0 < abs(value) < 1e-30:
            continue  # to a ring these are 0
        exact = np.float32(value)
        column = [exact, np.nextafter(exact, np.float32(9)), np.nextafter(exact, np.float32(-9)), 0, -5, 5]
        column = [one for one in column if one == 0 or abs(one) > 1e-30]
        rows = np.stack([np.zeros(len(column)), column], axis=1).astype(np.float32)
        proto = _stump(f"BRANCH_{mode}", value)
        model = from_onnx(proto)
        assert (np.asarray(model.predict(model.params, rows)[0]) == _ask(proto, rows)[0]).all(), value


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("topology", ["hidden", "public"])
@pytest.mark.parametrize("formulation", ["boolean", "level", "mux"])
def test_every_aggregate_and_formulation_agrees_with_onnxruntime(aggregate, topology, formulation):
    """Sum, average, smallest and largest of two trees, one of which is a single leaf."""
    proto = _stump(
        "BRANCH_LEQ",
        0.5,
        nodes_treeids=[0, 0, 0, 1],
        nodes_nodeids=[0, 1, 2, 0],
        nodes_featureids=[1, 0, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF", "LEAF"],
        nodes_values=[0.5, 0.0, 0.0, 0.0],
        nodes_truenodeids=[1, 0, 0, 0],
        nodes_falsenodeids=[2, 0, 0, 0],
        target_treeids=[0, 0, 1],
        target_nodeids=[1, 2, 0],
        target_ids=[0, 0, 0],
        target_weights=[10.0, 20.0, 15.0],
        base_values=[0.25],
        aggregate_function=aggregate,
    )
    rows = np.array([[0, 0.4], [0, 0.6]], np.float32)
    model = from_onnx(proto, tree_topology=topology, tree_formulation=formulation)
    np.testing.assert_allclose(model.predict(model.params, rows)[0], _ask(proto, rows)[0], atol=CLOSE)


def test_trees_too_uneven_to_pad_are_hidden_by_matrices_of_paths():
    """A chain of splits, as leaf-wise training makes them, agrees in both topologies."""
    depth = 9
    inner, leaves = list(range(depth)), list(range(depth, 2 * depth + 1))
    proto = _model(
        {
            "n_targets": 1,
            "nodes_treeids": [0] * (2 * depth + 1),
            "nodes_nodeids": [*inner, *leaves],
            "nodes_featureids": [i % 2 for i in inner] + [0] * (depth + 1),
            "nodes_modes": ["BRANCH_LEQ"] * depth + ["LEAF"] * (depth + 1),
            "nodes_values": [float(i) - 4 for i in inner] + [0.0] * (depth + 1),
            "nodes_truenodeids": leaves[:depth] + [0] * (depth + 1),
            "nodes_falsenodeids": [*inner[1:], leaves[-1]] + [0] * (depth + 1),
            "target_treeids": [0] * (depth + 1),
            "target_nodeids": leaves,
            "target_ids": [0] * (depth + 1),
            "target_weights": [float(i) for i in range(depth + 1)],
        }
    )
    rows = np.random.default_rng(0).uniform(-6, 6, (200, 2)).astype(np.float32)
    for topology, op in (("hidden", "HiddenTrees"), ("public", "PublicTrees")):
        model = from_onnx(proto, tree_topology=topology)
        assert model.report.ops[op] == 1
        assert any(str(depth + 1) in line or "public" in line for line in model.report.statements)
        np.testing.assert_allclose(model.predict(model.params, rows)[0], _ask(proto, rows)[0], atol=CLOSE)


def test_thresholds_are_put_on_the_grid_of_the_ring_downwards():
    """A tiny threshold keeps its sign; two that differ by one last place stay two."""
    thresholds = np.array([[1e-35], [-1e-35], [0.3]], np.float32)
    np.testing.assert_array_equal(on_grid(thresholds, 18)[:2, 0], [0, -(2.0**-18)])
    assert 0 <= 0.3 - on_grid(thresholds, 18)[2, 0] < 2.0**-18
    pair = np.array([[0.3, np.nextafter(np.float32(0.3), np.float32(0))]], np.float32)
    assert on_grid(pair, 18)[0, 0] - on_grid(pair, 18)[0, 1] == 2.0**-18


def test_no_trained_number_is_in_the_program():
    """Planted thresholds and leaves are found in the params, and nowhere in the lowered text."""
    model = from_onnx(_stump("BRANCH_LEQ", 0.7316, target_weights=[0.1234567, 9.876543]))
    text = _text(model)
    for planted in ("7316", "123456", "876543", "0x"):
        assert planted not in text
    assert any(np.isclose(value, 0.1234567).any() for value in model.params.values())
    assert model.report.public_constants == ()


@pytest.mark.parametrize("formulation", ["boolean", "level", "mux"])
def test_programs_of_two_trainings_are_identical_when_the_topology_is_hidden(formulation):
    """Other data give other splits and other branching, and byte for byte the same program."""
    models = [from_onnx(_trained(seed)[0], tree_formulation=formulation) for seed in (0, 1)]
    assert _text(models[0]) == _text(models[1])
    assert list(models[0].params) == list(models[1].params)
    differ = [(models[0].params[name] != models[1].params[name]).any() for name in models[0].params]
    assert sum(differ) >= 3


def test_a_public_topology_hides_everything_but_the_branching():
    """Thresholds, features and leaves of the same branching give the same program."""
    one, other = (
        from_onnx(_stump("BRANCH_LEQ", value, target_weights=weights), tree_topology="public")
        for value, weights in ((0.5, [1.0, 2.0]), (0.7, [3.0, 4.0]))
    )
    assert _text(one) == _text(other)


def test_the_program_does_not_grow_with_the_number_of_trees():
    """Many trees of depth 6 and few of them are as many lines: no loop over trees or splits is in it."""
    (many, rows), (few, _) = (_trained(0, trees=trees, depth=6) for trees in (40, 3))
    model = from_onnx(many)
    lines = [len(_text(one).splitlines()) for one in (model, from_onnx(few))]
    assert lines[0] == lines[1] < 500
    found, expected = model.predict(model.params, rows[:8])[0], _ask(many, rows[:8])[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_features_are_scaled_at_the_data_owner_only_where_trees_alone_read_them():
    """The range that still fits the ring is declared with the scale."""
    model = from_onnx(_stump("BRANCH_LEQ", 0.5))
    assert [step.op for step in model.encode] == ["scale"]
    assert model.numeric.input_ranges == {"X": (-(2.0**28), 2.0**28)}


def test_where_missing_values_go_is_said_not_to_count():
    """A file that routes missing values is converted, with a warning."""
    model = from_onnx(_stump("BRANCH_LEQ", 0.5, nodes_missing_value_tracks_true=[1, 0, 0]))
    assert any("missing" in warning for warning in model.report.warnings)


def test_damaged_trees_and_unknown_options_are_refused_with_a_reason():
    """A child that is not in the file, a cycle, an unknown mode; an option that does not exist."""
    for broken in ({"nodes_truenodeids": [7, 0, 0]}, {"nodes_modes": ["BRANCH_MAYBE", "LEAF", "LEAF"]}):
        with pytest.raises(UnsupportedModelError, match="TreeEnsembleRegressor"):
            from_onnx(_stump("BRANCH_LEQ", 0.5, **broken))
    with pytest.raises(ConversionError, match="tree_topology must be one of auto, hidden, public"):
        from_onnx(_stump("BRANCH_LEQ", 0.5), tree_topology="secret")


def test_calibration_knows_that_trees_only_compare():
    """Large features, scaled further, stay in a 64-bit ring: choosing a column multiplies by 0 and 1."""
    rows = np.random.default_rng(0).normal(scale=1e5, size=(50, 2)).astype(np.float32)
    model = from_onnx(_stump("BRANCH_LEQ", 5e4), calibration=[rows])
    assert (model.numeric.field, model.report.warnings) == ("FM64", ())
