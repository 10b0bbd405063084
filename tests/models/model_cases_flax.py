"""Flax models, linen, NNX and `transformers`, at tiny sizes and untrained, compared with Flax."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import transformers
from flax import nnx
from model_registry import Made, case

from converters import from_flax

TRANSFORMERS = "Flax, transformers"
SIZES = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _ids() -> np.ndarray:
    return _rng().integers(0, 60, (4, 8)).astype(np.int32)


def _pretrained(network: Any, *inputs: np.ndarray) -> Made:
    expected = network(*inputs).logits
    return Made(from_flax(network, network.params, *inputs), inputs, (np.asarray(expected),))


@case(
    TRANSFORMERS,
    spu_tolerance=5e-3,
    note="vocabulary of 60, padding masked; the data owner shares one-hot rows of the words",
)
def flax_bert_tiny() -> Made:
    config = transformers.BertConfig(vocab_size=60, max_position_embeddings=16, **SIZES)
    mask = (np.arange(8) < np.array([[5], [8], [3], [8]])).astype(np.int32)
    return _pretrained(
        transformers.FlaxBertForSequenceClassification(config, input_shape=(1, 8)), _ids(), mask
    )


@case(TRANSFORMERS, spu_tolerance=5e-3)
def flax_gpt2_tiny() -> Made:
    config = transformers.GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    return _pretrained(transformers.FlaxGPT2LMHeadModel(config, input_shape=(1, 8)), _ids())


@case(TRANSFORMERS, spu_tolerance=5e-3)
def flax_vit_tiny() -> Made:
    config = transformers.ViTConfig(image_size=16, patch_size=8, **SIZES)
    network = transformers.FlaxViTForImageClassification(config, input_shape=(1, 16, 16, 3))
    return _pretrained(network, _rng().normal(size=(4, 3, 16, 16)).astype(np.float32))


@case(TRANSFORMERS, spu_tolerance=5e-3)
def flax_resnet_tiny() -> Made:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    network = transformers.FlaxResNetForImageClassification(config, input_shape=(1, 32, 32, 3))
    return _pretrained(network, _rng().normal(size=(4, 3, 32, 32)).astype(np.float32))


class _Network(nn.Module):
    """A convolution with batch statistics, and a softmax that the data owner applies."""

    @nn.compact
    def __call__(self, x: Any, train: bool = True) -> Any:
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x))
        x = nn.max_pool(nn.relu(x), (2, 2), (2, 2))
        return nn.softmax(nn.Dense(5)(x.reshape(x.shape[0], -1)))


@case("Flax, linen")
def linen_convolution_with_batch_statistics() -> Made:
    x = _rng().normal(size=(8, 8, 8, 1)).astype(np.float32)
    network = _Network()
    variables = network.init(jax.random.PRNGKey(0), x, train=False)
    expected = np.asarray(network.apply(variables, x, train=False))
    return Made(from_flax(network, variables, x, train=False), (x,), (expected,))


@case("Flax, NNX")
def nnx_network() -> Made:
    rngs = nnx.Rngs(0)
    layers = [nnx.Linear(6, 8, rngs=rngs), nnx.BatchNorm(8, use_running_average=True, rngs=rngs)]
    network = nnx.Sequential(*layers, nnx.relu, nnx.Linear(8, 1, rngs=rngs), nnx.sigmoid)
    x = _rng().normal(size=(8, 6)).astype(np.float32)
    return Made(from_flax(network, None, x), (x,), (np.asarray(network(x)),))
