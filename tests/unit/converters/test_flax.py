"""Flax modules, linen and NNX, compared with Flax itself."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from converters import ConversionError, InputSpecError, from_flax
from secure_runner.programs.lowering import lower
from secure_runner.programs.manifest import TensorSpec

X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
IDS = np.random.default_rng(0).integers(0, 50, (3, 7)).astype(np.int32)


class Classifier(nn.Module):
    """A layer with batch statistics, and a head given by the test."""

    head: object

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
        return self.head(nn.Dense(4)(x))


class Bag(nn.Module):
    """Mean of word and position embeddings."""

    @nn.compact
    def __call__(self, ids):
        words = nn.Embed(50, 8)(ids) + nn.Embed(16, 8)(jnp.arange(ids.shape[1])[None])
        return nn.Dense(3)(words.mean(axis=1))


def _classifier(head, seed=0):
    module = Classifier(head)
    variables = module.init(jax.random.PRNGKey(seed), X, train=False)
    return module, variables


def _agrees(model, expected, *inputs):
    for found, wanted in zip(
        model.predict(model.params, *inputs), jax.tree_util.tree_leaves(expected), strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("head", "revealed", "steps"),
    [
        (nn.softmax, (4,), ["softmax"]),
        (jax.nn.log_softmax, (4,), ["log_softmax"]),
        (nn.sigmoid, (4,), ["sigmoid"]),
        (lambda z: jnp.squeeze(nn.sigmoid(z[:, :1]), -1), (1,), ["sigmoid", "reshape"]),
        (lambda z: (jnp.argmax(z, -1), nn.softmax(z)), (4,), ["argmax", "softmax"]),
        (lambda z: jnp.argmax(nn.softmax(z), -1), (), []),
        (lambda z: jnp.max(nn.softmax(z), -1), (), []),
    ],
)
def test_the_last_activation_is_peeled_where_it_tells_no_less(head, revealed, steps):
    """Invertible heads leave MPC, labels and maxima stay; the answer is Flax's in either case."""
    module, variables = _classifier(head)
    model = from_flax(module, variables, X, train=False)
    _agrees(model, module.apply(variables, X, train=False), X)
    assert [spec.shape[1:] for spec in model.private_outputs] == [revealed]
    assert [step.op for step in model.decode] == steps


def test_peeling_can_be_switched_off():
    """Without the rewrite, the softmax is private."""
    module, variables = _classifier(nn.softmax)
    model = from_flax(module, variables, X, train=False, rewrites={"peel_outputs": False})
    assert model.decode == ()
    _agrees(model, module.apply(variables, X, train=False), X)


def test_all_collections_are_params_and_none_is_in_the_program():
    """Batch statistics are weights too; two trainings of one architecture give one program, byte for byte."""
    programs = []
    for seed in (0, 1):
        module, variables = _classifier(nn.softmax, seed)
        variables["batch_stats"]["BatchNorm_0"]["mean"] += 0.1 * (seed + 1)
        model = from_flax(module, variables, X, train=False)
        assert "batch_stats/BatchNorm_0/var" in model.params
        params = [TensorSpec(name=n, dtype=v.dtype.name, shape=v.shape) for n, v in model.params.items()]
        inputs = [TensorSpec(name=s.name, dtype=s.dtype, shape=s.shape) for s in model.private_inputs]
        programs.append(lower(model.private_predict, params, inputs, 4).hlo)
    assert programs[0] == programs[1]


def test_indices_become_one_hot_rows_at_the_data_owner():
    """Word indices are an input, so the data owner expands them; positions are public."""
    module = Bag()
    variables = module.init(jax.random.PRNGKey(0), IDS)
    model = from_flax(module, variables, IDS)
    assert [spec.shape for spec in model.private_inputs] == [(None, 7, 50)]
    assert model.numeric.input_ranges == {"input_0": (0.0, 49.0)}
    _agrees(model, module.apply(variables, IDS), IDS)


def test_indices_that_are_used_otherwise_are_expanded_under_mpc():
    """Where the model also compares the indices, they are shared as they are."""

    def masked(variables, ids):
        return variables["table"][ids] * (ids != 0)[..., None]

    variables = {"table": np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)}
    model = from_flax(masked, variables, IDS)
    assert [spec.shape for spec in model.private_inputs] == [(None, 7)]
    assert model.report.rewrites == ("embedding_rows",)
    _agrees(model, masked(variables, IDS), IDS)


def test_an_nnx_module_holds_its_own_variables():
    """Parameters and statistics are lifted out of the module; states of random generators are not."""

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(5, 8, rngs=rngs)
            self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, deterministic=True, rngs=rngs)
            self.last = nnx.Linear(8, 2, rngs=rngs)

        def __call__(self, x):
            return nnx.softmax(self.last(self.dropout(nnx.relu(self.norm(self.first(x))))))

    network = Network(nnx.Rngs(0))
    model = from_flax(network, None, X)
    assert {name.split("/")[0] for name in model.params} == {"first", "norm", "last"}
    _agrees(model, network(X), X)


def test_misuse_is_explained():
    """No example input, no variables, or no module: the message says what was expected."""
    module, variables = _classifier(nn.softmax)
    with pytest.raises(InputSpecError, match="example"):
        from_flax(module, variables)
    with pytest.raises(ConversionError, match="variables"):
        from_flax(module, None, X)
    with pytest.raises(ConversionError, match="no rewrite peel"):
        from_flax(module, variables, X, train=False, rewrites=["peel"])
