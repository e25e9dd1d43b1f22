"""The weights of a float graph beside what a quantized model stores: what rounding alone did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from autoquant.comparing.runs import FloatWeight, QuantizedModel, StoredWeight
from autoquant.comparing.sums import PairSums
from autoquant.core.findings.layers import LayerRow
from autoquant.core.sensitivity import Part
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.site_nodes import mark_sites
from autoquant.model.graph.tensor_paths import take


def rows_of_weights(captured: Capture, found: QuantizedModel) -> Iterator[LayerRow]:
    """Every weight of a site beside what a quantized model keeps of it, in execution order."""
    marked = mark_sites(captured)
    roots = {node.name: node for node in marked.operands}
    for pair in found.pairs():
        if pair.call != 0 or pair.site is None or not pair.site.kind.is_weighted:
            continue
        root = roots[pair.expected[0]]
        for source in marked.operands[root].weights:
            path = str(source.target)
            values = take(captured.graph, path).detach()
            weight = FloatWeight(pair, root, path.rpartition(".")[2], values)
            stored = found.stored(weight)
            if stored is not None and stored.values.numel() == values.numel():
                yield _row(weight, stored)


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
