"""How many of the most sensitive knobs must be raised: bisection on the ranking."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import SensitivityTable
from autoquant.core.space import Knob, SearchSpace


def fewest(low: int, high: int, is_taken: Callable[[int], bool]) -> int:
    """Find a count that is taken while the one below it is not.

    Where being taken does not grow with the count, it finds one such place of several.

    Args:
        low: A count that is not taken.
        high: A count that is.
        is_taken: Asked about counts between them, each once: log2(high - low) times, rounded up.

    >>> fewest(0, 10, lambda count: count >= 3)
    3
    """
    while high - low > 1:
        middle = (low + high) // 2
        if is_taken(middle):
            high = middle
        else:
            low = middle
    return high


def rank_by_gain(
    space: SearchSpace, table: SensitivityTable, before: Scheme, after: Scheme
) -> Sequence[Knob]:
    """Knobs that allow both schemes, by the noise that the change takes away, most first.

    An op whose noise the finer scheme keeps (int16 keeps weights in 8 bits) comes late, however
    sensitive it is. Ties stay in graph order.
    """
    losses = table.losses()

    def gain(knob: Knob) -> float:
        return losses.get((knob.name, before), 0.0) - losses.get((knob.name, after), 0.0)

    free = [knob for knob in space.free if before in knob.schemes and after in knob.schemes]
    return sorted(free, key=lambda knob: -gain(knob))


def narrow(space: SearchSpace, schemes: Sequence[Scheme], pinned: dict[str, Scheme]) -> SearchSpace:
    """Leave to each knob only some schemes, or the one that it is pinned to.

    A knob that allows none of them stays as it is, at its most precise scheme.
    """
    knobs = []
    for knob in space.knobs:
        kept = tuple(scheme for scheme in knob.schemes if scheme in schemes) or knob.schemes[-1:]
        chosen = pinned.get(knob.name)
        knobs.append(Knob(knob.name, knob.sites, kept if chosen is None else (chosen,)))
    return SearchSpace(tuple(knobs))
