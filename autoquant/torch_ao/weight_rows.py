"""Weights of a float op and of what torch made of it, batch norms folded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from torch import Tensor
from torch.fx import GraphModule, Node

from autoquant.comparing.pairing import OpPair
from autoquant.comparing.sums import PairSums
from autoquant.core.findings.layers import LayerError, LayerRow
from autoquant.core.sensitivity import Part
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.site_nodes import mark_sites
from autoquant.model.graph.tensor_paths import take
from autoquant.torch_ao.formats import type_of, weight_format
from autoquant.torch_ao.stored_weights import (
    fake_quantize_scales,
    float_weights,
    stored_weights,
    weight_scales,
)


def weight_rows(
    op: str, expected: GraphModule, root: Node, found: GraphModule, kernel: Node
) -> Iterator[LayerRow]:
    """Compare the weights of one op: what rounding alone did to them."""
    stored = stored_weights(found, kernel)
    fake = fake_quantize_scales(found, kernel)
    for name, weight in float_weights(expected, root).items():
        other = stored.get(name)
        if other is not None and other.numel() == weight.numel():
            types = type_of(expected, (root.name,)), type_of(found, (kernel.name,))
            yield weight_row(op, name, weight, other, fake, types)


def captured_weights(
    captured: Capture, pairs: Iterable[OpPair]
) -> Iterator[tuple[OpPair, Node, str, Tensor]]:
    """Of the first call of each weighted site its pair, its op, and name and values of a weight."""
    marked = mark_sites(captured)
    roots = {node.name: node for node in marked.operands}
    for pair in pairs:
        if pair.call == 0 and pair.site is not None and pair.site.kind.is_weighted:
            root = roots[pair.expected[0]]
            for source in marked.operands[root].weights:
                path = str(source.target)
                yield pair, root, path.rpartition(".")[2], take(captured.graph, path).detach()


def weight_row(
    op: str, name: str, weight: Tensor, stored: Tensor, fake: Tensor | None, types: tuple[str, str]
) -> LayerRow:
    """Compare one weight.

    Args:
        op: Name of the site.
        name: Of the parameter.
        weight: In float.
        stored: What the quantized model keeps, of as many elements.
        fake: Scales of the fake-quantize that rounded it; None: there is none.
        types: Of the float op and of the quantized one.
    """
    values = stored.dequantize() if stored.is_quantized else stored.float()
    values = values.reshape(weight.shape)
    sums = PairSums()
    sums.add(weight, values, batch=-1)
    first, second = sums.moments()
    return LayerRow(
        op=op,
        call=0,
        part=Part.WEIGHT,
        tensor=name,
        scheme=None,
        float_type=types[0],
        quantized_type=types[1],
        shape=tuple(weight.shape),
        format=weight_format(stored, fake),
        error=_error(sums, weight, values, weight_scales(stored) or _with_axis(fake)),
        expected=first,
        found=second,
    )


def _with_axis(scales: Tensor | None) -> tuple[Tensor, int] | None:
    return None if scales is None else (scales, 0)


def _error(
    sums: PairSums, weight: Tensor, values: Tensor, scales: tuple[Tensor, int] | None
) -> LayerError:
    """The error of one weight; its largest one in units of each channel's own scale."""
    error = sums.error(None, divergence=False)
    if scales is None:
        return error
    steps, axis = scales
    shape = [1] * weight.ndim
    if len(steps) > 1:
        shape[axis] = len(steps)
    distance = (weight.double() - values.double()).abs() / steps.reshape(shape)
    return replace(error, max_steps=float(distance.max()))
