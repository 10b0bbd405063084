"""What the model owner chooses about tree ensembles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from converters.errors import ConversionError

__all__ = ["Formulation", "Topology", "TreeOptions"]

Formulation = Literal["auto", "boolean", "level", "mux"]
"""How the leaf is found. ``boolean``: every split is compared at once, paths are ANDs of bits; fewest rounds.
``level``: one comparison for each tree and level; fewest bytes, most rounds. ``mux``: every split is
compared at once, values are chosen from the leaves up. ``auto``: ``boolean`` for small batches, ``level`` for
large ones."""

Topology = Literal["auto", "hidden", "public"]
"""Who knows the shape of the trees. ``hidden``: the parties learn the number of trees and a bound on their
size. ``public``: they learn the branching of each tree, but no feature, threshold or leaf value. ``auto`` is
``hidden``."""


@dataclass(frozen=True)
class TreeOptions:
    """Formulation and topology of all tree ensembles of a model."""

    formulation: Formulation = "auto"
    topology: Topology = "auto"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("tree_formulation", self.formulation, get_args(Formulation)),
            ("tree_topology", self.topology, get_args(Topology)),
        ):
            if value not in allowed:
                raise ConversionError(f"{name} must be one of {', '.join(allowed)}; got {value!r}.")
