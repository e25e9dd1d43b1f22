"""Does what was built compute what the model computes? Compared before anything is measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoquant.errors import AutoquantError, first_line
from autoquant.model.data.batches import Batch
from autoquant.model.data.data_set import Shapes
from autoquant.model.data.trees import copied, flatten_with_paths
from autoquant.model.graph.captured import Capture
from autoquant.model.numerics.float64_run import Run, graph_in_float64

SAME = 1e-3
"""Relative difference up to which two outputs count as one; folding and fusing round anew."""

_MOST_KINDS = 8
"""Of sizes that break other conditions than those before, so many are compared."""

_NO_FLOAT64 = (RuntimeError, TypeError, ValueError, NotImplementedError)
"""What a model's own code, or an op, raises that knows float32 alone."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two computations part.

    Attributes:
        output: Path of the output (`logits`, `[0]`); empty for the only one.
        shape: Of the first input of the batch.
        off: Largest difference, over the largest value of the model's; infinite where one has
            another shape, or is not finite.
        failure: What the other computation raises; empty where it runs.
    """

    output: str
    shape: tuple[int, ...]
    off: float
    failure: str = ""

    def __str__(self) -> str:
        if self.failure:
            return f"a batch of {self.shape} fails ({self.failure})"
        where = f"output {self.output}" if self.output else "the output"
        if math.isinf(self.off):
            return f"{where} has another shape, or is not finite, on a batch of {self.shape}"
        return f"{where} is off by {self.off:.1%} of its largest value on a batch of {self.shape}"


def find_difference(model: Run, other: Run, batches: Iterable[Batch]) -> Difference | None:
    """Compare two computations on some batches, output by output; None where they agree.

    Each gets copies of the inputs, so that what it writes into them reaches nobody else.
    """
    return next((item for item in _differences(model, other, batches) if item.off > SAME), None)


def is_same_in_float64(model: Run, captured: Capture, batches: Sequence[Batch]) -> bool:
    """Whether a model and the graph that was captured of it are one function in float64."""
    try:
        graph = graph_in_float64(captured)
        return find_difference(graph, model, batches) is None
    except _NO_FLOAT64:
        return False


def rounding_of(run: Run, model: Run, batches: Sequence[Batch]) -> float:
    """How far a computation is off from the model in float64; NaN where that cannot run."""
    try:
        return max((item.off for item in _differences(model, run, batches)), default=0.0)
    except _NO_FLOAT64:
        return float("nan")


def _differences(model: Run, other: Run, batches: Iterable[Batch]) -> Iterator[Difference]:
    """By batch and output, how far two computations are apart."""
    for batch in batches:
        with torch.no_grad():
            given = _floats(model(copied(batch.inputs)))
            try:
                with redirect_stderr(StringIO()):  # torch.fx prints the graph that raised
                    found = _floats(other(copied(batch.inputs)))
            except AutoquantError:
                raise
            except Exception as error:  # noqa: BLE001  whatever a graph raises, the model ran
                shape = tuple(batch.inputs[0].shape)
                yield Difference("", shape, math.inf, first_line(error))
                continue
        for name, expected in given.items():
            off = relative_difference(expected, found.get(name))
            yield Difference(name, tuple(batch.inputs[0].shape), off)


def batches_to_compare(captured: Capture, data: Sequence[Batch]) -> tuple[Batch, ...]:
    """Two batches, and a smaller one where the model takes other numbers of samples."""
    chosen = [data[0], data[-1]] if len(data) > 1 else [data[0]]
    smaller = data[0].head(max(1, len(data[0]) // 2))
    if len(smaller) < len(data[0]) and any(captured.dynamic):
        chosen.append(smaller)
    return tuple(chosen)


def places_to_compare(captured: Capture, shapes: Sequence[Shapes]) -> list[int]:
    """Of batches of such shapes, one of the smallest, of the largest, and of each broken guard."""
    if not shapes:
        return []
    sizes = [sum(map(math.prod, item)) for item in shapes]
    found = {sizes.index(min(sizes)), sizes.index(max(sizes))}
    if captured.guards is not None:
        known: set[frozenset[str]] = {frozenset()}
        for shape in dict.fromkeys(shapes):
            broken = captured.guards.broken(shape)
            if broken not in known and len(known) <= _MOST_KINDS:
                known.add(broken)
                found.add(shapes.index(shape))
    return sorted(found)


def relative_difference(expected: Tensor, found: Tensor | None) -> float:
    """Largest difference over the largest finite value; equal infinities are no difference."""
    if found is None or expected.shape != found.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    equal = (expected == found) | (expected.isnan() & found.isnan())
    difference = torch.where(equal, 0.0, (expected - found).abs())
    if not bool(torch.isfinite(difference).all()):
        return float("inf")
    finite = torch.where(torch.isfinite(expected), expected.abs(), 0.0)
    return float(difference.max() / finite.max().clamp_min(1e-12))


def _floats(outputs: Any) -> dict[str, Tensor]:
    leaves, _ = flatten_with_paths(outputs)
    return {
        pytree.keystr(path): torch.view_as_real(leaf) if leaf.is_complex() else leaf.double()
        for path, leaf in leaves
        if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())
    }
