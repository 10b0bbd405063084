"""Measure what each operation sends under each protocol, and write ``secure_runner/programs/cost_table.py``.

Each operation runs beside a small comparison and product, whose own cost is taken off, and with it what a
session sets up once. Two sizes give a line: so much for each call, so much for each element.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from secure_runner.programs.ciphertexts import ciphertexts
from secure_runner.protocols import PROTOCOLS
from secure_runner.testing import simulate_function

SIZES = {"semi2k": (64, 1024), "aby3": (1024,), "cheetah": (64, 4096)}
"""Two, for the constant of a call, but where it drowns: who sends in ABY3 is drawn. CHEETAH makes triples for
4096 multiplications at a time, so many show what they cost on average; squares, and products with a factor
that stays with its owner, take ciphertexts of their own, up to 8192 numbers in each."""
REPEATS = 16
ONE_WORKER = {"max_concurrency": 1}
"""Several of them say the same in more messages, side by side."""
WARM = np.linspace(0, 1, 2048, dtype=np.float32)
"""Leaves half of CHEETAH's first triples."""
DOTS = ((16, 16, 64), (16, 256, 64), (64, 16, 64), (32, 64, 128))
HOMOMORPHIC_DOTS = ((1, 30, 64), (1, 64, 32), (8, 64, 32), (1, 256, 256), (1, 784, 64))
"""With few results: truncating many would ask for new oblivious transfers."""
TABLE = Path(__file__).parent.parent / "secure_runner" / "programs" / "cost_table.py"
Function = Callable[..., Any]

FLOATS: dict[str, Function] = {
    "add.ss": lambda x, y: x + y,
    "multiply.ss": lambda x, y: x * y,
    "multiply.sp": lambda x, y: x * 0.37,
    "divide.ss": lambda x, y: x / y,
    "divide.ps": lambda x, y: 1 / x,
    "compare.ss": lambda x, y: x < y,
    "compare.eq": lambda x, y: x == y,
    "maximum.ss": lambda x, y: jnp.maximum(x, y),
    "maximum.sp": lambda x, y: jnp.maximum(x, 0),
    "abs": lambda x, y: jnp.abs(x),
    "exponential": lambda x, y: jnp.exp(x),
    "exponential-minus-one": lambda x, y: jnp.expm1(x),
    "log": lambda x, y: jnp.log(x),
    "log-plus-one": lambda x, y: jnp.log1p(x),
    "logistic": lambda x, y: lax.logistic(x),
    "tanh": lambda x, y: jnp.tanh(x),
    "erf": lambda x, y: lax.erf(x),
    "rsqrt": lambda x, y: lax.rsqrt(x),
    "sqrt": lambda x, y: jnp.sqrt(x),
    "sine": lambda x, y: jnp.sin(x),
    "power": lambda x, y: lax.pow(x, y),
    "atan2": lambda x, y: lax.atan2(x, y),
    "floor": lambda x, y: jnp.floor(x),
    "sign": lambda x, y: jnp.sign(x),
}
# Bits come out of comparisons, whose own cost is taken off.
BITS: dict[str, tuple[Function, Function]] = {
    "and.ss": (lambda x, y: (x < y) & (x < 0.7), lambda x, y: (x < y, x < 0.7)),
    "or.ss": (lambda x, y: (x < y) | (x < 0.7), lambda x, y: (x < y, x < 0.7)),
    "convert.bit": (lambda x, y: (x < y).astype(jnp.float32) @ y, lambda x, y: (x < y, x @ y)),
    "convert.bit.sum": (lambda x, y: (x < y).astype(jnp.float32) + x, lambda x, y: x < y),
    "select.bit": (lambda x, y: jnp.where(x < y, 3.0, 5.0), lambda x, y: x < y),
    "select.s": (lambda x, y: jnp.where(x < y, x, y), lambda x, y: x < y),
}


