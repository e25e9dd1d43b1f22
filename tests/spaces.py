"""Search spaces for tests, straight from sites and a backend's support."""

from __future__ import annotations

import random

from autoquant.backends.protocol import Backend
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.space import Knob, SearchSpace
from autoquant.model.graph.captured import Capture


def full_space(captured: Capture, backend: Backend) -> SearchSpace:
    """Every scheme that the backend runs or emulates, sites that agree in one knob."""
    parent = {site.name: site.name for site in captured.sites}

    def find(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for group in captured.agreements:
        for name in group[1:]:
            parent[find(name)] = find(group[0])
    groups: dict[str, list[str]] = {}
    for site in captured.sites:
        groups.setdefault(find(site.name), []).append(site.name)
    sites = {site.name: site for site in captured.sites}
    knobs = []
    for names in groups.values():
        leading = [sites[n] for n in names if sites[n].follows is None] or [sites[names[0]]]
        schemes = tuple(
            scheme
            for scheme in Scheme
            if all(backend.support(site, scheme) is not Support.UNSUPPORTED for site in leading)
        )
        knobs.append(Knob(names[0], tuple(names), schemes))
    return SearchSpace(tuple(knobs))


def random_plan(space: SearchSpace, seed: int, schemes: tuple[Scheme, ...] = tuple(Scheme)) -> Plan:
    """Draw one plan, from some of the schemes where a knob has them."""
    draw = random.Random(seed)
    return space.plan(
        {
            knob.name: draw.choice([s for s in knob.schemes if s in schemes] or [knob.schemes[-1]])
            for knob in space.knobs
        }
    )
