"""A plan with some of its ops in a wider scheme."""

from __future__ import annotations

from collections.abc import Collection

from autoquant.core.plan import Plan
from autoquant.core.precision import Mode, Scheme
from autoquant.searching.preparing.preparation import Preparation

_ENOUGH_BITS = 16


def raise_ops(
    prepared: Preparation,
    plan: Plan,
    sites: Collection[str],
    *,
    dynamic: Collection[str] = (),
    wide_weights: bool = False,
) -> Plan:
    """Give ops, and what must agree with them, the cheapest wider scheme that the space has.

    Wider means activations of 16 bits or more; `dynamic` sites, for which a scale for each batch
    will do as well, take int8_dynamic. With `wide_weights` weights have these bits too (int16's
    have eight).
    """
    schemes = dict(plan.schemes)
    follows = {site.name for site in prepared.captured.sites if site.follows is not None}
    for knob in prepared.space.knobs:
        if not set(sites) & set(knob.sites):
            continue
        wide = [
            scheme
            for scheme in knob.schemes
            if _is_wide(scheme) and (not wide_weights or scheme.weight.bits >= _ENOUGH_BITS)
        ]
        chosen = wide[0] if wide else Scheme.FP32
        if set(knob.sites) - follows <= set(dynamic):
            chosen = Scheme.INT8_DYNAMIC
        schemes |= dict.fromkeys(knob.sites, chosen)
    return Plan.of(schemes)


def _is_wide(scheme: Scheme) -> bool:
    return scheme.mode is Mode.STATIC and scheme.activation.bits >= _ENOUGH_BITS


def rules_text(prepared: Preparation, before: Plan, after: Plan) -> str:
    """The rules of a search space that keep raised ops raised, as a job file writes them.

    Ops that follow another take its scheme; they need no rule.
    """
    rules = [
        f"{{path: '{site.name}', schemes: [{_listed(after[site.name])}]}}"
        for site in prepared.captured.sites
        if site.follows is None and after[site.name] is not before[site.name]
    ]
    return f"[{', '.join(rules)}]"


def _listed(scheme: Scheme) -> str:
    return scheme.value if scheme is Scheme.FP32 else f"{scheme.value}, {Scheme.FP32.value}"