def _run(
    function: Function, arrays: Sequence[np.ndarray], protocol: str, owned: int = 0
) -> tuple[float, ...]:
    """What rank 0 sends on average: ABY3 draws who sends in a truncation, so runs differ."""
    repeats = REPEATS if protocol == "aby3" else 1
    runs = [_run_once(function, arrays, protocol, owned) for _ in range(repeats)]
    return tuple(sum(column) / repeats for column in zip(*runs, strict=True))


def _run_once(
    function: Function, arrays: Sequence[np.ndarray], protocol: str, owned: int
) -> tuple[float, ...]:
    """The last ``owned`` arrays stay private values of the model owner where the protocol has such."""
    count = len(arrays) - owned
    params = {"zero": np.zeros((), np.float32)}
    params |= {f"w{index}": array for index, array in enumerate(arrays[count:])}

    def program(params: Any, *xs: Any) -> tuple[Any, ...]:
        shared = [x + params["zero"] for x in xs]  # a sum of two owners' values, which costs nothing
        weights = [params[f"w{index}"] for index in range(owned)]
        return tuple(jax.tree_util.tree_leaves(function(*shared, *weights)))

    inputs = {f"x{index}": array for index, array in enumerate(arrays[:count])}
    return _sent(program, params, inputs, protocol)


def _sent(
    program: Function, params: Any, inputs: Any, protocol: str, packed_products: bool = True
) -> tuple[float, float]:
    """Bytes and messages from rank 0; with CHEETAH, whose parties differ, bytes are the average of both."""
    simulated = simulate_function(
        program,
        params,
        inputs,
        protocol=protocol,  # type: ignore[arg-type]
        settings={"cheetah_2pc_config": {"disable_matmul_pack": not packed_products}} | ONE_WORKER,
        with_traffic=True,
    )
    traffic = simulated.traffic
    assert traffic is not None
    if protocol == "cheetah":
        return (traffic.sent_bytes + traffic.received_bytes) / 2, traffic.messages
    return traffic.sent_bytes, traffic.messages


@cache
def _set_up(protocol: str) -> tuple[float, ...]:
    """A run that does little, but for what the first comparison and products set up."""
    return _run(_first, [WARM, WARM + 1], protocol)


def _first(a: Any, b: Any) -> tuple[Any, ...]:
    return a < b, a * b, a[:64].reshape(8, 8) @ b[:64].reshape(8, 8)


def _cost(
    function: Function, arrays: Sequence[np.ndarray], protocol: str, owned: int = 0
) -> tuple[float, ...]:
    """Bytes and messages of one call, without the set-up of a session."""
    run = _run(lambda a, b, *xs: (*_first(a, b), function(*xs)), [WARM, WARM + 1, *arrays], protocol, owned)
    return tuple(max(whole - part, 0) for whole, part in zip(run, _set_up(protocol), strict=True))


def _line(function: Function, protocol: str, owned: int = 0) -> tuple[float, ...]:
    rng = np.random.default_rng(0)

    def draw(size: int) -> np.ndarray:
        return rng.uniform(0.5, 2, size).astype(np.float32)

    sizes = SIZES[protocol]
    costs = [_cost(function, [draw(n), draw(n)], protocol, owned) for n in sizes]
    first, last = costs[0], costs[-1]
    if len(sizes) == 1:
        return 0.0, last[0] / sizes[0], first[1]
    slope = max(last[0] - first[0], 0) / (sizes[1] - sizes[0])
    return max(first[0] - slope * sizes[0], 0), slope, first[1]


def _rounded(line: tuple[float, ...]) -> tuple[float, ...]:
    return round(line[0]), round(line[1], 2), round(line[2], 1)


def _dot(protocol: str) -> tuple[float, ...]:
    rng = np.random.default_rng(0)
    rows, targets = [], []
    for m, k, n in DOTS:
        pairs = [rng.normal(size=shape).astype(np.float32) for shape in ((m, k), (k, n))]
        targets.append(_cost(lambda x, y: x @ y, pairs, protocol))
        rows.append((1, m * n, m * k + k * n, m * k * n))
    weights = np.asarray(targets, float)
    scale = 1 / np.maximum(weights[:, 0], 1)
    features = np.asarray(rows, float) * scale[:, None]
    if protocol == "aby3":
        features[:, [0, 2, 3]] = 0  # replicated shares multiply at home: only results are sent
    fitted = _nonnegative(features, np.ones(len(rows)))
    return (
        *(float(f"{w:.4g}") for w in fitted),
        round(float(weights[:, 1].mean()), 1),
    )


