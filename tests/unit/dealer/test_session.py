"""A session's answers: the corrections hold their relation, and only the transcript is served."""

from __future__ import annotations

import base64
import math
import os
from typing import Any

import numpy as np
import orjson
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from secure_runner.dealer.prg import Prg, block_count
from secure_runner.dealer.requests import RequestError, expected_body
from secure_runner.dealer.session import Session
from secure_runner.dealer.steps import Step
from secure_runner.dealer.transcript import Transcript

_COUNT = 5


def _steps(field_bytes: int) -> list[Step]:
    return [
        Step("Mul", field_bytes, (_COUNT,)),
        Step("MulPriv", 4, (_COUNT,)),
        Step("Square", field_bytes, (_COUNT,)),
        Step("Dot", field_bytes, (2, 3, 4)),
        Step("And", 16, (_COUNT,)),
        Step("Trunc", field_bytes, (_COUNT, 7)),
        Step("TruncPr", field_bytes, (_COUNT, 7)),
        Step("RandBit", field_bytes, (_COUNT,)),
        Step("Eqz", field_bytes, (_COUNT,)),
        Step("Perm", field_bytes, (_COUNT, 1)),
    ]


class _Parties:
    """The parties of a session, and the session."""

    def __init__(self, steps: list[Step], count: int = 2, lookahead_bytes: int = 1 << 20) -> None:
        self.seeds = [os.urandom(16) for _ in range(count)]
        self.ciphertexts = [base64.b64encode(os.urandom(124)).decode() for _ in range(count)]
        self.session = Session(
            Transcript.of(steps), self.seeds, self.ciphertexts, lookahead_bytes=lookahead_bytes
        )

    def ask(self, step: Step, counter: int) -> bytes:
        body = orjson.dumps(expected_body(step, counter, self.ciphertexts))
        while (answer := self.session.answer(step.request, body)) is None:
            self.session.add(self.session.prepare())
        return answer

    def masks(self, step: Step, counter: int) -> list[list[list[int]]]:
        """Mask by mask, party by party, as numbers."""
        masks = []
        for length in step.input_bytes:
            blocks = block_count(length)
            octets = [Prg(seed).blocks(counter, blocks).tobytes()[:length] for seed in self.seeds]
            masks.append([_numbers(data, step.field_bytes) for data in octets])
            counter += blocks
        return masks


def _numbers(data: bytes, field_bytes: int) -> list[int]:
    return [int.from_bytes(data[at : at + field_bytes], "little") for at in range(0, len(data), field_bytes)]


def _corrections(answer: bytes, step: Step) -> list[list[int]]:
    body, at, corrections = answer.split(b"\r\n\r\n", 1)[1], 0, []
    while at < len(body):
        assert body[at] == 0
        length = int.from_bytes(body[at + 1 : at + 9], "little")
        corrections.append(_numbers(body[at + 9 : at + 9 + length], step.field_bytes))
        at += 9 + length
    return corrections


def _reduce(shares: list[list[int]], combine: Any, modulus: int) -> list[int]:
    total = shares[0]
    for share in shares[1:]:
        total = [combine(a, b) % modulus for a, b in zip(total, share, strict=True)]
    return total


def _add(a: int, b: int) -> int:
    return a + b


def _xor(a: int, b: int) -> int:
    return a ^ b


@pytest.mark.parametrize("field_bytes", [4, 8, 16])
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("index", range(10), ids=lambda index: _steps(8)[index].operation)
def test_corrected_masks_are_correlated(field_bytes: int, count: int, index: int) -> None:
    """Summed over the parties, and with the correction, the masks satisfy the operation's relation."""
    step = _steps(field_bytes)[index]
    parties = _Parties([step], count)
    k = 8 * step.field_bytes
    modulus = 1 << k
    inputs = parties.masks(step, 0)
    corrections = _corrections(parties.ask(step, 0), step)
    combine = _xor if step.operation == "And" else _add
    sums = [_reduce(shares, combine, modulus) for shares in inputs]
    last = [combine(a, b) % modulus for a, b in zip(sums[-1], corrections[-1], strict=True)]
    first = sums[0]
    signed = [x - modulus if x >> (k - 1) else x for x in first]

    if step.operation == "Mul":
        assert last == [a * b % modulus for a, b in zip(*sums[:2], strict=True)]
    elif step.operation == "MulPriv":
        assert last == _reduce(inputs[0], lambda a, b: a * b, modulus)
    elif step.operation == "Square":
        assert last == [a * a % modulus for a in first]
    elif step.operation == "Dot":
        a, b = np.array(first, object).reshape(2, 4), np.array(sums[1], object).reshape(4, 3)
        assert last == list((a @ b % modulus).reshape(-1))
    elif step.operation == "And":
        assert last == [a & b for a, b in zip(*sums[:2], strict=True)]
    elif step.operation == "Trunc":
        assert last == [(x >> 7) % modulus for x in signed]
    elif step.operation == "TruncPr":
        middle = [(a + b) % modulus for a, b in zip(sums[1], corrections[0], strict=True)]
        assert middle == [x % (modulus >> 1) >> 7 for x in first]
        assert last == [x >> (k - 1) for x in first]
    elif step.operation == "RandBit":
        assert set(last) <= {0, 1}
    elif step.operation == "Eqz":
        shares = _reduce(inputs[1], _xor, modulus)
        assert [a ^ b for a, b in zip(shares, corrections[0], strict=True)] == first
    else:
        order = Prg(parties.seeds[1]).permutation(step.mask_blocks, _COUNT)
        permuted = [0] * _COUNT
        for source, target in enumerate(order):
            permuted[target] = first[source]
        assert last == permuted


