"""An adjusting party without SPU: seals seeds, asks for corrections over HTTP, and checks what comes.

It speaks as SPU's client does, so that a test can send what SPU's client would never send, and a soak can
ask a million times. The SM2 encryption is written independently of the dealer's: affine, and straight from
the standard.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import socket
import ssl
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from secure_runner.dealer.prg import Prg
from secure_runner.dealer.requests import PATH_PREFIX, expected_body
from secure_runner.dealer.steps import Step

__all__ = ["AdjustingParty", "RefusedError", "check_answer", "seal", "share_sums"]

Array = npt.NDArray[Any]

_P = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF
_N = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123
_GENERATOR = (
    0x32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7,
    0xBC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0,
)


class RefusedError(Exception):
    """The dealer's answer is an error frame; its code and text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class AdjustingParty:
    """One connection to the dealer, and the position in the parties' generators."""

    def __init__(
        self, address: str, ciphertexts: Sequence[str], context: ssl.SSLContext | None = None
    ) -> None:
        host, _, port = address.rpartition(":")
        self._socket: socket.socket = socket.create_connection((host, int(port)), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            self._socket = context.wrap_socket(self._socket, server_hostname="dealer")
        self._ciphertexts = list(ciphertexts)
        self.counter = 0

    def ask(self, step: Step) -> bytes:
        """Ask for the step's correction at the present position, and move on.

        Raises:
            RefusedError: the dealer refuses.
        """
        answer = self.ask_at(step, self.counter)
        self.counter += step.blocks
        return answer

    def ask_at(self, step: Step, counter: int) -> bytes:
        """Ask at any position; moves nothing.

        Raises:
            RefusedError: the dealer refuses.
        """
        return self.send(step.request, orjson.dumps(expected_body(step, counter, self._ciphertexts)))

    def send(self, operation: str, body: bytes) -> bytes:
        """Send any body; the corrections' bytes.

        Raises:
            RefusedError: the dealer refuses.
            ConnectionError: it closed the connection, or answered with an HTTP error.
        """
        head = f"POST {PATH_PREFIX}{operation} HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive()
        answer_head, received = received.split(b"\r\n\r\n", 1)
        if not answer_head.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError(answer_head.decode())
        parts = [received]
        missing = int(answer_head.rsplit(b":", 1)[1]) - len(received)
        while missing > 0:
            parts.append(self._receive())
            missing -= len(parts[-1])
        return _unframe(b"".join(parts))

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _receive(self) -> bytes:
        data = self._socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the dealer closed the connection")
        return data


def share_sums(seeds: Sequence[bytes], counter: int, step: Step) -> list[list[Array]]:
    """Each party's masks of a step of 64-bit elements: one list for each mask, one array for each party."""
    masks = []
    for length in step.input_bytes:
        blocks = -(-length // 16)
        masks.append([Prg(seed).blocks(counter, blocks)[:length].view(np.uint64) for seed in seeds])
        counter += blocks
    return masks


def check_answer(step: Step, seeds: Sequence[bytes], counter: int, answer: bytes) -> None:
    """Check a correction of 64-bit elements (And: any) against the relation that it has to bring about.

    Raises:
        AssertionError: it does not.
    """
    corrections = np.frombuffer(answer, np.uint64)
    masks = share_sums(seeds, counter, step)
    sums = [sum(shares[1:], shares[0]) for shares in masks]
    xors = [np.bitwise_xor.reduce(shares) for shares in masks]
    last = sums[-1] + corrections[-len(sums[-1]) :]
    if step.operation == "Mul":
        holds = last == sums[0] * sums[1]
    elif step.operation == "MulPriv":
        holds = last == np.multiply.reduce(masks[0])
    elif step.operation == "Square":
        holds = last == sums[0] * sums[0]
    elif step.operation == "Dot":
        m, n, k = step.dims
        holds = last == (sums[0].reshape(m, k) @ sums[1].reshape(k, n)).reshape(-1)
    elif step.operation == "And":
        holds = xors[2] ^ corrections == xors[0] & xors[1]
    elif step.operation == "Trunc":
        holds = last.view(np.int64) == sums[0].view(np.int64) >> step.bits
    elif step.operation == "TruncPr":
        middle = sums[1] + corrections[: len(sums[1])]
        holds = (last == sums[0] >> np.uint64(63)) & (
            middle == (sums[0] << np.uint64(1)) >> np.uint64(step.bits + 1)
        )
    elif step.operation == "RandBit":
        holds = last <= 1
    elif step.operation == "Eqz":
        holds = xors[1] ^ corrections == sums[0]
    else:
        order = Prg(seeds[step.owner]).permutation(counter + step.mask_blocks, step.dims[0])
        holds = last[order] == sums[0]
    assert np.all(holds), f"wrong correction for {step.describe()} at block {counter}"


def seal(public_pem: str, seed: bytes) -> str:
    """A seed under a job's SM2 key, as SPU's client encrypts it; base64."""
    der = base64.b64decode("".join(public_pem.splitlines()[1:-1]))
    public = (int.from_bytes(der[-64:-32], "big"), int.from_bytes(der[-32:], "big"))
    k = 1 + secrets.randbelow(_N - 1)
    x1, y1 = _times(k, _GENERATOR)
    x2, y2 = (part.to_bytes(32, "big") for part in _times(k, public))
    mask = b"".join(_sm3(x2 + y2 + index.to_bytes(4, "big")) for index in range(1, 2 + len(seed) // 32))
    cipher = bytes(a ^ b for a, b in zip(seed, mask, strict=False))
    content = (
        _der(2, _unsigned(x1)) + _der(2, _unsigned(y1)) + _der(4, _sm3(x2 + seed + y2)) + _der(4, cipher)
    )
    return base64.b64encode(_der(0x30, content)).decode()


def _unframe(body: bytes) -> bytes:
    data, at = [], 0
    while at < len(body):
        code, length = body[at], int.from_bytes(body[at + 1 : at + 9], "little")
        content = body[at + 9 : at + 9 + length]
        if code != 0:
            raise RefusedError(code, content.decode())
        data.append(content)
        at += 9 + length
    return b"".join(data)


def _sm3(data: bytes) -> bytes:
    return hashlib.new("sm3", data).digest()


def _der(tag: int, content: bytes) -> bytes:
    length = bytes([len(content)]) if len(content) < 128 else bytes([0x81, len(content)])
    return bytes([tag]) + length + content


def _unsigned(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


def _times(scalar: int, point: tuple[int, int]) -> tuple[int, int]:
    total: tuple[int, int] | None = None
    for bit in bin(scalar)[2:]:
        if total is not None:
            total = _plus(total, total)
        if bit == "1":
            total = point if total is None else _plus(total, point)
    assert total is not None
    return total


def _plus(p: tuple[int, int], q: tuple[int, int]) -> tuple[int, int]:
    if p == q:
        slope = (3 * p[0] * p[0] - 3) * pow(2 * p[1], -1, _P) % _P
    else:
        slope = (q[1] - p[1]) * pow(q[0] - p[0], -1, _P) % _P
    x = (slope * slope - p[0] - q[0]) % _P
    return x, (slope * (p[0] - x) - p[1]) % _P
