"""The models that the dealer is measured with: networks, an image network, trees."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

__all__ = ["DealtModel", "dealt_models"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class DealtModel:
    """A function whose inputs are all secret: the features first, then what the model owner has."""

    name: str
    batch: int
    function: Callable[..., Any]
    inputs: list[Array]
    has_exponential: bool = False


def dealt_models() -> list[DealtModel]:
    """Made-up weights and one input each, always the same."""
    rng = np.random.default_rng(0)

    def draw(*shape: int, scale: float = 1.0) -> Array:
        return (scale * rng.normal(size=shape)).astype(np.float32)

    def layers(*sizes: int) -> list[Array]:
        return [
            array
            for before, after in itertools.pairwise(sizes)
            for array in (draw(before, after, scale=before**-0.5), draw(after, scale=0.1))
        ]

    trees = [
        rng.integers(0, 30, (16, 7)).astype(np.int32),
        draw(16, 7),
        draw(16, 8),
    ]
    chosen = np.eye(30, dtype=np.float32)[trees[0].reshape(-1)].T
    return [
        DealtModel("mlp-30-64-32-1", 1, _mlp_sigmoid, [draw(1, 30), *layers(30, 64, 32, 1)], True),
        DealtModel("mlp-30-64-32-1", 32, _mlp_sigmoid, [draw(32, 30), *layers(30, 64, 32, 1)], True),
        DealtModel(
            "cnn-28x28", 1, _cnn, [draw(1, 28, 28, 1), draw(5, 5, 1, 8, scale=0.2), *layers(1152, 10)]
        ),
        DealtModel("mlp-512-1024-512-10", 1, _mlp, [draw(1, 512), *layers(512, 1024, 512, 10)]),
        DealtModel("trees-16x3", 1, _trees, [draw(1, 30), chosen, trees[1], trees[2]]),
    ]


def _mlp(x: Any, *layers: Any) -> Any:
    for index in range(0, len(layers), 2):
        x = x @ layers[index] + layers[index + 1]
        if index + 2 < len(layers):
            x = jax.nn.relu(x)
    return x


def _mlp_sigmoid(x: Any, *layers: Any) -> Any:
    return jax.nn.sigmoid(_mlp(x, *layers))


_IMAGES = ("NHWC", "HWIO", "NHWC")


def _cnn(x: Any, kernel: Any, weight: Any, bias: Any) -> Any:
    x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=_IMAGES)
    x = jax.lax.reduce_window(jax.nn.relu(x), 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
    return x.reshape(x.shape[0], -1) @ weight + bias


def _trees(x: Any, chosen: Any, thresholds: Any, leaves: Any) -> Any:
    """16 trees of depth 3: each node compares one feature; a leaf counts if all its turns are taken."""
    turns = ((x @ chosen) < thresholds.reshape(1, -1)).astype(jnp.float32).reshape(-1, 16, 7)
    reached = jnp.ones((x.shape[0], 16, 1), jnp.float32)
    for depth in range(3):
        taken = turns[:, :, 2**depth - 1 : 2 ** (depth + 1) - 1]
        reached = jnp.stack((reached * taken, reached * (1 - taken)), axis=-1).reshape(x.shape[0], 16, -1)
    return (reached * leaves).sum(axis=(1, 2))
