"""LSTM, GRU and RNN, unrolled: the inputs' product is one matrix product before the loop, and the gates of a
step share one tanh, since sigmoid(x) = (1 + tanh(x / 2)) / 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from converters.errors import NodeError
from converters.onnx.ops import activation
from converters.onnx.ops.index import is_known
from converters.onnx.registry import op

Array = Any
Activation = Callable[[Array], Array]
_LONGEST = 1024
"""Steps; a longer unrolled loop would compile for hours."""


@dataclass(frozen=True)
class _Settings:
    """Attributes that the three operators share."""

    defaults: tuple[str, ...]
    activations: Sequence[str] | None
    alphas: Sequence[float]
    betas: Sequence[float]
    clip: float | None
    direction: str
    layout: int

    @property
    def reversed_directions(self) -> tuple[bool, ...]:
        return {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[self.direction]

    def functions(self, index: int) -> list[Activation]:
        """Activations of one direction."""
        count = len(self.defaults)
        names = [name.lower() for name in self.activations or self.defaults * len(self.reversed_directions)]
        chosen = names[index * count : (index + 1) * count]
        alphas, betas = list(self.alphas), list(self.betas)
        return [_activation(name, alphas, betas) for name in chosen]

    def is_default(self, index: int) -> bool:
        """Whether this direction's gates can share one tanh."""
        count = len(self.defaults)
        names = [name.lower() for name in self.activations or ()][index * count : (index + 1) * count]
        return self.clip is None and (not names or names == [name.lower() for name in self.defaults])

    def clipped(self, x: Array) -> Array:
        return x if self.clip is None else jnp.minimum(jnp.maximum(x, -self.clip), self.clip)


def _activation(name: str, alphas: list[float], betas: list[float]) -> Activation:
    plain: dict[str, Activation] = {
        "sigmoid": lax.logistic,
        "tanh": jnp.tanh,
        "relu": activation.Relu,
        "softsign": activation.Softsign,
        "softplus": activation.Softplus,
    }
    if name in plain:
        return plain[name]
    alpha = alphas.pop(0) if alphas else None
    if name == "leakyrelu":
        return lambda x: activation.LeakyRelu(x, alpha=0.01 if alpha is None else alpha)
    if name == "elu":
        return lambda x: activation.Elu(x, alpha=1.0 if alpha is None else alpha)
    if name == "thresholdedrelu":
        return lambda x: activation.ThresholdedRelu(x, alpha=1.0 if alpha is None else alpha)
    beta = betas.pop(0) if betas else None
    if name == "hardsigmoid":
        return lambda x: activation.HardSigmoid(
            x, alpha=0.2 if alpha is None else alpha, beta=0.5 if beta is None else beta
        )
    if name == "scaledtanh":
        return lambda x: (1.0 if alpha is None else alpha) * jnp.tanh((1.0 if beta is None else beta) * x)
    if name == "affine":
        return lambda x: (1.0 if alpha is None else alpha) * x + (0.0 if beta is None else beta)
    raise NodeError(f"activation {name!r} is not known.", "use one that the ONNX standard lists for RNNs.")


Step = Callable[[Array, tuple[Array, ...]], tuple[Array, ...]]


def _run(
    X: Array,
    states: list[Array],
    lengths: Array,
    settings: _Settings,
    make_step: Callable[[int], tuple[Array, Step]],
) -> tuple[Array, list[Array]]:
    """Run each direction. Returns Y (steps, directions, batch, hidden) and the last states."""
    count = X.shape[0]
    if count > _LONGEST:
        raise NodeError(
            f"{count} steps are too many to unroll (at most {_LONGEST}).", "use shorter sequences."
        )
    outputs, finals = [], []
    for index, backwards in enumerate(settings.reversed_directions):
        projected, step = make_step(index)
        state = tuple(initial[index] for initial in states)
        rows: list[Array] = [None] * count
        for time in range(count)[:: -1 if backwards else 1]:
            new = step(projected[time], state)
            rows[time] = new[0]
            if lengths is not None:
                live = _alive(time, lengths)
                rows[time] = jnp.where(live, new[0], 0)
                new = tuple(jnp.where(live, a, b) for a, b in zip(new, state, strict=True))
            state = new
        outputs.append(jnp.stack(rows))
        finals.append(state)
    return jnp.stack(outputs, axis=1), [jnp.stack(column) for column in zip(*finals, strict=True)]


def _alive(time: int, lengths: Array) -> Array:
    if is_known(lengths):
        return np.asarray(time < lengths).reshape(-1, 1)
    return (time < lengths).reshape(-1, 1)


def _prepared(X: Array, given: list[Array], hidden: int, settings: _Settings) -> tuple[Array, list[Array]]:
    """Time first, and the initial states (directions, batch, hidden): zeros where none was given."""
    if settings.layout:
        X = X.swapaxes(0, 1)
        given = [None if state is None else state.swapaxes(0, 1) for state in given]
    shape = (len(settings.reversed_directions), X.shape[1], hidden)
    return X, [jnp.zeros(shape, X.dtype) if s is None else jnp.broadcast_to(s, shape) for s in given]


