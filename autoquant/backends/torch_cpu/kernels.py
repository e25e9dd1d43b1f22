"""Which engine's kernel is faster, op by op."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autoquant.backends.torch_cpu.profile import Profile
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme


@dataclass(frozen=True, slots=True, eq=False)
class KernelChoice:
    """The faster engine of each op, for one plan.

    Attributes:
        engines: By site, the engine whose kernel takes least time there.
        cost: Predicted time of the plan with these kernels, over the float model's.
        single: By engine, predicted time of the plan with all its kernels, over the float model's.
    """

    engines: Mapping[str, str]
    cost: float
    single: Mapping[str, float]


def choose_kernels(profiles: Mapping[str, Profile], plan: Plan) -> KernelChoice:
    """Choose an engine for every op of a plan, by the profiles of several engines.

    Packed weights carry their engine, so ops packed for fbgemm and for onednn run side by side
    in one model; what passes between them are the same quantized tensors. So each op may take
    the faster kernel of its own. Costs are compared relative to each profile's float model, and
    boundaries are taken as the first profile has them: no engine converts faster than another.

    Args:
        profiles: By engine, of the same model, space, batch and threads; at least one.
        plan: What the ops compute in.

    Raises:
        ValueError: There is no profile.
    """
    if not profiles:
        raise ValueError("choosing kernels takes the profile of at least one engine")
    engines = {site: _fastest(profiles, site, scheme) for site, scheme in plan.assignment}
    first = next(iter(profiles))
    single = {
        engine: profile.table.predict(plan) / profile.baseline_ms
        for engine, profile in profiles.items()
    }
    gained = sum(
        _share(profiles[first], site, scheme) - _share(profiles[engines[site]], site, scheme)
        for site, scheme in plan.assignment
    )
    return KernelChoice(engines, single[first] - gained, single)


def _fastest(profiles: Mapping[str, Profile], site: str, scheme: Scheme) -> str:
    """The engine that takes least; the first of equals."""
    return min(profiles, key=lambda engine: _share(profiles[engine], site, scheme))


def _share(profile: Profile, site: str, scheme: Scheme) -> float:
    """An op's time over that of the float model."""
    return profile.table.ops[site, scheme] / profile.baseline_ms
