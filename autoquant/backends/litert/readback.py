"""What each site of a written file really runs, read from its bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from autoquant.backends.litert.flatbuffer import Written
from autoquant.backends.litert.operators import MOVES, WEIGHTED
from autoquant.backends.litert.schema import operator_types
from autoquant.core.precision import Scheme

_ACTIVATIONS = {
    "INT8": Scheme.INT8,
    "INT16": Scheme.INT16,
    "FLOAT16": Scheme.FP16,
    "FLOAT32": Scheme.FP32,
}
_WEIGHTS = {
    Scheme.INT8: "INT8",
    Scheme.INT16: "INT8",
    Scheme.FP16: "FLOAT16",
    Scheme.FP32: "FLOAT32",
}
_CONTROL = frozenset({"", "INT32", "INT64", "BOOL"})
"""Types of biases, axes, shapes and masks: they do not say in what an operator computes."""


@dataclass(frozen=True, slots=True)
class Operators:
    """The operators of one site.

    Attributes:
        name: Of the first.
        schemes: In which they compute; None where types of one operator do not agree.
    """

    name: str
    schemes: frozenset[Scheme | None]


def read_back(written: Written) -> Mapping[str, Operators]:
    """By site, what its operators are.

    Operators that only move values, and conversions between formats, are left out.
    """
    found: dict[str, Operators] = {}
    types = operator_types(written.content)
    for operator, (name, reads, writes) in zip(written.operators, types, strict=True):
        if operator.source is None or name in MOVES:
            continue
        for site in operator.writes:
            known = found.get(site, Operators(name, frozenset()))
            schemes = known.schemes | {_scheme(name, reads, writes)}
            found[site] = Operators(known.name, schemes)
    return found


def _scheme(name: str, reads: list[str], writes: list[str]) -> Scheme | None:
    """The scheme that the types of one operator mean."""
    facts = WEIGHTED.get(name)
    if facts is None:
        return _only([*reads, *writes])
    scheme = _only([reads[facts.data], *writes])
    return scheme if scheme is not None and reads[facts.weight] == _WEIGHTS[scheme] else None


def _only(types: Iterable[str]) -> Scheme | None:
    used = set(types) - _CONTROL
    return _ACTIVATIONS.get(used.pop()) if len(used) == 1 else None
