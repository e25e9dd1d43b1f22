"""Plans that raise the most sensitive knobs of a uniform plan to a more precise scheme."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import SensitivityTable
from autoquant.core.space import Knob, SearchSpace
from autoquant.errors import PlanError


def raise_most_sensitive(
    table: SensitivityTable,
    *,
    ratio: float,
    scheme: Scheme | str = Scheme.INT16,
    base: Scheme | str = Scheme.INT8,
    space: SearchSpace | None = None,
) -> Plan:
    """Give the uniform plan of `base` with its most sensitive knobs raised to `scheme`.

    Knobs are ranked by the noise that `base` alone adds to the outputs. All sites of a knob move
    together. A raised knob that does not allow `scheme` takes the most precise that it allows.

    Args:
        table: Sensitivity of the knobs.
        ratio: Share of the free knobs to raise, from 0 to 1; rounded, at least one above 0.
        scheme: What they take.
        base: What all others take, where they allow it; elsewhere their most precise.
        space: The knobs; None: those that the table was taken of.

    Raises:
        PlanError: The ratio is no share, the space has no such scheme, or the table was read from
            a file that does not name the knobs' sites.
    """
    space = space or table.space
    if space is None:
        raise PlanError(
            "this table does not say which sites belong to its knobs",
            hint="take it from aq.sensitivity or result.sensitivity, or give space=",
        )
    if not 0.0 <= ratio <= 1.0:
        raise PlanError(f"ratio {ratio:g} is not from 0 to 1", hint="0.2 raises a fifth")
    start, target = (_scheme_of(item, space) for item in (base, scheme))
    ranked = rank_knobs(space, table, start)
    count = max(1, round(len(ranked) * ratio)) if ratio > 0 else 0
    return raise_knobs(space, space.uniform(start), ranked[:count], target)


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
