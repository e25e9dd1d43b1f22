"""Plan -> PT2E quantizer: what a QConfigMapping is to FX graph mode."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from autoquant.backends.inductor.support import site_support
from autoquant.backends.inductor.torchao import pt2e
from autoquant.backends.targets import load_target
from autoquant.core.backends import TORCH
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.quiet import quiet
from autoquant.core.sites import Site
from autoquant.model.numerics.weight_grids import INT8_LEVELS

_ENGINE = BuildSettings(TORCH, options={"engine": "onednn"})
"""The library whose kernels inductor calls; its int8 sums saturate on CPUs without VNNI."""


def saturates() -> bool:
    """Whether int8 sums overflow on this CPU."""
    return load_target(TORCH).overflows(_ENGINE)


def to_quantizer(plan: Plan, sites: Iterable[Site], weight_bits: int | None = None) -> Any:
    """Build the quantizer that makes torchao's `prepare_pt2e` follow a plan.

    Every int8 site gets an entry by the path of its module; nothing is inherited, and what has
    no entry stays in fp32. `X86InductorQuantizer` refuses to mix static and dynamic
    quantization, so each has a quantizer of its own, and torchao's `ComposableQuantizer` holds
    both. Sites that are functions (`x + y`, `torch.matmul`) have no path of their own: PT2E
    cannot be told about them one by one.

    Args:
        plan: For every site.
        sites: Of the captured model.
        weight_bits: Of int8 weights: 8, or 7 for CPUs whose int8 sums overflow; None: as this one
            needs.

    Returns:
        A `torchao.quantization.pt2e.quantizer.Quantizer`.

    Warns:
        UserWarning: Sites stay in fp32 although the plan chooses something else.
    """
    quantizers = pt2e().quantizer
    left: list[str] = []
    chosen = {Scheme.INT8: {}, Scheme.INT8_DYNAMIC: {}}  # type: dict[Scheme, dict[str, Site]]
    for site in sites:
        scheme = plan[site.name]
        if scheme is Scheme.FP32 or site.follows is not None:
            continue
        if site_support(site, scheme) is Support.UNSUPPORTED:
            left.append(f"{site.name} ({scheme.value})")
        else:
            chosen[scheme][site.module] = site
    if left:
        warnings.warn(
            f"PT2E cannot be told about {len(left)} sites, which stay in fp32: {', '.join(left)}",
            stacklevel=2,
        )
    if weight_bits is None:
        weight_bits = 7 if saturates() else 8
    made = []
    for scheme, modules in chosen.items():
        quantizer = quantizers.X86InductorQuantizer()
        with quiet():
            config = quantizers.get_default_x86_inductor_quantization_config(
                is_dynamic=scheme is Scheme.INT8_DYNAMIC
            )
        low, high = INT8_LEVELS[weight_bits]
        weight = replace(config.weight, quant_min=low, quant_max=high)
        config = replace(config, weight=weight)
        for module in modules:
            quantizer.set_module_name_qconfig(module, config)
        made.append(quantizer)
    return pt2e().composable.ComposableQuantizer(made)
