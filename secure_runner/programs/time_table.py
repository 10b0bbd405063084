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
    "semi2k": Times(0.00214, 0.000206, 1.48e-08, 3.57e-09, 4.48e-07, 0.534),
    "aby3": Times(0.00251, 0.000253, 3.51e-08, 0.0, 7.85e-07, 0.545),
    "cheetah": Times(0.002, 0.0007, 0.0, 0.0, 1e-05, 0.547, 0.00188, 0.00188, 0.0018),
}
