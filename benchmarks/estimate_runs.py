"""What programs really take, to hold estimates against: bare runtimes, and a network between that delays.

``python -m benchmarks.estimate_runs [PROTOCOL…]`` runs each model at some batch sizes and writes
``benchmarks/results/estimate_runs.json``. Bytes are counted by the network and so hold the framing of
messages; rounds are what a round trip of 20 ms adds to a run, divided by it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, TypeAdapter

from benchmarks.models import mlp, private_function
from benchmarks.spu_parties import SpuParties, compile_function
from converters import ConvertedModel, from_flax, from_onnx
from secure_runner.programs.estimate import estimate
from secure_runner.programs.manifest import NumericSpec
from secure_runner.protocols import PROTOCOLS, ProtocolName, protocol
from secure_runner.sessions.environment import PARTY_DEFAULTS
from secure_runner.spu_config import runtime_config_dict

__all__ = ["MODELS", "EstimateRun", "Runs", "batch_sizes", "random_rows", "read_runs"]

Array = npt.NDArray[Any]
RUNS = Path(__file__).parent / "results" / "estimate_runs.json"
ROUND_TRIP_MS = 20.0


class EstimateRun(BaseModel):
    """One program at one batch size, measured."""

    model: str
    protocol: ProtocolName
    batch: int
    sent_bytes: float
    """Of a run, by each party on average."""
    run_ms: float
    """On this machine, with no network between; the median."""
    rounds: float


class Convolutions(nn.Module):
    """Two convolutions with pooling, one dense layer."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for width in (8, 16):
            x = nn.max_pool(nn.relu(nn.Conv(width, (3, 3))(x)), (2, 2), (2, 2))
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


class Encoder(nn.Module):
    """One layer of a transformer."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        h = nn.LayerNorm()(x + nn.SelfAttention(2)(x))
        return nn.LayerNorm()(h + nn.Dense(32)(nn.gelu(nn.Dense(64)(h))))


class Layers(nn.Module):
    """30-64-32-1 with a sigmoid."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
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

    x = np.random.default_rng(0).normal(size=(300, 20)).astype(np.float32)
    fitted = xgboost.XGBClassifier(n_estimators=100, max_depth=6).fit(x, x[:, 0] > 0)
    return from_onnx(convert_xgboost(fitted, initial_types=[("x", FloatTensorType([None, 20]))]))


MODELS: dict[str, Callable[[], ConvertedModel]] = {
    "MLP 30-64-32-1": lambda: _flax(Layers(), 30),
    "the same, sigmoid under MPC": lambda: _flax(Layers(), 30, rewrites={"peel_outputs": False}),
    "MLP 30-256-256-1": lambda: mlp(30, (256, 256, 1)).converted,
    "MLP 30-64-64-64-64-64-64-1": lambda: mlp(30, (64,) * 6 + (1,)).converted,
    "CNN 14 x 14": lambda: _flax(Convolutions(), 14, 14, 1),
    "transformer layer, 8 x 32": lambda: _flax(Encoder(), 8, 32),
    "xgboost, 100 trees, depth 6": _trees,
}


def batch_sizes(name: ProtocolName) -> tuple[int, ...]:
    """At which a protocol is measured."""
    return (1, 8) if name == "cheetah" else (1, 8, 32)


class Runs:
    """Parties of one protocol as they are served, and others with a network between them; to be closed."""

    def __init__(self, name: ProtocolName) -> None:
        chosen = protocol(name)
        self.name = name
        self._owned = chosen.inputs_stay_with_owner
        self._configs = {
            packed: runtime_config_dict(name, NumericSpec(), insecure=True, packed_products=packed)
            for packed in (True, False)
        }
        self._near, self._far = (
            SpuParties(
                len(chosen.roles), without_sequence_ids=chosen.link_without_sequence_ids, relayed=relayed
            )
            for relayed in (False, True)
        )
        for parties in (self._near, self._far):
            for packed, config in self._configs.items():
                parties.open(_runtime(packed), [config] * len(chosen.roles))

    def measure(
        self, model: str, converted: ConvertedModel, rows: Sequence[Array], times: int
    ) -> EstimateRun:
        """Run some rows ``times`` times, and a few times with a round trip of 20 ms."""
        run = self._program(converted, rows)
        run(self._near, 2)
        direct = run(self._near, times)
        relay = self._far.relay
        assert relay is not None
        run(self._far, 1)
        before = sum(relay.carried_bytes().values())
        relayed = run(self._far, 2)
        carried = sum(relay.carried_bytes().values()) - before
        relay.set_round_trip(ROUND_TRIP_MS / 1000)
        delayed = run(self._far, 2)
        relay.set_round_trip(0)
        return EstimateRun(
            model=model,
            protocol=self.name,
            batch=len(rows[0]),
            sent_bytes=carried / 2 / len(self._far.processes),
            run_ms=float(np.median(direct)),
            rounds=max(min(delayed) - min(relayed), 0) / ROUND_TRIP_MS,
        )

    def far_ms(
        self, converted: ConvertedModel, rows: Sequence[Array], round_trip_ms: float, times: int
    ) -> float:
        """Median of ``times`` runs over a network."""
        assert self._far.relay is not None
        run = self._program(converted, rows)
        run(self._far, 1)
        self._far.relay.set_round_trip(round_trip_ms / 1000)
        taken = run(self._far, times)
        self._far.relay.set_round_trip(0)
        return float(np.median(taken))

    def close(self) -> None:
        """End all processes."""
        self._near.close()
        self._far.close()

    def _program(
        self, converted: ConvertedModel, rows: Sequence[Array]
    ) -> Callable[[SpuParties, int], list[float]]:
        function, weights = private_function(converted)
        inputs = [*rows, *weights]
        owners = [*[1] * len(rows), *[0] * len(weights)] if self._owned else None
        compiled = compile_function(function, *inputs)
        packed = estimate(converted, protocol=self.name, batch_size=len(rows[0])).packed_products
        return lambda parties, count: parties.run(
            _runtime(packed), compiled, inputs, self._configs[packed], times=count, owners=owners
        )[1]


def _runtime(packed: bool) -> str:
    return "packed" if packed else "unpacked"


def random_rows(converted: ConvertedModel, batch: int) -> list[Array]:
    """Normal private inputs."""
    draw = np.random.default_rng(0)
    return [draw.normal(size=spec.with_batch(batch)).astype(spec.dtype) for spec in converted.private_inputs]


_LIST = TypeAdapter(list[EstimateRun])


def read_runs() -> list[EstimateRun]:
    """What was measured last."""
    return _LIST.validate_json(RUNS.read_bytes()) if RUNS.exists() else []


def main(names: list[ProtocolName]) -> None:
    """Measure, and replace the records of these protocols."""
    warnings.simplefilter("ignore")
    os.environ.update(PARTY_DEFAULTS | os.environ)  # as the runner does for its parties
    models = {model: make() for model, make in MODELS.items()}
    found = [run for run in read_runs() if run.protocol not in names]
    for name in names:
        with contextlib.closing(Runs(name)) as runs:
            for model, converted in models.items():
                for batch in batch_sizes(name):
                    rows = random_rows(converted, batch)
                    found.append(runs.measure(model, converted, rows, 9))
                    print(found[-1].model_dump_json(), flush=True)
    RUNS.parent.mkdir(exist_ok=True)
    RUNS.write_bytes(_LIST.dump_json(found, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:] or list(PROTOCOLS))  # type: ignore[arg-type]
