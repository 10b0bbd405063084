"""Numbers that follow from shapes alone, as part of the public program."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

__all__ = ["public_fractions"]

_BITS = 16
"""At most the fraction bits of the ring: a scale of less than one step of the ring would become 0 there."""


def public_fractions(values: np.ndarray[Any, Any]) -> Any:
    """Interpolation weights and the like, float32, with an error of at most 2**-17.

    They are written as integers over 2**16, so a program holds no array of floats at all, and a check for
    leaked weights needs no exception for these.

    Use the result as it is and do not transpose it: where XLA folds a transpose into a constant's layout, SPU
    drops the layout and computes with the elements in the wrong order.
    """
    steps = np.ascontiguousarray(np.round(values * (1 << _BITS)), dtype=np.int32)
    return jnp.asarray(steps).astype(jnp.float32) * np.float32(0.5**_BITS)
