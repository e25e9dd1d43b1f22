"""Plans drawn without looking: at random, or one after the other."""

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
    """Draws plans of one space.

    Args:
        space: The space.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._digits = [_DIGITS[: len(knob.schemes)] for knob in space.free]
        order = {knob.name: place for place, knob in enumerate(space.free)}
        self._sites = sorted(
            (site, order.get(knob.name), dict(zip(_DIGITS, _pairs(site, knob), strict=False)))
            for knob in space.knobs
            for site in knob.sites
        )

    def draw(self, draw: random.Random) -> Plan:
        """Draw a plan, all equally likely."""
        return self._plan("".join(draw.choice(digits) for digits in self._digits))

    def all_plans(self) -> Iterator[Plan]:
        """Give every plan."""
        for digits in itertools.product(*self._digits):
            yield self._plan("".join(digits))

    def _plan(self, text: str) -> Plan:
        """The plan of some choices, one character for each knob that leaves one."""
        return Plan(
            tuple(pairs["0" if place is None else text[place]] for _, place, pairs in self._sites)
        )


def _pairs(site: str, knob: Knob) -> list[tuple[str, Scheme]]:
    """What a plan holds of a site, by the knob's schemes."""
    return [pairs_of({site: scheme})[0] for scheme in knob.schemes]
