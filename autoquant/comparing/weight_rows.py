"""The weights of a float graph beside what a quantized model stores: what rounding alone did."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from torch import Tensor
from torch.fx import Node

from autoquant.comparing.pairing import OpPair
from autoquant.comparing.sums import PairSums
from autoquant.core.findings.layers import LayerRow, TensorFormat
from autoquant.core.sensitivity import Part
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.site_nodes import mark_sites
from autoquant.model.graph.tensor_paths import take


@dataclass(frozen=True, slots=True, eq=False)
class FloatWeight:
    """A weight of the float graph.

    Attributes:
        pair: First call of its site, in both models.
        root: The op that reads it.
        name: Of the parameter.
        values: Its own.
    """

    pair: OpPair
    root: Node
    name: str
    values: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class StoredWeight:
    """What a quantized model keeps of a weight.

    Attributes:
        values: In float, as its kernel uses them; of as many elements as the float weight.
        format: How they are stored.
        types: Class or function of the float op, and of the quantized one.
        steps: One scale, or one for each channel along `axis`; None: errors have no steps.
        axis: Of the weight.
    """

    values: Tensor
    format: TensorFormat
    types: tuple[str, str]
    steps: Tensor | None = None
    axis: int = 0


def weight_rows(
    captured: Capture,
    pairs: Iterable[OpPair],
    find: Callable[[FloatWeight], StoredWeight | None],
) -> tuple[LayerRow, ...]:
    """Every weight of a site beside what `find` says is stored of it, in execution order."""
    marked = mark_sites(captured)
    roots = {node.name: node for node in marked.operands}
    rows: list[LayerRow] = []
    for pair in pairs:
        if pair.call != 0 or pair.site is None or not pair.site.kind.is_weighted:
            continue
        root = roots[pair.expected[0]]
        for source in marked.operands[root].weights:
            path = str(source.target)
            values = take(captured.graph, path).detach()
            weight = FloatWeight(pair, root, path.rpartition(".")[2], values)
            stored = find(weight)
            if stored is not None and stored.values.numel() == values.numel():
                rows.append(_row(weight, stored))
    return tuple(rows)


def _row(weight: FloatWeight, stored: StoredWeight) -> LayerRow:
    expected, found = weight.values, stored.values.reshape(weight.values.shape)
    sums = PairSums()
    sums.add(expected, found, batch=-1)
    error = sums.error(None, divergence=False)
    if stored.steps is not None:
        shape = [1] * expected.ndim
        if len(stored.steps) > 1:
            shape[stored.axis] = len(stored.steps)
        distance = (expected.double() - found.double()).abs() / stored.steps.reshape(shape)
        error = replace(error, max_steps=float(distance.max()))
    first, second = sums.moments()
    return LayerRow(
        op=weight.pair.op,
        call=0,
        part=Part.WEIGHT,
        tensor=weight.name,
        scheme=weight.pair.scheme,
        float_type=stored.types[0],
        quantized_type=stored.types[1],
        shape=tuple(expected.shape),
        format=stored.format,
        error=error,
        expected=first,
        found=second,
    )
