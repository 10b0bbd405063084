"""From a pure JAX function to XLA's HLO, with weights and inputs as arguments only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from secure_runner.errors import LeakError, ProgramError
from secure_runner.programs.manifest import TensorSpec
from secure_runner.programs.names import input_name, param_name

__all__ = ["Lowered", "lower"]


@dataclass(frozen=True)
class Lowered:
    """One batch size of a function, lowered.

    ``outputs`` are the concrete shapes and dtypes that the function returns.
    """

    batch_size: int
    hlo: bytes
    input_names: tuple[str, ...]
    outputs: tuple[tuple[str, tuple[int, ...]], ...]


def lower(
    function: Callable[..., Sequence[Any]],
    params: Sequence[TensorSpec],
    inputs: Sequence[TensorSpec],
    batch_size: int,
) -> Lowered:
    """Trace ``function(params, *inputs)`` for one batch size.

    Args:
        function: pure; ``params`` is a dict of arrays by name, inputs are positional; returns a tuple.
        params: names, dtypes, shapes of the params.
        inputs: names, dtypes, shapes of the private inputs; ``None`` is the batch.
        batch_size: rows.

    Raises:
        LeakError: the function closes over arrays, which SPU would make public.
        ProgramError: it cannot be traced or lowered for this batch size.
    """
    param_specs = {tensor.name: _abstract(tensor, batch_size) for tensor in params}
    input_specs = [_abstract(tensor, batch_size) for tensor in inputs]
    try:
        closed = jax.make_jaxpr(function)(param_specs, *input_specs)
    except Exception as error:
        raise ProgramError(f"the model cannot be traced for a batch of {batch_size}: {error}") from error
    _refuse_captured_arrays(closed.consts)
    try:
        hlo, shapes = _to_hlo(function, param_specs, *input_specs)
    except Exception as error:  # a callback, for example, has no lowering without Python
        raise ProgramError(f"the model cannot be lowered for a batch of {batch_size}: {error}") from error
    names = [*(param_name(name) for name in sorted(param_specs)), *(input_name(t.name) for t in inputs)]
    return Lowered(
        batch_size=batch_size,
        hlo=hlo,
        input_names=tuple(names),
        outputs=tuple((np.dtype(out.dtype).name, tuple(out.shape)) for out in shapes),
    )


def _abstract(tensor: TensorSpec, batch_size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tensor.with_batch(batch_size), np.dtype(tensor.dtype))


def _refuse_captured_arrays(constants: Sequence[Any]) -> None:
    """Arrays that a function closes over, rather than takes, become constants, and constants are public."""
    captured = [np.shape(constant) for constant in constants if np.issubdtype(_dtype(constant), np.inexact)]
    if captured:
        raise LeakError(
            f"the predict function closes over {len(captured)} arrays of numbers (shapes {captured[:5]}): "
            "SPU makes constants public. Pass every trained value through params"
        )


def _dtype(value: Any) -> np.dtype[Any]:
    return np.dtype(getattr(value, "dtype", type(value)))


def _to_hlo(function: Callable[..., Sequence[Any]], *args: Any) -> tuple[bytes, Sequence[Any]]:
    """Lower with SPU's own frontend: for no processor in particular, and with its fix of JAX's float sort."""
    from spu.utils import frontend

    with frontend._jax_lock:
        patches = frontend._patch_jax()
        try:
            return frontend._jax_compilation(function, (), None, list(args), {})  # type: ignore[no-any-return]
        finally:
            frontend._restore_jax_patch(patches)
