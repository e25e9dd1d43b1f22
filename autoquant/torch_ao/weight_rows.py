"""Weights of a float op and of what torch made of it, batch norms folded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor
from torch.fx import GraphModule, Node

from autoquant.comparing.sums import PairSums
from autoquant.core.findings.layers import LayerError, LayerRow
from autoquant.core.sensitivity import Part
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
        if other is None or other.numel() != weight.numel():
            continue
        values = other.dequantize() if other.is_quantized else other.float()
        values = values.reshape(weight.shape)
        sums = PairSums()
        sums.add(weight, values, batch=-1)
        first, second = sums.moments()
        yield LayerRow(
            op=op,
            call=0,
            part=Part.WEIGHT,
            tensor=name,
            scheme=None,
            float_type=type_of(expected, (root.name,)),
            quantized_type=type_of(found, (kernel.name,)),
            shape=tuple(weight.shape),
            format=weight_format(other, fake),
            error=_error(sums, weight, values, weight_scales(other) or _with_axis(fake)),
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
