"""What a tree ensemble costs under MPC, relative to the network 30-64-32-1 in the same run.

``python -m benchmarks.trees`` trains xgboost (100 trees of depth 6 on 20 features), converts it, and runs its
private part with one row in bare SPU runtimes, each party a process of its own, in turns with the network.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.models import NamedMlp, mlp, private_function
from benchmarks.records import Record
from benchmarks.spu_parties import SpuParties, compile_function
from converters import ConvertedModel, apply_steps, from_onnx
from secure_runner.programs.manifest import NumericSpec
from secure_runner.protocols import ProtocolName, computing_roles
from secure_runner.spu_config import runtime_config_dict

__all__ = ["boosted_trees", "measure", "train"]

Array = npt.NDArray[Any]
_FEATURES = 20


def train(trees: int = 100, depth: int = 6) -> tuple[Any, Array]:
    """An xgboost classifier as an ONNX model, and rows to predict."""
    import xgboost
    from onnxmltools.convert import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType
    from sklearn.datasets import make_classification

    rows, classes = make_classification(4000, _FEATURES, n_informative=12, flip_y=0.1, random_state=0)
    rows = rows.astype(np.float32)
    model = xgboost.XGBClassifier(n_estimators=trees, max_depth=depth, n_jobs=1).fit(rows, classes)
    return convert_xgboost(model, initial_types=[("X", FloatTensorType([None, _FEATURES]))]), rows


def boosted_trees(trees: int = 20, depth: int = 3) -> NamedMlp:
    """A regression by few and shallow trees, as homomorphic encryption can still answer it."""
    import xgboost
    from onnxmltools.convert import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    rows = np.random.default_rng(0).normal(size=(1000, _FEATURES)).astype(np.float32)
    values = rows[:, 0] * rows[:, 1] + np.maximum(rows[:, 2], 0)
    fitted = xgboost.XGBRegressor(n_estimators=trees, max_depth=depth, n_jobs=1).fit(rows, values)
    converted = from_onnx(convert_xgboost(fitted, initial_types=[("X", FloatTensorType([None, _FEATURES]))]))
    function, weights = private_function(converted)
    (expected,) = converted.predict(converted.params, rows)
    return NamedMlp(f"trees-{trees}-{depth}", rows, np.asarray(expected), function, weights, converted)


def measure(
    protocols: Sequence[ProtocolName] = ("aby3",),
    batches: Sequence[int] = (1,),
    formulations: Sequence[str] = ("auto",),
    *,
    rounds: int = 8,
    times: int = 10,
) -> list[Record]:
    """One record for each protocol, batch size and formulation.

    Args:
        protocols: without a dealer: semi2k is TrustedFirstParty here, insecure and a floor.
        batches: rows of one run.
        formulations: see `converters.trees.Formulation`.
        rounds: turns between the trees and the network.
        times: runs of a turn.
    """
    onnx_model, rows = train()
    models = {name: from_onnx(onnx_model, tree_formulation=name) for name in formulations}  # type: ignore[arg-type]
    network = mlp()
    records = []
    for protocol in protocols:
        config = runtime_config_dict(protocol, NumericSpec(), insecure=True)
        with SpuParties(len(computing_roles(protocol))) as parties:
            parties.open(protocol, [config] * len(parties.processes))
            for batch in batches:
                run = _Runs(parties, protocol, config, times)
                base = run.add(network.unmodified, [network.rows[:batch], *network.weights])
                added = {name: run.add(*_private_part(model, rows[:batch])) for name, model in models.items()}
                medians = run.medians(rounds)
                for name, index in added.items():
                    records.append(
                        Record.of(
                            "trees_over_mlp",
                            suite="trees",
                            protocol="semi2k-tfp" if protocol == "semi2k" else protocol,
                            batch=batch,
                            value=medians[index],
                            unit="ms",
                            baseline=medians[base],
                            n=rounds * times,
                            formulation=name,
                        )
                    )
    return records


def _private_part(model: ConvertedModel, rows: Array) -> tuple[Callable[..., Any], list[Array]]:
    shared: Mapping[str, Any] = apply_steps(model.encode, {model.inputs[0].name: rows})
    function, weights = private_function(model)
    return function, [np.asarray(shared[model.private_inputs[0].name]), *weights]


class _Runs:
    """Programs that take turns, so that the machine's load falls on all of them alike."""

    def __init__(self, parties: SpuParties, name: str, config: Mapping[str, Any], times: int) -> None:
        self.parties, self.name, self.config, self.times = parties, name, config, times
        self.programs: list[tuple[Any, list[Array]]] = []

    def add(self, function: Callable[..., Any], arrays: list[Array]) -> int:
        self.programs.append((compile_function(function, *arrays), arrays))
        return len(self.programs) - 1

    def medians(self, rounds: int) -> list[float]:
        """Milliseconds of one run of each program."""
        durations: list[list[float]] = [[] for _ in self.programs]
        for turn in range(rounds + 1):
            for own, (compiled, arrays) in zip(durations, self.programs, strict=True):
                _, found = self.parties.run(
                    self.name, compiled, arrays, self.config, times=self.times if turn else 1
                )
                own.extend(found if turn else [])  # the first turn warms up
        return [float(np.median(own)) for own in durations]


def main(arguments: Sequence[str]) -> None:
    """Print records, one a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--protocols", nargs="+", default=["aby3"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument("--formulations", nargs="+", default=["auto"])
    parser.add_argument("--rounds", type=int, default=8)
    chosen = parser.parse_args(arguments)
    for record in measure(chosen.protocols, chosen.batches, chosen.formulations, rounds=chosen.rounds):
        print(record.model_dump_json())


if __name__ == "__main__":
    main(sys.argv[1:])
