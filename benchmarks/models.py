"""The network that most suites measure: 30 features, hidden layers of 64 and 32, one probability."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from flax import linen as nn

from converters import ConvertedModel, from_flax

__all__ = ["Mlp", "NamedMlp", "mlp", "private_function"]

Array = npt.NDArray[Any]
_ROWS = 256


class Mlp(nn.Module):
    """Dense layers with ReLU between them; sigmoid at the end, where asked for."""

    widths: Sequence[int]
    probability: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Rows of features to rows of the last width."""
        for width in self.widths[:-1]:
            x = nn.relu(nn.Dense(width)(x))
        x = nn.Dense(self.widths[-1])(x)
        return nn.sigmoid(x) if self.probability else x


@dataclass(frozen=True)
class NamedMlp:
    """A network as its owner has it, and as this project converts it."""

    name: str
    rows: Array
    """Features, shape (256, features)."""
    expected: Array
    """What the network says of them, in plaintext float32."""
    unmodified: Callable[..., Any]
    """``f(x, *weights)``: the network's own predict function, nothing rewritten or peeled."""
    weights: list[Array]
    converted: ConvertedModel


def mlp(features: int = 30, widths: Sequence[int] = (64, 32, 1), *, probability: bool = True) -> NamedMlp:
    """A network with random weights; weights do not change what MPC costs."""
    module = Mlp(tuple(widths), probability)
    rows = np.random.default_rng(0).normal(size=(_ROWS, features)).astype(np.float32)
    variables = module.init(jax.random.PRNGKey(0), rows[:1])
    leaves, tree = jax.tree_util.tree_flatten(variables)

    def unmodified(x: Any, *weights: Any) -> Any:
        return module.apply(jax.tree_util.tree_unflatten(tree, weights), x)

    name = "mlp-" + "-".join(str(width) for width in (features, *widths))
    return NamedMlp(
        name=name,
        rows=rows,
        expected=np.asarray(module.apply(variables, rows)),
        unmodified=unmodified,
        weights=[np.asarray(leaf) for leaf in leaves],
        converted=from_flax(module, variables, rows[:1]),
    )


def private_function(model: ConvertedModel) -> tuple[Callable[..., Any], list[Array]]:
    """The part of a converted model that runs under MPC, as ``f(x, *weights)``, and its weights."""
    names = sorted(model.params)

    def function(x: Any, *weights: Any) -> Any:
        params: Mapping[str, Any] = dict(zip(names, weights, strict=True))
        return model.private_predict(params, x)

    return function, [model.params[name] for name in names]
