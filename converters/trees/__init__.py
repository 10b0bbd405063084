"""Tree ensembles under MPC: which leaf a row reaches, with thresholds, feature ids and leaves secret."""

from converters.trees.ensemble import Ensemble
from converters.trees.options import Formulation, Topology, TreeOptions

__all__ = ["Ensemble", "Formulation", "Topology", "TreeOptions"]
