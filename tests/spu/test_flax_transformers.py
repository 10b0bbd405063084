"""Flax models of `transformers`, tiny and untrained, under ABY3 with all parties in this process."""

import jax
import numpy as np
import pytest
import transformers

from converters import from_flax
from secure_runner.testing import simulate

RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 60, (2, 8)).astype(np.int32)
MASK = np.array([[1] * 5 + [0] * 3, [1] * 8], np.int32)
SIZES = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}


def _bert():
    config = transformers.BertConfig(vocab_size=60, max_position_embeddings=16, **SIZES)
    return transformers.FlaxBertForSequenceClassification(config, input_shape=(1, 8)), (IDS, MASK)


def _gpt2():
    config = transformers.GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    return transformers.FlaxGPT2LMHeadModel(config, input_shape=(1, 8)), (IDS,)


def _vit():
    config = transformers.ViTConfig(image_size=16, patch_size=8, **SIZES)
    images = RNG.normal(size=(2, 3, 16, 16)).astype(np.float32)
    return transformers.FlaxViTForImageClassification(config, input_shape=(1, 16, 16, 3)), (images,)


def _resnet():
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    images = RNG.normal(size=(2, 3, 32, 32)).astype(np.float32)
    return transformers.FlaxResNetForImageClassification(config, input_shape=(1, 32, 32, 3)), (images,)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [_bert, _gpt2, _vit, _resnet])
def test_a_transformers_model_agrees_with_flax(make):
    """Converted, the logits are Flax's; under SPU they are within 5e-3 of them, padding included."""
    network, inputs = make()
    expected = np.asarray(network(*inputs).logits)
    model = from_flax(network, network.params, *inputs)
    np.testing.assert_allclose(jax.jit(model.predict)(model.params, *inputs)[0], expected, atol=1e-5)
    np.testing.assert_allclose(simulate(model, *inputs)[0], expected, atol=5e-3)