def _ciphertext(protocol: str) -> tuple[float, ...]:
    """Bytes of a ciphertext of each kind, of factors that stay with their owners."""
    rng = np.random.default_rng(0)
    truncated = _line(FLOATS["multiply.sp"], protocol)[1]
    rows, targets = [], []
    for m, k, n in HOMOMORPHIC_DOTS:
        draws = {name: rng.normal(size=(m, k)).astype(np.float32) for name in ("x", "y")}
        params = {"w": rng.normal(size=(k, n)).astype(np.float32)}
        for packed in (True, False):
            one, two = (_sent(program, params, draws, protocol, packed)[0] for program in (_once, _twice))
            found = ciphertexts(m, k, n, packed=packed)
            rows.append((found.sent, found.answered, found.extracted, found.packed))
            targets.append(2 * (two - one - truncated * m * n))
    scale = 1 / np.asarray(targets, float)
    fitted = _nonnegative(np.asarray(rows, float) * scale[:, None], np.ones(len(rows)))
    return tuple(float(f"{w:.5g}") for w in fitted)


def _once(params: Any, x: Any, y: Any) -> tuple[Any, ...]:
    return (x @ params["w"],)


def _twice(params: Any, x: Any, y: Any) -> tuple[Any, ...]:
    return x @ params["w"], y @ params["w"]


def _nonnegative(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    from scipy.optimize import nnls

    return nnls(matrix, target)[0]


def _products(protocol: str) -> dict[str, tuple[float, ...]]:
    """Rows of the table for matrix products, and for products with a factor that stays with its owner."""
    if not PROTOCOLS[protocol].homomorphic_products:  # type: ignore[index]
        return {"dot": _dot(protocol)}
    sv = _rounded(_line(FLOATS["multiply.ss"], protocol, owned=1))
    # Two products at a time where both factors are shared; a truncation follows either.
    return {"ciphertext": _ciphertext(protocol), "dot": (3.0,), "dot.sv": (2.0,), "multiply.sv": sv}


def main(protocols: list[str]) -> None:
    """Measure and write the table."""
    table: dict[str, dict[str, tuple[float, ...]]] = {}
    if TABLE.exists():
        from secure_runner.programs.cost_table import COSTS

        table.update(COSTS)
    for protocol in protocols:
        table[protocol] = _products(protocol)
        for name, function in FLOATS.items():
            table[protocol][name] = _rounded(_line(function, protocol))
            print(protocol, name, table[protocol][name], flush=True)
        for name, (function, base) in BITS.items():
            pairs = zip(_line(function, protocol), _line(base, protocol), strict=True)
            table[protocol][name] = _rounded(tuple(max(whole - part, 0) for whole, part in pairs))
            print(protocol, name, table[protocol][name], flush=True)
        _write(table)


def _write(table: dict[str, dict[str, tuple[float, ...]]]) -> None:
    lines = [
        '"""What operations send and take, measured by ``benchmarks/fit_costs.py``; do not edit by hand.',
        "",
        "Bytes for each call, bytes for each element, messages for each call. For dot: bytes for each call,",
        "each output, each input, each product; messages. Where products are homomorphic, messages alone:",
        "bytes are those of a ciphertext sent, one back, a coefficient that it holds, and a packed one back.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        '__all__ = ["COSTS"]',
        "",
        "COSTS: dict[str, dict[str, tuple[float, ...]]] = {",
    ]
    for protocol, rows in table.items():
        lines += [
            f'    "{protocol}": {{',
            *(f'        "{name}": {row},' for name, row in rows.items()),
            "    },",
        ]
    TABLE.write_text("\n".join([*lines, "}", ""]))


if __name__ == "__main__":
    main(sys.argv[1:] or list(PROTOCOLS))