@pytest.mark.parametrize("field_bytes", [4, 8, 16])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("operation", ["MulGfmp", "MulPrivGfmp"])
def test_prime_fields_hold_their_relation(field_bytes: int, count: int, operation: str) -> None:
    """Modulo the Mersenne prime, with masks drawn as yacl's ``FillPRandWithMersennePrime`` draws them; the
    step that follows begins where these masks end."""
    step, after = Step(operation, field_bytes, (_COUNT,)), Step("Mul", 8, (_COUNT,))
    prime = {4: 2**31 - 1, 8: 2**61 - 1, 16: 2**127 - 1}[field_bytes]
    width = 9 if field_bytes == 4 else field_bytes
    parties = _Parties([step, after], count)
    masks, counter = [], 0
    for _ in step.input_bytes:
        masks.append([_prime_elements(seed, counter, width, prime) for seed in parties.seeds])
        counter += -(-width * _COUNT // 16)
    (correction,) = _corrections(parties.ask(step, 0), step)

    sums = [[sum(values) for values in zip(*mask, strict=True)] for mask in masks]
    products = [math.prod(values) for values in zip(*masks[0], strict=True)]
    if operation == "MulGfmp":
        products = [a * b for a, b in zip(sums[0], sums[1], strict=True)]
    assert all(value < prime for value in correction)
    assert [(a + b - c) % prime for a, b, c in zip(sums[-1], correction, products, strict=True)] == [
        0
    ] * _COUNT
    assert parties.ask(after, counter)


def _prime_elements(seed: bytes, counter: int, width: int, prime: int) -> list[int]:
    initial = counter.to_bytes(8, "little") + bytes(8)
    stream = Cipher(algorithms.AES(seed), modes.CTR(initial)).encryptor().update(bytes(width * _COUNT))
    numbers = [int.from_bytes(stream[width * i : width * i + width], "little") for i in range(_COUNT)]
    return [(number if width == 9 else number & prime) % prime for number in numbers]


def test_random_bits_are_random() -> None:
    """Both values come, in about equal numbers, and other sessions get other bits."""
    step = Step("RandBit", 8, (4096,))
    drawn = []
    for _ in range(2):
        parties = _Parties([step])
        (correction,) = _corrections(parties.ask(step, 0), step)
        sums = _reduce(parties.masks(step, 0)[0], _add, 1 << 64)
        drawn.append([(a + b) % (1 << 64) for a, b in zip(sums, correction, strict=True)])

    assert set(drawn[0]) == {0, 1}
    assert 1800 < sum(drawn[0]) < 2300
    assert drawn[0] != drawn[1]


def test_runs_follow_each_other_on_fresh_masks() -> None:
    """The transcript repeats for ever; the position never does."""
    steps = _steps(8)
    parties, counter = _Parties(steps, 3), 0
    answers = set()
    for _ in range(4):
        for step in steps:
            answers.add(parties.ask(step, counter))
            counter += step.blocks

    assert len(answers) == 4 * len(steps)
    assert parties.session.served == 4 * len(steps)


def test_a_repeated_request_gets_the_same_bytes() -> None:
    """Also RandBit's: another answer would tell the difference of the two."""
    steps = [Step("RandBit", 8, (64,)), Step("Mul", 8, (4,))]
    parties = _Parties(steps)
    first = parties.ask(steps[0], 0)

    assert parties.ask(steps[0], 0) == first
    parties.ask(steps[1], steps[0].blocks)
    with pytest.raises(RequestError, match="expected step 1 of 2"):
        parties.ask(steps[0], 0)


def test_the_same_request_may_be_written_otherwise() -> None:
    """Equal bytes are quick to tell, but equal JSON is what counts."""
    step = Step("Dot", 8, (2, 3, 4))
    parties = _Parties([step])
    body = expected_body(step, 0, parties.ciphertexts)
    parties.session.add(parties.session.prepare())
    asked = orjson.dumps(body, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)

    assert asked != orjson.dumps(body)
    assert parties.session.answer("Dot", asked) is not None


@pytest.mark.parametrize("skipped", range(1, 10))
def test_nothing_can_be_skipped(skipped: int) -> None:
    """Not even with the position that the step would have."""
    steps = _steps(8)
    counter = sum(step.blocks for step in steps[:skipped])
    with pytest.raises(RequestError, match="outside the registered transcript"):
        _Parties(steps).ask(steps[skipped], counter)


def test_memory_ahead_is_bounded() -> None:
    """No more than the allowed bytes wait, plus one batch; and of small ones a few runs."""
    large = [Step("Mul", 8, (10_000,))] * 50
    session = _Parties(large, lookahead_bytes=200_000).session
    while session.wants_preparation:
        session.add(session.prepare())
    assert session.pending_bytes < 300_000

    small = _Parties([Step("Mul", 8, (1,))] * 5).session
    while small.wants_preparation:
        small.add(small.prepare())
    assert len(small.pending) < 5 * 5
