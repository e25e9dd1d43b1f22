"""Size and arithmetic of a plan, exactly, from its sites; as numbers and as additive tables."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from autoquant.core.costs import CostTable
from autoquant.core.measurement import Kind, Measurement
from autoquant.core.plan import INT16_SCHEMES, Plan
from autoquant.core.precision import Mode, Scheme
from autoquant.core.sites import Site

_BYTES_FP32 = 4


def plan_costs(plan: Plan, sites: tuple[Site, ...], stored_count: int) -> dict[str, Measurement]:
    """Estimate size, bit operations and the share of ops on 16-bit integers.

    `size_bytes` is what `size_table` predicts. `bops_ratio` is sum(MACs * weight bits *
    activation bits) over the same with 32 x 32 bits (van Baalen et al., "Bayesian Bits", NeurIPS
    2020, sec. 4).
    """
    operations = full = 0
    for site in sites:
        operations += bit_operations(site, plan[site.name])
        full += bit_operations(site, Scheme.FP32)
    size = size_table(sites, stored_count).predict(plan)
    return {
        "size_bytes": Measurement(size, Kind.ESTIMATED),
        "bops_ratio": Measurement(operations / full if full else 1.0, Kind.ESTIMATED),
        "int16_share": Measurement(plan.int16_share, Kind.ESTIMATED),
    }


@lru_cache(maxsize=4)
def size_table(sites: tuple[Site, ...], stored_count: int) -> CostTable:
    """Give the table whose `predict` is a plan's `size_bytes`.

    Each weight counts in its scheme's format, with an fp32 scale for each output channel, or
    each group, of an integer weight; biases and all other constants in fp32. A weight that two
    sites read is stored once where both want the same format, and in both formats where they
    differ. The container of an exported file is not counted.
    """
    others = stored_count - sum(site.weight_count for site in sites if site.shares is None)
    ops = {
        (site.name, scheme): float(weight_bytes(site, scheme))
        for site in sites
        for scheme in Scheme
    }
    by_name = {site.name: site for site in sites}
    saved = {
        (site.shares, site.name): _saved_by_sharing(by_name[site.shares], site)
        for site in sites
        if site.shares is not None
    }
    return CostTable(float(others * _BYTES_FP32), ops, saved, Kind.ESTIMATED, "bytes")


def _saved_by_sharing(owner: Site, site: Site) -> dict[tuple[Scheme, Scheme], float]:
    """By both schemes, the bytes of the copy that is not needed, as a negative cost."""
    alike = owner.weight_channels == site.weight_channels
    return {
        (one, other): -float(weight_bytes(site, other))
        for one in Scheme
        for other in Scheme
        if one.weight is other.weight and one.granularity == other.granularity
        if alike or one.weight.is_float
    }


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
    return site.macs * scheme.weight.bits * scheme.activation.bits


def weight_bytes(site: Site, scheme: Scheme) -> int:
    """Bytes of a site's weight and its scales under a scheme; a norm's weight stays fp32."""
    if not site.kind.is_weighted:
        return site.weight_count * _BYTES_FP32
    stored = -(-site.weight_count * scheme.weight.bits // 8)
    if scheme.weight.is_float:
        return stored
    is_alone = scheme.mode is Mode.WEIGHT_ONLY
    scale_bytes = scheme.activation.bits // 8 if is_alone else _BYTES_FP32
    return stored + _scale_count(site, scheme) * scale_bytes


def _scale_count(site: Site, scheme: Scheme) -> int:
    """How many scales an integer weight has."""
    groups = 1 if scheme.group is None else -(-site.weight_row // scheme.group)
    return site.weight_channels * groups
