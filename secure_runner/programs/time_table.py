"""How long what a run does takes; written by ``benchmarks.packing`` and ``benchmarks.estimate_error``."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["TIMES", "Times"]


class Times(NamedTuple):
    """Of one protocol, on the machine of the fit, with no network between."""

    run_s: float
    """Of any run."""
    message_s: float
    byte_s: float
    """Of one byte that is sent for anything but matrix products."""
    dot_byte_s: float
    """Of one byte of a matrix product: whole matrices are masked and sent, with less work for each byte."""
    product_s: float
    """Of one multiplication of a matrix product."""
    moved_s: float
    """Of one element of a window of a convolution or pooling."""
    rounds: float
    """Rounds that the parties wait for, for each message."""
    exchanged_s: float = 0.0
    """Of one ciphertext of a homomorphic product, there or back."""
    multiplied_s: float = 0.0
    """Of one product of a ciphertext and a plaintext polynomial."""
    switch_s: float = 0.0
    """Of one key switch of packing."""


TIMES: dict[str, Times] = {
    "semi2k": Times(0.00105, 0.000179, 2.04e-08, 8.5e-09, 1.65e-09, 2.56e-07, 0.507, 0.0, 0.0, 0.0),
    "aby3": Times(0.00273, 0.00024, 1.59e-08, 9.4e-08, 1.47e-09, 7.79e-07, 0.515, 0.0, 0.0, 0.0),
    "cheetah": Times(0.0263, 0.00031, 7.56e-08, 0.0, 0.0, 3.08e-06, 0.572, 0.00131, 0.00154, 0.00137),
}
