"""Every operation, in real processes, on real links, against plaintext."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.dealt_parties import SEMI2K, configs, record, register, relayed
from benchmarks.spu_parties import SpuParties, compile_function
from secure_runner.dealer import DealerProcess, Transcript
from secure_runner.dealer.steps import INPUT_COUNTS, Step

_ATOL = 1e-3


def _program(x, y, i, j):
    return (
        x * y,
        x * x,
        x @ y.T,
        x < y,
        i == j,
        jnp.where(i > j, x, y),
        jnp.sort(x[:, 0]),
        jax.nn.sigmoid(x),
    )


def _inputs() -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    floats = [rng.normal(size=(3, 2)).astype(np.float32) for _ in range(2)]
    return floats + [rng.integers(0, 3, (3, 2)).astype(np.int32) for _ in range(2)]


@functools.cache
def _compiled() -> tuple[bytes, int]:
    return compile_function(_program, *_inputs())


@functools.cache
def _transcript(count: int, field: str, plain_truncation: bool) -> Transcript:
    base = {**SEMI2K, "field": field, "trunc_allow_msb_error": plain_truncation}
    return record(_compiled(), _inputs(), base, parties=count, adjust_rank=count - 1)


@pytest.mark.parametrize("way", ["direct", "relayed"])
@pytest.mark.parametrize(("field", "plain_truncation"), [("FM64", False), ("FM128", False), ("FM64", True)])
def test_results_equal_plaintext(
    parties: tuple[int, SpuParties], dealer: DealerProcess, field: str, plain_truncation: bool, way: str
) -> None:
    """A program with all operations, pinned to its transcript, gives the plaintext result, run after run,
    whether SPU's client asks the dealer itself or a relay in its process."""
    _runs_equal_plaintext(*parties, dealer, field, plain_truncation, way)


@pytest.mark.parametrize(("plain_truncation", "way"), [(False, "direct"), (True, "relayed")])
def test_results_of_five_parties_equal_plaintext(
    five_parties: SpuParties, dealer: DealerProcess, plain_truncation: bool, way: str
) -> None:
    """What the dealer makes depends on the field, or on how many share it, not on both."""
    _runs_equal_plaintext(5, five_parties, dealer, "FM64", plain_truncation, way)


def _runs_equal_plaintext(
    count: int, linked: SpuParties, dealer: DealerProcess, field: str, plain_truncation: bool, way: str
) -> None:
    base = {**SEMI2K, "field": field, "trunc_allow_msb_error": plain_truncation}
    name = f"operations-{count}-{field}-{plain_truncation}-{way}"
    names = [f"party{rank}" for rank in range(count)]
    transcript = _transcript(count, field, plain_truncation)
    grants = register(dealer.address, dealer.public_key, name, transcript, names=names, adjust_rank=count - 1)
    relays = relayed(dealer.address, dealer.public_key, grants[count - 1], transcript)
    linked.open(name, configs(dealer.address, grants, base), relays if way == "relayed" else None)

    outputs, _ = linked.run(name, _compiled(), _inputs(), base, times=4 if count == 2 else 2)

    for output, expected in zip(outputs, _program(*_inputs()), strict=True):
        np.testing.assert_allclose(output, np.asarray(expected), atol=_ATOL)


def test_exponentials_over_a_prime(dealer: DealerProcess, two_parties: SpuParties) -> None:
    """SPU's EXP_PRIME asks for MulPriv modulo 2^127 - 1."""
    base = {
        **SEMI2K,
        "field": "FM128",
        "fxp_fraction_bits": 40,
        "fxp_exp_mode": "EXP_PRIME",
        "experimental_enable_exp_prime": True,
    }
    x = np.linspace(-3, 3, 7, dtype=np.float32)
    compiled = compile_function(jnp.exp, x)
    transcript = record(compiled, [x], base)
    assert Step("MulPrivGfmp", 16, (7,)) in transcript.steps
    grants = register(dealer.address, dealer.public_key, "exp-prime", transcript)
    relays = relayed(dealer.address, dealer.public_key, grants[1], transcript)
    two_parties.open("exp-prime", configs(dealer.address, grants, base), relays)

    outputs, _ = two_parties.run("exp-prime", compiled, [x], base, times=2)

    np.testing.assert_allclose(outputs[0], np.exp(x), rtol=1e-2)


def test_all_ten_operations_are_among_them() -> None:
    """The programs above ask for each of the ten operations, on all three element sizes."""
    steps = [
        step
        for count, plain_truncation in ((2, False), (3, False), (3, True))
        for step in _transcript(count, "FM64", plain_truncation).steps
    ]

    assert {step.request for step in steps} == {step.removesuffix("Gfmp") for step in INPUT_COUNTS}
    assert {step.field_bytes for step in steps} == {4, 8, 16}
