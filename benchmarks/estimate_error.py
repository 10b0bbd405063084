"""Hold estimates against what runs send, and write ``docs/estimate.md``.

``python benchmarks/estimate_error.py [PROTOCOL ...]``; every model runs under SPU with all parties in one
process.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from converters import ConvertedModel, from_flax, from_onnx
from secure_runner.programs.estimate import LAN, WAN, estimate
from secure_runner.testing import run_private

PAGE = Path(__file__).parent.parent / "docs" / "estimate.md"
RNG = np.random.default_rng(0)


class Convolutions(nn.Module):
    """Two convolutions with pooling, one dense layer."""

    @nn.compact
    def __call__(self, x: Any) -> Any:  # noqa: D102
        for width in (8, 16):
            x = nn.max_pool(nn.relu(nn.Conv(width, (3, 3))(x)), (2, 2), (2, 2))
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


class Encoder(nn.Module):
    """One layer of a transformer."""

    @nn.compact
    def __call__(self, x: Any) -> Any:  # noqa: D102
        h = nn.LayerNorm()(x + nn.SelfAttention(2)(x))
        return nn.LayerNorm()(h + nn.Dense(32)(nn.gelu(nn.Dense(64)(h))))


class Layers(nn.Module):
    """30-64-32-1 with a sigmoid."""

    @nn.compact
    def __call__(self, x: Any) -> Any:  # noqa: D102
        for width in (64, 32):
            x = nn.relu(nn.Dense(width)(x))
        return nn.sigmoid(nn.Dense(1)(x))


def _flax(module: nn.Module, *shape: int, **options: Any) -> ConvertedModel:
    x = np.zeros((1, *shape), np.float32)
    return from_flax(module, module.init(jax.random.PRNGKey(0), x), x, **options)


def _trees() -> ConvertedModel:
    import xgboost
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    x = RNG.normal(size=(300, 20)).astype(np.float32)
    fitted = xgboost.XGBClassifier(n_estimators=100, max_depth=6).fit(x, x[:, 0] > 0)
    return from_onnx(convert_xgboost(fitted, initial_types=[("x", FloatTensorType([None, 20]))]))


def _row(name: str, model: ConvertedModel, protocol: str, batch_size: int) -> str:
    found = estimate(model, protocol=protocol, batch_size=batch_size)  # type: ignore[arg-type]
    arrays = [
        RNG.normal(size=spec.with_batch(batch_size)).astype(spec.dtype) for spec in model.private_inputs
    ]
    run = run_private(model, arrays, protocol=protocol, with_traffic=True).traffic  # type: ignore[arg-type]
    assert run is not None
    cells = [
        name,
        protocol,
        str(batch_size),
        f"{found.sent_bytes / 1000:,.0f}",
        f"{run.sent_bytes / 1000:,.0f}",
        f"{found.messages:,}",
        f"{run.messages:,}",
        f"{found.seconds(LAN) * 1000:,.0f}",
        f"{found.seconds(WAN) * 1000:,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main(protocols: list[str]) -> None:
    """Run and write the page."""
    warnings.simplefilter("ignore")
    models = {
        "MLP 30-64-32-1": _flax(Layers(), 30),
        "the same, sigmoid under MPC": _flax(Layers(), 30, rewrites={"peel_outputs": False}),
        "CNN 14 x 14": _flax(Convolutions(), 14, 14, 1),
        "transformer layer, 8 x 32": _flax(Encoder(), 8, 32),
        "xgboost, 100 trees, depth 6": _trees(),
    }
    rows = []
    for protocol in protocols:
        for name, model in models.items():
            for batch_size in (1,) if protocol == "cheetah" else (1, 8):
                rows.append(_row(name, model, protocol, batch_size))
                sys.stdout.write(rows[-1] + "\n")
                sys.stdout.flush()
    PAGE.write_text(_HEADING + "\n".join(rows) + "\n")


_HEADING = """# What a model will cost

`secure-runner estimate MODEL` reads the lowered program and prices each operation from a table of measured
costs (`benchmarks/fit_costs.py`): nothing is compiled. Bytes and messages are those of rank 0 in one run of
one batch. This page, made by `python benchmarks/estimate_error.py`, holds estimates against runs under SPU
with all parties in one process. Runs under CHEETAH include the set-up of oblivious transfers, which a session
does once and an estimate leaves out. Times are compute on the machine of the table, round trips and transfer:
a LAN of 0.5 ms and 1 Gbit/s, a WAN of 40 ms and 100 Mbit/s.

| model | protocol | batch | kB, estimated | run | messages, estimated | run | LAN, ms | WAN, ms |
|---|---|---|---|---|---|---|---|---|
"""


if __name__ == "__main__":
    main(sys.argv[1:] or ["aby3", "semi2k", "cheetah"])
