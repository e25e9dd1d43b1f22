"""Size and arithmetic of a plan, exactly, from its sites; as numbers and as additive tables."""

from __future__ import annotations

from collections.abc import Iterable

from autoquant.core.costs import CostTable
from autoquant.core.measurement import Kind, Measurement
from autoquant.core.plan import INT16_SCHEMES, Plan
from autoquant.core.precision import Mode, Precision, Scheme
from autoquant.core.sites import OpKind, Site

_BYTES_FP32 = 4


def plan_costs(plan: Plan, sites: Iterable[Site], parameter_count: int) -> dict[str, Measurement]:
    """Estimate size, bit operations and the share of ops on 16-bit integers.

    `size_bytes` counts each weight in its scheme's format, with an fp32 scale for each output
    channel of an integer weight; biases and all other parameters in fp32. The container of an
    exported file is not counted. `bops_ratio` is sum(MACs * weight bits * activation bits) over
    the same with 32 x 32 bits (van Baalen et al., "Bayesian Bits", NeurIPS 2020, sec. 4).

    Args:
        plan: A plan.
        sites: All sites of the model.
        parameter_count: Parameters of the whole float model.
    """
    size = parameter_count * _BYTES_FP32
    operations = full = 0
    for site in sites:
        scheme = plan[site.name]
        size += weight_bytes(site, scheme) - site.weight_count * _BYTES_FP32
        operations += bit_operations(site, scheme)
        full += bit_operations(site, Scheme.FP32)
    return {
        "size_bytes": Measurement(float(size), Kind.ESTIMATED),
        "bops_ratio": Measurement(operations / full if full else 1.0, Kind.ESTIMATED),
        "int16_share": Measurement(plan.int16_share, Kind.ESTIMATED),
    }


def size_table(sites: Iterable[Site], parameter_count: int) -> CostTable:
    """Give the table whose `predict` is a plan's `size_bytes`, exactly.

    Args:
        sites: All sites of the model.
        parameter_count: Parameters of the whole float model.
    """
    listed = tuple(sites)
    others = parameter_count - sum(site.weight_count for site in listed)
    ops = {
        (site.name, scheme): float(weight_bytes(site, scheme))
        for site in listed
        for scheme in Scheme
    }
    return CostTable(float(others * _BYTES_FP32), ops, {}, Kind.ESTIMATED, "bytes")


def bops_table(sites: Iterable[Site]) -> CostTable:
    """Give the table whose `predict` is a plan's bit operations, exactly.

    A plan's `bops_ratio` is its bit operations over those of the fp32 plan: whole numbers, so
    that no order of adding them up changes the result.
    """
    ops = {
        (site.name, scheme): float(bit_operations(site, scheme))
        for site in sites
        for scheme in Scheme
    }
    return CostTable(0.0, ops, {}, Kind.ESTIMATED, "bops")


def int16_table(sites: Iterable[Site]) -> CostTable:
    """Give the table whose `predict` is a plan's `int16_share`."""
    listed = tuple(sites)
    ops = {
        (site.name, scheme): (scheme in INT16_SCHEMES) / len(listed)
        for site in listed
        for scheme in Scheme
    }
    return CostTable(0.0, ops, {}, Kind.ESTIMATED, "share")


def bit_operations(site: Site, scheme: Scheme) -> int:
    """MACs of a site for one sample, times weight bits, times activation bits."""
    return site.macs * scheme.weight.bits * _activation_bits(scheme)


def weight_bytes(site: Site, scheme: Scheme) -> int:
    """Bytes of a site's weight and its scales under a scheme; a norm's weight stays fp32."""
    if not site.kind.is_weighted:
        return site.weight_count * _BYTES_FP32
    stored = site.weight_count * scheme.weight.bits // 8
    return stored + (0 if scheme.weight.is_float else _channels(site) * _BYTES_FP32)


def _channels(site: Site) -> int:
    """How many scales an integer weight has."""
    if site.kind in (OpKind.EMBEDDING, OpKind.EMBEDDING_BAG):
        width = site.output_shape[-1] if site.output_shape else 1
        return site.weight_count // max(width, 1)
    if site.kind is OpKind.LINEAR:
        return site.output_shape[-1] if site.output_shape else 1
    return site.output_shape[1] if len(site.output_shape) > 1 else 1


def _activation_bits(scheme: Scheme) -> int:
    bits = scheme.activation.bits
    return Precision.FP32.bits if scheme.mode is Mode.WEIGHT_ONLY else bits
