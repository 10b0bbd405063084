"""Functions as lists of JAX primitives: what is known of them, rewritten, and run."""

from converters.jaxpr.inline import Traced, trace
from converters.jaxpr.program import JaxProgram

__all__ = ["JaxProgram", "Traced", "trace"]
