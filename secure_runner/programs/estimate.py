"""What a model will cost, before anything is compiled: bytes, messages and time, for each protocol.

The lowered program is read operation by operation and priced from a table of measured costs
(`secure_runner.programs.cost_table`); what these mean in time is fitted to runs on one machine
(`secure_runner.programs.time_table`). docs/estimate.md holds estimates against runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from secure_runner.programs.ciphertexts import Ciphertexts, ciphertexts
from secure_runner.programs.cost_table import COSTS
from secure_runner.programs.hlo import Visibility, read_hlo
from secure_runner.programs.lowering import Lowered, lower
from secure_runner.programs.manifest import TensorSpec
from secure_runner.programs.names import is_param
from secure_runner.programs.pricing import Price, prices
from secure_runner.programs.time_table import TIMES, Times
from secure_runner.protocols import PROTOCOLS, ProtocolName

if TYPE_CHECKING:
    from converters import ConvertedModel

__all__ = ["FRAME_BYTES", "LAN", "WAN", "Estimate", "Network", "OpEstimate", "estimate", "estimate_lowered"]

FRAME_BYTES = 125
"""What a link adds to each message."""
_SLOW_S = 1.0
_HOPELESS_S = 5.0
_DOTS = ("dot", "dot.sv")


@dataclass(frozen=True)
class Network:
    """A link between parties."""

    name: str
    round_trip_s: float
    bytes_per_s: float


LAN = Network("LAN (0.5 ms, 1 Gbit/s)", 0.5e-3, 125e6)
WAN = Network("WAN (40 ms, 100 Mbit/s)", 40e-3, 12.5e6)


@dataclass(frozen=True)
class OpEstimate:
    """All calls of one kind of operation."""

    kind: str
    calls: int
    elements: int
    sent_bytes: int
    messages: int
    products: int
    """Multiplications of matrix products."""
    moved: int
    """Elements of windows of convolutions and pooling."""
    ciphertexts: Ciphertexts
    """Of homomorphic products, all together."""


@dataclass(frozen=True)
class Estimate:
    """What one party sends in one run of one batch, and the time that means."""

    protocol: ProtocolName
    batch_size: int
    ops: tuple[OpEstimate, ...]
    """Most expensive first."""
    unpriced: tuple[str, ...]
    """Operations without a measured cost; they count as free."""
    packed_products: bool = True
    """Whether homomorphic products pack their answers: what is faster on a LAN."""

    @property
    def sent_bytes(self) -> int:
        """Bytes that a party sends, framing included: rank 0, or with CHEETAH the average of both."""
        return sum(op.sent_bytes for op in self.ops) + FRAME_BYTES * self.messages

    @property
    def dot_bytes(self) -> int:
        """Those of matrix products, but for ciphertexts, which have times of their own."""
        return sum(op.sent_bytes for op in self._dots if not op.ciphertexts.exchanged)

    @property
    def other_bytes(self) -> int:
        """Those of all other operations, and of framing."""
        return self.sent_bytes - sum(op.sent_bytes for op in self._dots)

    @property
    def _dots(self) -> list[OpEstimate]:
        return [op for op in self.ops if op.kind in _DOTS]

    @property
    def messages(self) -> int:
        """Messages that rank 0 sends; the ciphertexts of one product, which leave together, are one."""
        return sum(op.messages for op in self.ops)

    @property
    def rounds(self) -> int:
        """Round trips that the parties wait for: fewer than messages, since both sides send at once."""
        return math.ceil(self.messages * TIMES[self.protocol].rounds)

    @property
    def compute_s(self) -> float:
        """Time of one run with no network between, on the machine of the table."""
        return self.compute_s_at(TIMES[self.protocol])

    def compute_s_at(self, times: Times) -> float:
        """The same with other times than those of the table."""
        return (
            times.run_s
            + times.message_s * self.messages
            + times.byte_s * self.other_bytes
            + times.dot_byte_s * self.dot_bytes
            + times.product_s * sum(op.products for op in self.ops)
            + times.moved_s * sum(op.moved for op in self.ops)
            + times.exchanged_s * sum(op.ciphertexts.exchanged for op in self.ops)
            + times.multiplied_s * sum(op.ciphertexts.multiplied for op in self.ops)
            + times.switch_s * sum(op.ciphertexts.switches for op in self.ops)
        )

    def seconds(self, network: Network, speed: float = 1.0) -> float:
        """Time of one run over a network.

        Args:
            network: between the parties.
            speed: of the machines, 1 for that of the table; see :meth:`speed`.
        """
        transfer = self.rounds * network.round_trip_s + self.sent_bytes / network.bytes_per_s
        return self.compute_s / speed + transfer

    def speed(self, measured_s: float) -> float:
        """How fast machines are on which a run, with next to no network between, took so long."""
        return self.compute_s / measured_s

    @property
    def verdict(self) -> str:
        """One sentence: interactive, slow, or hopeless, with the number that decides."""
        lan = self.seconds(LAN)
        largest = self.ops[0].kind if self.ops else "nothing"
        cost = f"{_bytes(self.sent_bytes)} and {self.rounds} rounds for a batch of {self.batch_size}"
        if lan > _HOPELESS_S:
            return (
                f"hopeless under {self.protocol}: about {lan:.0f} s on a LAN ({cost}), most of it for "
                f"{largest}; make the model smaller (fewer trees, layers or features) before importing it"
            )
        if lan > _SLOW_S:
            return (
                f"slow under {self.protocol}: about {lan:.1f} s on a LAN ({cost}), most of it for {largest}"
            )
        return f"fit for requests under {self.protocol}: about {lan * 1e3:.0f} ms on a LAN ({cost})"


def estimate(model: ConvertedModel, *, protocol: ProtocolName, batch_size: int = 1) -> Estimate:
    """Price a converted model.

    Args:
        model: a converted model; only its shapes and its function are looked at.
        protocol: whose costs.
        batch_size: rows of one run.

    Raises:
        ProgramError: the model cannot be lowered.
    """
    params = _specs([(name, value.dtype.name, value.shape) for name, value in sorted(model.params.items())])
    inputs = _specs([(spec.name, str(spec.dtype), tuple(spec.shape)) for spec in model.private_inputs])
    return estimate_lowered(lower(model.private_predict, params, inputs, batch_size), protocol=protocol)


def estimate_lowered(lowered: Lowered, *, protocol: ProtocolName) -> Estimate:
    """Price one batch size of a program, as `estimate` does."""
    found: dict[str, list[Price]] = {}
    unpriced: list[str] = []
    module = read_hlo(lowered.hlo)
    for use in module.uses(_holders(lowered, protocol)):
        if not use.needs_parties:
            continue
        priced = prices(use, module)
        if priced is None:
            unpriced.append(use.instruction.op)
            continue
        for price in priced:
            found.setdefault(price.kind, []).append(price)
    ways = []
    # Unpacked where both are the same, as larger batches mostly are: a session then has one kind to set up.
    for packed in (False, True) if PROTOCOLS[protocol].homomorphic_products else (True,):
        ops = [_priced(kind, rows, protocol, packed) for kind, rows in found.items()]
        ranked = sorted(ops, key=lambda op: (-op.sent_bytes, -op.messages, op.kind))
        ways.append(
            Estimate(protocol, lowered.batch_size, tuple(ranked), tuple(sorted(set(unpriced))), packed)
        )
    return min(ways, key=lambda way: way.seconds(LAN))


def _holders(lowered: Lowered, name: ProtocolName) -> list[Visibility]:
    """Who holds each argument: its owner, or all parties as shares."""
    if not PROTOCOLS[name].inputs_stay_with_owner:
        return [Visibility.SHARED] * len(lowered.input_names)
    owners = {True: Visibility.MODEL_OWNER, False: Visibility.DATA_OWNER}
    return [owners[is_param(argument)] for argument in lowered.input_names]


def _specs(tensors: Sequence[tuple[str, str, tuple[int | None, ...]]]) -> list[TensorSpec]:
    return [TensorSpec(name=name, dtype=dtype, shape=shape) for name, dtype, shape in tensors]


def _priced(kind: str, rows: Sequence[Price], protocol: ProtocolName, packed: bool) -> OpEstimate:
    calls, elements = sum(row.calls for row in rows), sum(row.elements for row in rows)
    ciphers = Ciphertexts()
    cost = COSTS[protocol][kind]
    if kind in _DOTS and PROTOCOLS[protocol].homomorphic_products:
        (messages,) = cost
        ciphers = sum((_ciphertexts(row, packed) for row in rows), ciphers)
        sent = _exchanged_bytes(ciphers, COSTS[protocol]["ciphertext"]) / 2
    elif kind in _DOTS:
        each_call, per_output, per_input, per_product, messages = cost
        sent = sum(
            row.calls * each_call
            + per_output * row.elements
            + per_input * row.inputs
            + per_product * row.products
            for row in rows
        )
    else:
        each_call, per_element, messages = cost
        sent = calls * each_call + per_element * elements
    products, moved = sum(row.products for row in rows), sum(row.moved for row in rows)
    return OpEstimate(kind, calls, elements, round(sent), round(messages * calls), products, moved, ciphers)


def _ciphertexts(row: Price, packed: bool) -> Ciphertexts:
    """Of both parties: shares of both factors make two products of one party's matrix with the other's."""
    products = row.calls * (2 if row.kind == "dot" else 1)
    return ciphertexts(*row.shape, packed=packed) * products


def _exchanged_bytes(found: Ciphertexts, cost: Sequence[float]) -> float:
    sent, answered, extracted, packed = cost
    return sent * found.sent + answered * found.answered + extracted * found.extracted + packed * found.packed


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
