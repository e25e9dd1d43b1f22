"""Plans that raise the most sensitive knobs of a uniform plan to a more precise scheme."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from autoquant.core.calls import Count, checked
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Measure, SensitivityTable
from autoquant.core.space import Knob, SearchSpace
from autoquant.errors import PlanError


@checked
def raise_most_sensitive(
    table: SensitivityTable,
    *,
    ratio: float | None = None,
    count: Count | None = None,
    scheme: Scheme | str = Scheme.INT16,
    base: Scheme | str | Plan = Scheme.INT8,
    by: Measure = Measure.SQNR,
    space: SearchSpace | None = None,
) -> Plan:
    """Give a plan, or the uniform one of `base`, with its most sensitive knobs raised to `scheme`.

    Knobs are ranked by what the scheme that they have in `base` alone does to the outputs. All
    sites of a knob move together; those that are as precise already stay. A raised knob that does
    not allow `scheme` takes the most precise that it allows.

    Args:
        table: Sensitivity of the knobs.
        ratio: Share of the free knobs to raise, from 0 to 1; rounded, at least one above 0.
        count: How many to raise, in the place of a share.
        scheme: What they take.
        base: What all others take, where they allow it; elsewhere their most precise. Or a plan,
            which keeps what is not raised (another call's, to raise some further).
        by: The measure that ranks.
        space: The knobs; None: those that the table was taken of.

    Raises:
        PlanError: Both or none of ratio and count are given, the ratio is no share, the space has
            no such scheme, the plan is none of the space, or the table does not name the knobs'
            sites or lacks the measure.
    """
    if (ratio is None) == (count is None):
        raise PlanError(
            f"raise_most_sensitive got ratio {ratio} and count {count}",
            hint="give the one or the other: ratio=0.25",
        )
    space = space or table.space
    if space is None:
        raise PlanError(
            "this table does not say which sites belong to its knobs",
            hint="take it from aq.sensitivity or result.sensitivity, or give space=",
        )
    if ratio is not None and not 0.0 <= ratio <= 1.0:
        raise PlanError(f"ratio {ratio:g} is not from 0 to 1", hint="0.2 raises a fifth")
    target = _scheme_of(scheme, space)
    plan = base if isinstance(base, Plan) else space.uniform(_scheme_of(base, space))
    if count is None:
        count = max(1, round(len(space.free) * ratio)) if ratio else 0
    return raise_knobs(space, plan, _rank_within(space, plan, table, target, by)[:count], target)


def _rank_within(
    space: SearchSpace, plan: Plan, table: SensitivityTable, target: Scheme, by: Measure
) -> Sequence[Knob]:
    """Knobs that a scheme would raise, by the loss of what they have; ties in graph order."""
    chosen, losses = space.choices(plan), table.losses(by)
    rising = [knob for knob in space.free if _rises(knob, chosen[knob.name], target)]
    missing = [knob.name for knob in rising if (knob.name, chosen[knob.name]) not in losses]
    needs_all = by not in (Measure.SQNR, Measure.METRIC)  # an engine may refuse some plans
    if missing and (needs_all or not losses):
        raise PlanError(
            f"the table does not say {by.value}: {missing[0]} has none",
            hint="--set sensitivity.method=exact measures it for every knob",
        )
    return sorted(rising, key=lambda knob: -losses.get((knob.name, chosen[knob.name]), -math.inf))


def _rises(knob: Knob, scheme: Scheme, target: Scheme) -> bool:
    """Whether `target`, or what stands for it at this knob, is more precise."""
    return knob.schemes.index(raised_scheme(knob, target)) > knob.schemes.index(scheme)


def raise_knobs(space: SearchSpace, plan: Plan, knobs: Iterable[Knob], target: Scheme) -> Plan:
    """Give a plan of the space with some knobs raised, each as far as it allows."""
    raised = {knob.name: raised_scheme(knob, target) for knob in knobs}
    return space.plan({**space.choices(plan), **raised})


def raised_scheme(knob: Knob, target: Scheme) -> Scheme:
    """`target` where the knob allows it, else its most precise scheme."""
    return target if target in knob.schemes else knob.schemes[-1]


def rank_knobs(space: SearchSpace, table: SensitivityTable, base: Scheme) -> Sequence[Knob]:
    """Free knobs by the noise of `base`, or their cheapest scheme, most sensitive first.

    Ties stay in graph order.
    """
    losses = table.losses()

    def noise(knob: Knob) -> float:
        scheme = base if base in knob.schemes else knob.schemes[0]
        return losses.get((knob.name, scheme), 0.0)

    return sorted(space.free, key=lambda knob: -noise(knob))


def _scheme_of(item: Scheme | str, space: SearchSpace) -> Scheme:
    """A scheme of the space, by itself or by its name."""
    known = {scheme.value: scheme for scheme in space.schemes}
    name = item.value if isinstance(item, Scheme) else item
    if name not in known:
        raise PlanError(
            f"{name!r} is no scheme of this search space", hint=f"it has {', '.join(known)}"
        )
    return known[name]
