"""Measure what each rewrite of the converters saves, and write ``docs/rewrites.md``.

``python benchmarks/rewrite_gains.py`` runs a small model with and without each rewrite, under ABY3 and
SEMI2K, FM64 with 18 fraction bits, all parties in one process, and counts what rank 0 sends.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnx.parser

from converters import ConvertedModel, from_flax, from_onnx
from converters.jaxpr.program import JAX_REWRITES
from converters.onnx.ops import activation, pool, reduce
from converters.passes import PASSES
from secure_runner.testing import run_private, simulate_function

PAGE = Path(__file__).parent.parent / "docs" / "rewrites.md"
PROTOCOLS = ("aby3", "semi2k")
RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Gain:
    """One rewrite and a model that shows it."""

    rewrite: str
    what: str
    make: Callable[[dict[str, bool] | None], ConvertedModel]
    inputs: tuple[np.ndarray, ...]
    """What a client sends."""
    together: tuple[str, ...] = ()
    """Rewrites that are switched off with it, because they would do part of its work."""


def _onnx(body: str, output: str, inputs: str, weights: dict[str, np.ndarray] | None = None) -> Any:
    weights = weights or {}
    formal = ", ".join(
        [inputs, *(f"float[{', '.join(map(str, w.shape))}] {name}" for name, w in weights.items())]
    )
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 20]> m ({formal}) => ({output}) {{ {body} }}'
    )
    for value in [value for value in model.graph.input if value.name in weights]:
        model.graph.input.remove(value)
    for name, weight in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype(np.float32), name))
    return lambda rewrites: from_onnx(model, rewrites=rewrites)


def _flax(function: Callable[..., Any], variables: dict[str, np.ndarray], *inputs: np.ndarray) -> Any:
    return lambda rewrites: from_flax(function, variables, *inputs, rewrites=rewrites)


def _linear_classifier() -> Any:
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    x = RNG.normal(size=(60, 10)).astype(np.float32)
    fitted = LogisticRegression().fit(x, np.arange(60) % 3)
    proto = to_onnx(fitted, x[:1], options={"zipmap": False})
    return lambda rewrites: from_onnx(proto, rewrites=rewrites)


def gains() -> list[Gain]:
    """All rewrites with a model each."""
    x = RNG.normal(size=(16, 10)).astype(np.float32)
    image = RNG.normal(size=(1, 8, 12, 12)).astype(np.float32)
    ids = RNG.integers(0, 100, (1, 16)).astype(np.int32)
    w, b = RNG.normal(size=(10, 4)), RNG.normal(size=4)
    stats = dict(zip(("g", "o", "m", "v"), RNG.uniform(0.5, 2, (4, 8)), strict=True))
    conv = {"k": RNG.normal(size=(8, 8, 3, 3)), **stats}
    low = "low = Constant<value_float=-340282346638528859811704183484516925440.0>() "
    low += "one = Constant<value_float=1.0>() k = Greater(x, x) f = Cast<to=1>(k) i = Sub(one, f) "
    table = {"t": RNG.normal(size=(100, 32)).astype(np.float32)}
    return [
        Gain(
            "peel_outputs",
            "sigmoid of 16 x 4 outputs",
            _onnx("h = Gemm(x, w, b) y = Sigmoid(h)", "float[N, 4] y", "float[N, 10] x", {"w": w, "b": b}),
            (x,),
        ),
        Gain(
            "peel_outputs",
            "softmax of 16 x 4 outputs",
            _onnx("h = Gemm(x, w, b) y = Softmax(h)", "float[N, 4] y", "float[N, 10] x", {"w": w, "b": b}),
            (x,),
            ("fold_centring",),
        ),
        Gain(
            "fold_centring",
            "the mean of 16 x 4 peeled logits, in the weights",
            _onnx("h = Gemm(x, w, b) y = Softmax(h)", "float[N, 4] y", "float[N, 10] x", {"w": w, "b": b}),
            (x,),
        ),
        Gain(
            "split_linear_models",
            "LogisticRegression of 3 classes, 16 rows: lets the others work",
            _linear_classifier(),
            (x,),
        ),
        Gain(
            "argmax_before_activation",
            "label of a softmax over 16 x 4",
            _onnx(
                "h = Gemm(x, w, b) p = Softmax(h) y = ArgMax<axis=1>(p)",
                "int64[N, 1] y",
                "float[N, 10] x",
                {"w": w, "b": b},
            ),
            (x,),
        ),
        Gain(
            "fold_scaling",
            "(x - m) / s before a layer of 10 x 4, 16 rows",
            _onnx(
                "a = Sub(x, m) c = Div(a, s) y = Gemm(c, w, b)",
                "float[N, 4] y",
                "float[N, 10] x",
                {"m": RNG.normal(size=10), "s": RNG.uniform(1, 2, 10), "w": w, "b": b},
            ),
            (x,),
        ),
        Gain(
            "fold_batch_norm",
            "convolution 3 x 3 of 8 channels, 12 x 12",
            _onnx(
                "h = Conv<pads=[1, 1, 1, 1]>(x, k) y = BatchNormalization(h, g, o, m, v)",
                "float[N, 8, 12, 12] y",
                "float[N, 8, 12, 12] x",
                conv,
            ),
            (image,),
        ),
        Gain(
            "pool_before_activation",
            "ReLU and maximum of 2 x 2 over 8 x 12 x 12",
            _onnx(
                "h = Mul(x, x) r = Relu(h) y = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(r)",
                "float[N, 8, 6, 6] y",
                "float[N, 8, 12, 12] x",
            ),
            (image,),
        ),
        Gain(
            "clamp_masks",
            "(1 - m) * finfo.min under a softmax of 16 x 10: no gain, but right",
            _onnx(
                low + "c = Mul(i, low) h = Add(x, c) p = Softmax(h) y = Mul(p, x)",
                "float[N, 10] y",
                "float[N, 10] x",
            ),
            (x,),
        ),
        Gain(
            "gelu_polynomial",
            "GELU of 16 x 10",
            _onnx("h = Gelu(x) y = Mul(h, x)", "float[N, 10] y", "float[N, 10] x"),
            (x,),
        ),
        Gain(
            "embed_at_data_owner",
            "16 words of a table of 100 x 32",
            _onnx("y = Gather(t, x)", "float[N, 16, 32] y", "int64[N, 16] x", table),
            (ids,),
        ),
        Gain(
            "embedding_rows",
            "the same in Flax, expanded under MPC",
            _flax(lambda v, i: v["t"][i], table, ids),
            (ids,),
            ("embed_at_data_owner",),
        ),
        Gain("embed_at_data_owner", "the same in Flax", _flax(lambda v, i: v["t"][i], table, ids), (ids,)),
        Gain(
            "argmax_by_comparison",
            "argmax of 16 x 10 in Flax",
            _flax(lambda v, x: jnp.argmax(x * v["s"], -1), {"s": np.ones(10, np.float32)}, x),
            (x,),
        ),
        Gain(
            "peel_outputs",
            "softmax of 16 x 4 outputs in Flax",
            _flax(lambda v, x: nn.softmax(x @ v["w"]), {"w": w.astype(np.float32)}, x),
            (x,),
        ),
    ]


def _measured(model: ConvertedModel, inputs: tuple[np.ndarray, ...], protocol: str) -> str:
    from converters import apply_steps

    sent = {spec.name: value for spec, value in zip(model.inputs, inputs, strict=True)}
    shared = apply_steps(model.encode, sent)
    arrays = [np.asarray(shared[s.name]).astype(s.dtype, copy=False) for s in model.private_inputs]
    traffic = run_private(model, arrays, protocol=protocol, with_traffic=True).traffic  # type: ignore[arg-type]
    assert traffic is not None
    return f"{traffic.sent_bytes / 1000:.1f} / {traffic.messages}"


def _formulations() -> list[tuple[str, Callable[..., Any], Callable[..., Any], np.ndarray]]:
    """Operators that are written for MPC from the start, and how they are usually written."""
    x = RNG.normal(size=(16, 10)).astype(np.float32)
    image = RNG.normal(size=(1, 4, 10, 10)).astype(np.float32)

    def window(value: Any) -> Any:
        return jax.lax.reduce_window(value, -jnp.inf, jax.lax.max, (1, 1, 3, 3), (1, 1, 1, 1), "VALID")

    def separable(value: Any) -> Any:
        return pool.MaxPool(value, kernel_shape=(3, 3), output_count=1)

    return [
        ("softmax: one reciprocal a row, 16 x 10", jax.nn.softmax, lambda v: activation.softmax(v, -1), x),
        ("separable maximum of 3 x 3, stride 1, 4 x 10 x 10", window, separable, image),
        (
            "argmax by maximum and comparison, 16 x 10",
            lambda v: jnp.argmax(v, 1),
            lambda v: reduce.argmax(v, 1, False),
            x,
        ),
    ]


def _operator(function: Callable[..., Any], array: np.ndarray, protocol: str) -> str:
    def program(params: Any, x: Any) -> tuple[Any, ...]:
        return (function(x),)

    traffic = simulate_function(program, {}, {"x": array}, protocol=protocol, with_traffic=True).traffic  # type: ignore[arg-type]
    assert traffic is not None
    return f"{traffic.sent_bytes / 1000:.1f} / {traffic.messages}"


def _row(gain: Gain) -> str:
    off = dict.fromkeys((gain.rewrite, *gain.together), False)
    on = dict.fromkeys(gain.together, False)
    cells = []
    for protocol in PROTOCOLS:
        cells.append(_measured(gain.make(off), gain.inputs, protocol))
        cells.append(_measured(gain.make(on or None), gain.inputs, protocol))
    return f"| `{gain.rewrite}` | {gain.what} | {' | '.join(cells)} |"


def main() -> None:
    """Measure and write the page."""
    rows = []
    for gain in gains():
        rows.append(_row(gain))
        sys.stdout.write(rows[-1] + "\n")
    for what, usual, ours, array in _formulations():
        cells = [_operator(f, array, protocol) for protocol in PROTOCOLS for f in (usual, ours)]
        rows.append(f"| operator | {what} | {' | '.join(cells)} |")
        sys.stdout.write(rows[-1] + "\n")
    names = [f"- `{entry.name}`: {_summary(entry.apply)}" for entry in PASSES]
    PAGE.write_text(
        _HEADING + "\n".join(rows) + "\n\n## All rewrites\n\n" + _SWITCH + "\n".join(names) + _FLAX
    )


def _summary(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").split("\n\n")[0].split(";")[0].strip().rstrip(".") + "."


_HEADING = """# Rewrites, and what each one saves

Made by `python benchmarks/rewrite_gains.py`. Every rewrite is measured on a small model that shows it, under
SPU with all parties in one process (FM64, 18 fraction bits): kB and messages that rank 0 sends in one run,
without the rewrite and with it. Where another rewrite would do part of the work, both runs are without that
one. The rows called *operator* compare how an operator is usually written with how the converters write it.

| rewrite | model | ABY3, without | ABY3, with | SEMI2K, without | SEMI2K, with |
|---|---|---|---|---|---|
"""
_SWITCH = """`from_onnx(..., rewrites={"name": False})` switches one off; `report.rewrites` and the manifest
list those that changed something. In their order:

"""
_FLAX = "\n\nOf Flax models, likewise: " + ", ".join(f"`{name}`" for name in JAX_REWRITES) + ".\n"


if __name__ == "__main__":
    main()
