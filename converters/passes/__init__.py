"""Rewrites of the graph before it is traced: each small, named, and with a switch.

A pass is a function ``(Graph) -> int`` that changes the graph in place and returns how many places it
changed. All weights are in the clear at this point, at the model owner, so what can be computed from weights
alone is computed here. ``PASSES`` is the order in which they run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from converters.errors import ConversionError
from converters.onnx.graph import Graph
from converters.passes.argmax import argmax_before_activation
from converters.passes.classifiers import split_linear_models
from converters.passes.convolution import fold_batch_norm
from converters.passes.embedding import embed_at_data_owner
from converters.passes.gelu import gelu_polynomial
from converters.passes.labels import peel_labels
from converters.passes.linear import fold_centring, fold_scaling, scale_features
from converters.passes.masks import clamp_masks
from converters.passes.peel import peel_outputs
from converters.passes.pooling import pool_before_activation
from converters.passes.support_vectors import split_support_vectors

__all__ = ["PASSES", "Pass", "Rewrites", "chosen_passes", "switched_on"]

Rewrites = Mapping[str, bool] | Collection[str] | None


@dataclass(frozen=True)
class Pass:
    """One rewrite."""

    name: str
    """Name in ``rewrites=``, the report and the manifest."""
    apply: Callable[[Graph], int]
    default: bool = True


PASSES: tuple[Pass, ...] = (
    Pass("peel_labels", peel_labels),
    Pass("split_linear_models", split_linear_models),
    Pass("split_support_vectors", split_support_vectors),
    Pass("embed_at_data_owner", embed_at_data_owner),
    Pass("fold_batch_norm", fold_batch_norm),
    Pass("scale_features", scale_features),
    Pass("fold_scaling", fold_scaling),
    Pass("pool_before_activation", pool_before_activation),
    Pass("clamp_masks", clamp_masks),
    Pass("gelu_polynomial", gelu_polynomial),
    Pass("peel_outputs", peel_outputs),
    Pass("fold_centring", fold_centring),
    Pass("argmax_before_activation", argmax_before_activation),
)


def chosen_passes(rewrites: Rewrites) -> tuple[Pass, ...]:
    """The passes to run, see `switched_on`."""
    names = switched_on({entry.name: entry.default for entry in PASSES}, rewrites)
    return tuple(entry for entry in PASSES if entry.name in names)


def switched_on(defaults: Mapping[str, bool], rewrites: Rewrites) -> frozenset[str]:
    """Names of the rewrites to run.

    Args:
        defaults: all there are, and whether they run when nothing is said.
        rewrites: nothing for the defaults, a mapping of names to switch some on or off, or the names of
            exactly those to run.

    Raises:
        ConversionError: there is no rewrite of that name.
    """
    unknown = sorted(set(rewrites or ()) - set(defaults))
    if unknown:
        known = ", ".join(defaults)
        raise ConversionError(f"there is no rewrite {', '.join(unknown)}; there are {known}.")
    if rewrites is None:
        return frozenset(name for name, on in defaults.items() if on)
    if isinstance(rewrites, Mapping):
        return frozenset(name for name, on in defaults.items() if rewrites.get(name, on))
    return frozenset(rewrites)
