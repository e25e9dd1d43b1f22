"""Plans as short text: one character for each knob that leaves a choice."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from autoquant.core.pairs import pairs_of
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Choices:
    """Writes plans of one space as text, and reads them back.

    Args:
        space: The space.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._places = [
            (knob.name, dict(zip(knob.schemes, _DIGITS, strict=False))) for knob in space.free
        ]
        self._digits = [_DIGITS[: len(knob.schemes)] for knob in space.free]
        order = {knob.name: place for place, knob in enumerate(space.free)}
        self._sites = sorted(
            (site, order.get(knob.name), dict(zip(_DIGITS, _pairs(site, knob), strict=False)))
            for knob in space.knobs
            for site in knob.sites
        )

    def of(self, plan: Plan) -> str:
        """Write a plan of the space."""
        schemes = dict(plan.assignment)
        return "".join(places[schemes[name]] for name, places in self._places)

    def plan(self, text: str) -> Plan:
        """Read what `of` wrote."""
        return Plan(
            tuple(pairs["0" if place is None else text[place]] for _, place, pairs in self._sites)
        )

    def draw(self, draw: random.Random) -> Plan:
        """Draw a plan, all equally likely."""
        return self.plan("".join(draw.choice(digits) for digits in self._digits))

    def all_plans(self) -> Iterator[Plan]:
        """Give every plan."""
        for digits in itertools.product(*self._digits):
            yield self.plan("".join(digits))


def _pairs(site: str, knob: Knob) -> list[tuple[str, Scheme]]:
    """What a plan holds of a site, by the knob's schemes."""
    return [pairs_of({site: scheme})[0] for scheme in knob.schemes]
