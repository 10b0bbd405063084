"""Operators by (domain, name, opset version).

An operator is a plain function that bears the ONNX name: inputs are positional, attributes are keywords with
the standard's defaults, the result is an array or a tuple of arrays. The version with the highest ``since``
not above the model's opset is taken, so an operator is written again only where its meaning changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

__all__ = ["INTERNAL", "ML", "LiftWeights", "OpSpec", "domain_name", "find", "op", "versions"]

ML = "ai.onnx.ml"
INTERNAL = "private"
"""Domain of operators that only passes make."""

OpFunction = TypeVar("OpFunction", bound=Callable[..., Any])
Attributes = dict[str, Any]
LiftWeights = Callable[[Attributes], tuple[Attributes, dict[str, "np.ndarray[Any, Any]"]]]


@dataclass(frozen=True)
class OpSpec:
    """One operator in the meaning it has from opset ``since`` on."""

    name: str
    domain: str
    since: int
    function: Callable[..., Any]
    static: frozenset[str]
    """Inputs that must be known while converting; a traced one is an error."""
    prefers_static: frozenset[str]
    """Inputs that are taken as numpy if known, and traced otherwise (indices, for example)."""
    lift: LiftWeights | None
    """Splits the attributes into public ones and trained arrays, which become secret params."""
    input_names: tuple[str, ...]
    variadic: bool
    keywords: frozenset[str]
    wants_output_count: bool

    def input_name(self, index: int) -> str:
        """The parameter that the input at this position fills."""
        return self.input_names[min(index, len(self.input_names) - 1)] if self.input_names else ""


_REGISTRY: dict[tuple[str, str], list[OpSpec]] = {}


def op(
    *,
    since: int = 1,
    name: str | None = None,
    domain: str = "",
    static: tuple[str, ...] = (),
    prefers_static: tuple[str, ...] = (),
    weights: tuple[str, ...] = (),
    lift: LiftWeights | None = None,
) -> Callable[[OpFunction], OpFunction]:
    """Register a function as an operator.

    Args:
        since: first opset version with this meaning.
        name: the ONNX name where it is not the function's own.
        domain: the operator's domain; ``ML`` for ai.onnx.ml.
        static: inputs that must be known while converting.
        prefers_static: inputs that arrive as numpy arrays if known while converting.
        weights: attributes that hold trained floats: they arrive as arrays and are secret params.
        lift: for weights that need another form: public attributes and arrays from the raw attributes.
    """

    def register(function: OpFunction) -> OpFunction:
        parameters = inspect.signature(function).parameters.values()
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        variadic = [p for p in parameters if p.kind is p.VAR_POSITIONAL]
        keywords = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        spec = OpSpec(
            name=name or function.__name__,
            domain=domain,
            since=since,
            function=function,
            static=frozenset(static),
            prefers_static=frozenset(prefers_static),
            lift=lift or (_lift_named(weights) if weights else None),
            input_names=tuple(p.name for p in positional + variadic),
            variadic=bool(variadic),
            keywords=frozenset(keywords - {"output_count"}),
            wants_output_count="output_count" in keywords,
        )
        entries = _REGISTRY.setdefault((domain, spec.name), [])
        assert all(entry.since != since for entry in entries), (
            f"{spec.name} since {since} is registered twice"
        )
        entries.append(spec)
        entries.sort(key=lambda entry: entry.since)
        return function

    return register


def find(domain: str, name: str, version: int) -> OpSpec | None:
    """The operator as the model's opset means it, or nothing."""
    entries = [entry for entry in _REGISTRY.get((domain, name), []) if entry.since <= version]
    return entries[-1] if entries else None


def versions() -> Mapping[tuple[str, str], list[OpSpec]]:
    """Everything that is registered, for tables and tests."""
    return _REGISTRY


def domain_name(domain: str) -> str:
    """One spelling for each domain: ``ai.onnx`` is the empty string."""
    return "" if domain == "ai.onnx" else domain


def _lift_named(names: tuple[str, ...]) -> LiftWeights:
    def lift(attrs: Attributes) -> tuple[Attributes, dict[str, np.ndarray[Any, Any]]]:
        public = {key: value for key, value in attrs.items() if key not in names}
        secret = {key: np.asarray(attrs[key], np.float32) for key in names if key in attrs}
        return public, secret

    return lift
