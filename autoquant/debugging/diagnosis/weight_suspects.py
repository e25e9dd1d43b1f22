"""Weights with one scale for channels that differ too much for it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.fx import Node

from autoquant.core.findings.diagnosis import Cause
from autoquant.core.plan import Plan
from autoquant.core.sites import OpKind, Site
from autoquant.debugging.diagnosis.suspects import LOST, Suspect
from autoquant.model.graph.exporting import take
from autoquant.model.graph.site_nodes import SiteNodes
from autoquant.model.numerics.rounding import SchemeRounding
from autoquant.model.numerics.weight_grids import WeightGrid

_TRANSPOSED = frozenset({OpKind.CONV_TRANSPOSE1D, OpKind.CONV_TRANSPOSE2D, OpKind.CONV_TRANSPOSE3D})


def find_weight_suspects(
    marked: SiteNodes, plan: Plan, rounding: SchemeRounding
) -> Iterator[Suspect]:
    """Find ops whose weight has one scale, eight times what its median channel needs.

    Transposed convolutions and recurrent layers have no kernel with a scale for each channel.
    """
    found: dict[str, float] = {}
    for root, site in marked.roots.items():
        grid = rounding.weight_format(site, plan[site.name])
        if isinstance(grid, WeightGrid) and not grid.is_per_channel:
            weights = [_value(marked, node) for node in marked.operands[root].weights]
            found[site.name] = max((_spread(item, site) for item in weights), default=1.0)
    wide = tuple(name for name, ratio in found.items() if ratio >= LOST)
    if wide:
        ratio = max(found[name] for name in wide)
        yield Suspect(Cause.PER_TENSOR_WEIGHT, (), {}, weights=wide, ratio=ratio)


def _value(marked: SiteNodes, node: Node) -> Tensor:
    value: Tensor = take(marked.module, str(node.target))
    return value.detach()


def _spread(weight: Tensor, site: Site) -> float:
    """The largest output channel over the median one; transposed weights are (inputs, outputs)."""
    axis = 1 if site.kind in _TRANSPOSED else 0
    channels = weight.abs().transpose(0, axis).flatten(1).amax(1)
    alive = channels[channels > 0]
    return float(alive.max() / torch.quantile(alive, 0.5)) if len(alive) else 1.0
