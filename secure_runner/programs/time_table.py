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
    "semi2k": Times(0.000799, 0.000234, 1.08e-08, 3.63e-09, 5.46e-07, 0.515, 0.0, 0.0, 0.0),
    "aby3": Times(0.00321, 0.000246, 2.5e-08, 6.08e-09, 1.04e-06, 0.528, 0.0, 0.0, 0.0),
    "cheetah": Times(0.0116, 0.000342, 5.79e-08, 0.0, 2.98e-06, 0.579, 0.00164, 0.00192, 0.00171),
}
