"""Fourier transforms as the engine's own, which its front end knows no rule for."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import numpy as np
import openvino as ov
import torch
from openvino import opset9 as ops
from openvino.frontend.pytorch import ConversionExtension
from torch.fx import GraphModule, Node

from autoquant.backends.openvino.named import Named

_FROM_REAL = torch.ops.aten._fft_r2c.default
_TO_REAL = torch.ops.aten._fft_c2r.default
_COMPLEX = torch.ops.aten._fft_c2c.default

_TRANSFORMS = (_FROM_REAL, _TO_REAL, _COMPLEX)

_EXPONENTS = (0.0, -0.5, -1.0)
"""By torch's number of a normalization, the power of the number of values that it multiplies by."""


def take_out_transforms(graph: GraphModule) -> list[ConversionExtension]:
    """Let the front end build the Fourier transforms of a graph by extensions, in place.

    The engine's hold a complex number in a last axis of two, as `torch.view_as_real` does, which
    is all that reads or feeds a transform (`write_in_real_numbers`).
    """
    found = []
    for node in [item for item in graph.graph.nodes if item.target in _TRANSFORMS]:
        source, viewed = node.args[0], node
        if node.target is not _FROM_REAL:
            source = source.args[0]
        if node.target is not _TO_REAL:
            (viewed,) = node.users
        with graph.graph.inserting_before(node):
            own = graph.graph.call_function(Named(f"autoquant.{node.name}"), (source,))
        own.meta = dict(viewed.meta)
        viewed.replace_all_uses_with(own)
        found.append(
            ConversionExtension(str(own.target), partial(_build, node=node, name=own.name))
        )
    if found:
        graph.graph.eliminate_dead_code()
    return found


def _build(context: Any, node: Node, name: str) -> list[ov.Output]:
    """The engine's transform, scaled as torch's is; ops are named as the front end does."""
    source = context.get_input(0)
    _, dims, norm, *_ = cast("tuple[Any, ...]", node.args)
    axes = np.array(dims, np.int64)
    transform, exponent = _native(node, source, axes)
    made = [transform]
    wanted = _EXPONENTS[norm]
    if wanted != exponent:
        values = source if node.target is not _TO_REAL else transform
        sizes = ops.gather(ops.shape_of(values, "i64"), axes, np.int64(0))
        count = ops.convert(ops.reduce_prod(sizes, np.int64(0), False), "f32")
        factor = ops.power(count, np.float32(wanted - exponent))
        made += [sizes, count, factor, ops.multiply(transform, factor)]
    for place, op in enumerate(made):
        op.set_friendly_name(f"{name}/{op.get_type_name()}_{place}")
    return [made[-1].output(0)]


def _native(node: Node, source: ov.Output, axes: Any) -> tuple[ov.Node, float]:
    """The engine's own transform, and the power of the number of values that it multiplies by."""
    if node.target is _FROM_REAL:
        return ops.rdft(source, axes), 0.0
    if node.target is _TO_REAL:
        sizes = ops.gather(ops.shape_of(source, "i64"), axes[:-1], np.int64(0))
        last = np.array([node.args[3]], np.int64)
        return ops.irdft(source, axes, ops.concat([sizes, last], 0)), -1.0
    return (ops.dft(source, axes), 0.0) if node.args[3] else (ops.idft(source, axes), -1.0)
