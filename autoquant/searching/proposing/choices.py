"""Plans drawn without looking: at random, or one after the other."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

from autoquant.core.pairs import pairs_of
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace


class Choices:
    """Draws plans of one space."""

    def __init__(self, space: SearchSpace) -> None:
        self._ranges = [range(len(knob.schemes)) for knob in space.free]
        order = {knob.name: place for place, knob in enumerate(space.free)}
        self._sites = sorted(
            (site, order.get(knob.name), _pairs(site, knob))
            for knob in space.knobs
            for site in knob.sites
        )

    def draw(self, draw: random.Random) -> Plan:
        """Draw a plan, all equally likely."""
        return self._plan([draw.choice(places) for places in self._ranges])

    def all_plans(self) -> Iterator[Plan]:
        """Give every plan."""
        return map(self._plan, itertools.product(*self._ranges))

    def _plan(self, chosen: Sequence[int]) -> Plan:
        """The plan of some choices: the place of a scheme for each knob that leaves one."""
        return Plan(
            tuple(pairs[0 if place is None else chosen[place]] for _, place, pairs in self._sites)
        )


def _pairs(site: str, knob: Knob) -> list[tuple[str, Scheme]]:
    """What a plan holds of a site, by the knob's schemes."""
    return [pairs_of({site: scheme})[0] for scheme in knob.schemes]
