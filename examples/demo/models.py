"""Three small models on data that ships with scikit-learn, as their owners would export them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from converters import ConvertedModel, from_flax, from_onnx

__all__ = ["MODELS", "DemoModel"]

_SEED = 7


@dataclass(frozen=True)
class DemoModel:
    """A converted model, rows that it was not trained on, and what it says of them in plaintext."""

    name: str
    model: ConvertedModel
    rows: np.ndarray
    plaintext: np.ndarray
    """Probabilities, shape (rows, classes), from scikit-learn or Flax."""
    probabilities: str
    """Name of the output that holds probabilities."""
    least_agreement: float


def breast_cancer(name: str, estimator: Any) -> DemoModel:
    """An ONNX pipeline of a scaler and ``estimator``, 30 features, 2 classes."""
    features, labels = load_breast_cancer(return_X_y=True)
    seen, held_back, seen_labels, _ = train_test_split(
        features.astype(np.float32), labels, test_size=64, random_state=_SEED
    )
    pipeline = make_pipeline(StandardScaler(), estimator).fit(seen, seen_labels)
    onnx_model = to_onnx(pipeline, seen[:1], options={"zipmap": False})
    model = from_onnx(onnx_model)
    return DemoModel(name, model, held_back, pipeline.predict_proba(held_back), "probabilities", 1.0)


class DigitsCnn(nn.Module):
    """8×8 grey images to 10 digits."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Images of shape (batch, 8, 8, 1) to probabilities of shape (batch, 10)."""
        hidden = nn.relu(nn.Conv(8, (3, 3))(images))
        hidden = nn.avg_pool(hidden, (2, 2), strides=(2, 2))
        hidden = nn.relu(nn.Dense(32)(hidden.reshape((hidden.shape[0], -1))))
        return nn.softmax(nn.Dense(10)(hidden))


def digits() -> DemoModel:
    """A Flax network on scikit-learn's digits."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    seen, held_back, seen_labels, _ = train_test_split(images, labels, test_size=64, random_state=_SEED)
    module = DigitsCnn()
    variables = _train(module, seen, seen_labels)
    plaintext = np.asarray(module.apply(variables, held_back))
    model = from_flax(module, variables, seen[:1])
    return DemoModel("digits-cnn", model, held_back, plaintext, model.outputs[0].name, 0.98)


MODELS: tuple[Callable[[], DemoModel], ...] = (
    lambda: breast_cancer("breast-cancer-mlp", MLPClassifier((64, 32), max_iter=400, random_state=_SEED)),
    lambda: breast_cancer("breast-cancer-lr", LogisticRegression(max_iter=1000)),
    digits,
)


def _train(module: nn.Module, images: np.ndarray, labels: np.ndarray, steps: int = 600) -> Any:
    variables = module.init(jax.random.PRNGKey(_SEED), images[:1])
    optimizer = optax.adam(3e-3)

    def loss(variables: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        chosen = jnp.take_along_axis(module.apply(variables, images), labels[:, None], axis=1)
        return -jnp.log(chosen + 1e-7).mean()

    @jax.jit
    def step(variables: Any, state: Any, images: jax.Array, labels: jax.Array) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(loss)(variables, images, labels), state)
        return optax.apply_updates(variables, updates), state

    state, order = optimizer.init(variables), np.random.default_rng(_SEED)
    for _ in range(steps):
        batch = order.integers(0, len(images), 64)
        variables, state = step(variables, state, images[batch], labels[batch])
    return variables
