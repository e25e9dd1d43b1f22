"""Weights of both models, batch norms folded: what rounding alone did to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from autoquant.analysis.layers.formats import type_of, weight_format
from autoquant.analysis.layers.pairing import OpPair
from autoquant.analysis.layers.sums import PairSums
from autoquant.core.layers import LayerError, LayerRow
from autoquant.core.sensitivity import Part
from autoquant.model.torch_ao.stored_weights import (
    fake_quantize_scales,
    float_weights,
    stored_weights,
    weight_scales,
)


def weight_rows(
    expected: GraphModule, found: GraphModule, pairs: Sequence[OpPair]
) -> tuple[LayerRow, ...]:
    """Compare every weight once, in execution order.

    Args:
        expected: The traced, fused float model.
        found: The quantized model.
        pairs: Its ops.
    """
    return tuple(
        row
        for pair in pairs
        if pair.call == 0 and pair.site is not None and pair.site.kind.is_weighted
        for row in _rows_of(expected, found, pair)
    )


def _rows_of(expected: GraphModule, found: GraphModule, pair: OpPair) -> Iterator[LayerRow]:
    root = _node(expected, pair.expected[0])
    kernel = _node(found, pair.found[0])
    stored = stored_weights(found, kernel)
    fake = fake_quantize_scales(found, kernel)
    for name, weight in float_weights(expected, root).items():
        other = stored.get(name)
        if other is None or other.numel() != weight.numel():
            continue
        yield _row(expected, found, pair, (name, weight, other), fake, _precision(found, kernel))


def _row(
    expected: GraphModule,
    found: GraphModule,
    pair: OpPair,
    weights: tuple[str, Tensor, Tensor],
    fake: Tensor | None,
    precision: str | None,
) -> LayerRow:
    name, weight, stored = weights
    values = (stored.dequantize() if stored.is_quantized else stored.float()).reshape(weight.shape)
    sums = PairSums()
    sums.add(weight, values, batch=-1)
    first, second = sums.moments()
    return LayerRow(
        op=pair.op,
        call=0,
        part=Part.WEIGHT,
        tensor=name,
        scheme=pair.scheme,
        float_type=type_of(expected, pair.expected[:1]),
        quantized_type=type_of(found, pair.found[:1]),
        shape=tuple(weight.shape),
        format=weight_format(stored, fake, precision),
        error=_error(sums, weight, values, stored, fake),
        expected=first,
        found=second,
    )


def _error(
    sums: PairSums, weight: Tensor, values: Tensor, stored: Tensor, fake: Tensor | None
) -> LayerError:
    """The error of one weight; its largest one in units of each channel's own scale."""
    scales = weight_scales(stored) or ((fake, 0) if fake is not None else None)
    error = sums.error(None, divergence=False)
    if scales is None:
        return error
    steps, axis = scales
    shape = [1] * weight.ndim
    if len(steps) > 1:
        shape[axis] = len(steps)
    distance = (weight.double() - values.double()).abs() / steps.reshape(shape)
    return replace(error, max_steps=float(distance.max()))


def _precision(found: GraphModule, kernel: Node) -> str | None:
    """What autoquant rounded a float module's weight to."""
    if kernel.op != "call_module":
        return None
    module = found.get_submodule(str(kernel.target))
    if isinstance(module, torch.nn.Sequential) and len(module):
        module = module[0]
    precision = getattr(module, "weight_precision", None)
    return precision.value if precision is not None else None


def _node(graph: GraphModule, name: str) -> Node:
    found: Node = next(node for node in graph.graph.nodes if node.name == name)
    return found
