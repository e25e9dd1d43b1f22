"""Plans as short text: one character for each knob that leaves a choice."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import SearchSpace

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Choices:
    """Writes plans of one space as text, and reads them back.

    Args:
        space: The space.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._pinned = {k.name: k.schemes[0] for k in space.knobs if len(k.schemes) == 1}
        self._places = [
            (knob.name, dict(zip(knob.schemes, _DIGITS, strict=False))) for knob in space.free
        ]
        self._schemes = [
            (knob.name, dict(zip(_DIGITS, knob.schemes, strict=False))) for knob in space.free
        ]

    def of(self, plan: Plan) -> str:
        """Write a plan of the space."""
        schemes = dict(plan.assignment)
        return "".join(places[schemes[name]] for name, places in self._places)

    def plan(self, text: str) -> Plan:
        """Read what `of` wrote."""
        chosen: dict[str, Scheme] = {
            name: schemes[digit] for (name, schemes), digit in zip(self._schemes, text, strict=True)
        }
        return self._space.plan({**self._pinned, **chosen})

    def draw(self, draw: random.Random) -> Plan:
        """Draw a plan, all equally likely."""
        return self.plan("".join(draw.choice(list(schemes)) for _, schemes in self._schemes))

    def all_plans(self) -> Iterator[Plan]:
        """Give every plan."""
        for digits in itertools.product(*(schemes for _, schemes in self._schemes)):
            yield self.plan("".join(digits))
