"""Weights with one scale for channels that differ too much for it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from autoquant.analysis.diagnosis.kernels import BuiltPlan
from autoquant.analysis.diagnosis.module_run import weights_of
from autoquant.analysis.diagnosis.suspects import LOST, Suspect
from autoquant.core.diagnosis import Cause
from autoquant.core.sites import Site
from autoquant.model.torch_ao.rounding import WeightGrid


def find_weight_suspects(built: BuiltPlan) -> Iterator[Suspect]:
    """Find ops whose weight has one scale, eight times what its median channel needs.

    Args:
        built: The plan; transposed convolutions have no kernel with a scale for each channel.
    """
    modules = dict(built.captured.graph.named_modules())
    found = {
        site.name: _spread(modules[site.module])
        for site in built.captured.sites
        if site.function is None and _has_one_scale(built, site)
    }
    wide = tuple(name for name, ratio in found.items() if ratio >= LOST)
    if wide:
        ratio = max(found[name] for name in wide)
        yield Suspect(Cause.PER_TENSOR_WEIGHT, (), {}, weights=wide, ratio=ratio)


def _has_one_scale(built: BuiltPlan, site: Site) -> bool:
    grid = built.rounding.weight_format(site, built.plan[site.name])
    return isinstance(grid, WeightGrid) and not grid.is_per_channel


def _spread(module: nn.Module) -> float:
    """The largest channel over the median one; transposed weights are (inputs, outputs, ...)."""
    ratios = [1.0]
    for _, weight in weights_of(module):
        channels = weight.detach().abs().transpose(0, 1).flatten(1).amax(1)
        alive = channels[channels > 0]
        if len(alive):
            ratios.append(float(alive.max() / torch.quantile(alive, 0.5)))
    return max(ratios)
