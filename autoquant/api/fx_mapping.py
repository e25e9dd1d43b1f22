"""Mappings of searches on torch.fx's own graph; gone once no search captures by it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from torch import nn
from torch.fx import GraphModule

from autoquant.backends.torch_cpu.backend import engine_settings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.errors import PlanError
from autoquant.model.torch_ao.observers import ScaleCache, fill_observers
from autoquant.model.torch_ao.qconfig import QConfigMapping, build_qconfig_mapping, carries

if TYPE_CHECKING:
    from autoquant.api.result import BuildContext


def fx_mapping(plan: Plan, context: BuildContext, model: nn.Module) -> QConfigMapping:
    """Give a plan as a QConfigMapping; warns of what it cannot carry.

    Raises:
        PlanError: The plan has int16 weights, whose scales torch's reference modules drop.
    """
    build = context.build
    wide = [name for name, item in plan.assignment if item is Scheme.INT16_WEIGHT]
    if wide:
        raise PlanError(
            f"site {wide[0]!r} has int16 weights, whose scale torch's convert drops",
            hint="use quantize(model), which keeps it",
        )
    casts = [name for name, item in plan.assignment if item is Scheme.BF16]
    if casts:
        warnings.warn(
            f"{len(casts)} bf16 sites stay fp32 in a QConfigMapping ({casts[0]}...); "
            "quantize(model) casts them",
            stacklevel=3,
        )
    left = [item.name for item in build.ranges.fixed if not carries(item, plan)]
    if left:
        warnings.warn(
            f"a QConfigMapping cannot carry the fixed range of {', '.join(left)}; after "
            "prepare_fx call fix_scales(prepared), or use quantize(model)",
            stacklevel=3,
        )
    _, captured = context.capture_again(model)
    settings = engine_settings(build.engine, build.observer, build.reduce_range, build.ranges)
    sites = {site.name: site for site in context.sites}
    return build_qconfig_mapping(captured.addresses, sites, plan, settings)


def fix_fx_scales(prepared: GraphModule, context: BuildContext) -> None:
    """Give the observers of a prepared model the scales of the search, in place."""
    ranges = context.build.ranges
    fill_observers(prepared, ScaleCache(context.statistics, ranges.fixed_tensors))