def _results(Y: Array, finals: list[Array], settings: _Settings, output_count: int) -> Any:
    if settings.layout:
        Y, finals = Y.transpose(2, 0, 1, 3), [state.swapaxes(0, 1) for state in finals]
    return (Y, *finals)[:output_count]


def _sum_of_biases(B: Array, index: int, width: int) -> Array:
    return 0 if B is None else B[index, :width] + B[index, width:]


def _joint_gates(z: Array, hidden: int, sigmoids: int) -> list[Array]:
    """Gates of which the first ``sigmoids`` are sigmoids and the others tanh, by one tanh."""
    split = sigmoids * hidden
    halved = jnp.concatenate([z[..., :split] * 0.5, z[..., split:]], axis=-1)
    gates = jnp.split(jnp.tanh(halved), z.shape[-1] // hidden, axis=-1)
    return [gate * 0.5 + 0.5 if i < sigmoids else gate for i, gate in enumerate(gates)]


@op(prefers_static=("sequence_lens",))
def LSTM(
    X: Array,
    W: Array,
    R: Array,
    B: Array = None,
    sequence_lens: Array = None,
    initial_h: Array = None,
    initial_c: Array = None,
    P: Array = None,
    *,
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
    output_sequence: int = 0,
    output_count: int,
) -> Any:
    defaults = ("sigmoid", "tanh", "tanh")
    settings = _Settings(defaults, activations, activation_alpha, activation_beta, clip, direction, layout)
    hidden = R.shape[-1]
    X, states = _prepared(X, [initial_h, initial_c], hidden, settings)

    def make_step(index: int) -> tuple[Array, Step]:
        f, g, h = settings.functions(index)
        peep = None if P is None else jnp.split(P[index], 3)
        joint = settings.is_default(index) and P is None

        def step(x: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
            h_old, c_old = state
            z = x + h_old @ R[index].T
            if joint:
                i, o, forget, c = _joint_gates(z, hidden, 3)
            else:
                zi, zo, zf, zc = jnp.split(settings.clipped(z) if peep is None else z, 4, axis=-1)
                i = f(zi if peep is None else settings.clipped(zi + peep[0] * c_old))
                forget = f(zf if peep is None else settings.clipped(zf + peep[2] * c_old))
                c = g(settings.clipped(zc))
                o = None if peep is not None else f(zo)
            forget = 1 - i if input_forget else forget
            c_new = forget * c_old + i * c
            if o is None:
                o = f(settings.clipped(zo + peep[1] * c_new))  # type: ignore[index]
            return o * h(c_new), c_new

        return X @ W[index].T + _sum_of_biases(B, index, 4 * hidden), step

    Y, finals = _run(X, states, sequence_lens, settings, make_step)
    return _results(Y, finals, settings, output_count)


@op(prefers_static=("sequence_lens",))
def GRU(
    X: Array,
    W: Array,
    R: Array,
    B: Array = None,
    sequence_lens: Array = None,
    initial_h: Array = None,
    *,
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
    output_sequence: int = 0,
    output_count: int,
) -> Any:
    settings = _Settings(
        ("sigmoid", "tanh"), activations, activation_alpha, activation_beta, clip, direction, layout
    )
    hidden = R.shape[-1]
    X, states = _prepared(X, [initial_h], hidden, settings)

    def make_step(index: int) -> tuple[Array, Step]:
        f, g = settings.functions(index)
        bias = jnp.zeros(6 * hidden, X.dtype) if B is None else B[index]
        projected = X @ W[index].T + bias[: 3 * hidden]
        gates, candidate = R[index, : 2 * hidden], R[index, 2 * hidden :]
        gate_bias, own_bias = bias[3 * hidden : 5 * hidden], bias[5 * hidden :]

        def step(x: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
            (h_old,) = state
            z_gates = settings.clipped(x[..., : 2 * hidden] + h_old @ gates.T + gate_bias)
            if settings.is_default(index):
                update, reset = _joint_gates(z_gates, hidden, 2)
            else:
                update, reset = jnp.split(f(z_gates), 2, axis=-1)
            if linear_before_reset:
                recurrent = reset * (h_old @ candidate.T + own_bias)
            else:
                recurrent = (reset * h_old) @ candidate.T + own_bias
            new = g(settings.clipped(x[..., 2 * hidden :] + recurrent))
            return (new + update * (h_old - new),)

        return projected, step

    Y, finals = _run(X, states, sequence_lens, settings, make_step)
    return _results(Y, finals, settings, output_count)


@op(prefers_static=("sequence_lens",))
def RNN(
    X: Array,
    W: Array,
    R: Array,
    B: Array = None,
    sequence_lens: Array = None,
    initial_h: Array = None,
    *,
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    output_sequence: int = 0,
    output_count: int,
) -> Any:
    settings = _Settings(("tanh",), activations, activation_alpha, activation_beta, clip, direction, layout)
    hidden = R.shape[-1]
    X, states = _prepared(X, [initial_h], hidden, settings)

    def make_step(index: int) -> tuple[Array, Step]:
        (f,) = settings.functions(index)

        def step(x: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
            return (f(settings.clipped(x + state[0] @ R[index].T)),)

        return X @ W[index].T + _sum_of_biases(B, index, hidden), step

    Y, finals = _run(X, states, sequence_lens, settings, make_step)
    return _results(Y, finals, settings, output_count)
