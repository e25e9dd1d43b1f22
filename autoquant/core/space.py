"""The search space: knobs, each a set of sites that agree and the schemes allowed to them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.errors import PlanError


@dataclass(frozen=True, slots=True)
class Knob:
    """Sites that must agree, and the schemes that all of them may have.

    Attributes:
        name: Name of its first site.
        sites: Names of its sites, in graph order.
        schemes: What may be chosen, cheapest first; a pinned knob has one.
    """

    name: str
    sites: tuple[str, ...]
    schemes: tuple[Scheme, ...]

    def __post_init__(self) -> None:
        if not self.sites or not self.schemes:
            raise ValueError(f"knob {self.name!r} needs at least one site and one scheme")
        if len(set(self.schemes)) != len(self.schemes):
            raise ValueError(f"knob {self.name!r} lists a scheme twice")


@dataclass(frozen=True)
class SearchSpace:
    """All knobs of a model on a target, in graph order; an illegal plan cannot be drawn."""

    knobs: tuple[Knob, ...]

    def __post_init__(self) -> None:
        sites = [site for knob in self.knobs for site in knob.sites]
        if len(set(sites)) != len(sites):
            raise ValueError("a site belongs to two knobs")

    @cached_property
    def by_name(self) -> Mapping[str, Knob]:
        """Knobs by name."""
        return {knob.name: knob for knob in self.knobs}

    @cached_property
    def free(self) -> tuple[Knob, ...]:
        """Knobs that leave a choice."""
        return tuple(knob for knob in self.knobs if len(knob.schemes) > 1)

    @property
    def schemes(self) -> tuple[Scheme, ...]:
        """Every scheme that some knob allows, in the order of `Scheme`."""
        used = {scheme for knob in self.knobs for scheme in knob.schemes}
        return tuple(scheme for scheme in Scheme if scheme in used)

    @property
    def plan_count(self) -> int:
        """Number of distinct plans."""
        return math.prod(len(knob.schemes) for knob in self.knobs)

    def plan(self, choices: Mapping[str, Scheme]) -> Plan:
        """Spread one choice for each knob over its sites."""
        schemes: dict[str, Scheme] = {}
        for knob in self.knobs:
            chosen = choices.get(knob.name)
            if chosen not in knob.schemes:
                raise PlanError(
                    f"knob {knob.name!r}: {chosen.value if chosen else 'no scheme'} chosen",
                    hint=f"allowed: {', '.join(scheme.value for scheme in knob.schemes)}",
                )
            schemes.update(dict.fromkeys(knob.sites, chosen))
        return Plan.of(schemes)

    def choices(self, plan: Plan) -> dict[str, Scheme]:
        """Read each knob's choice off a plan."""
        found: dict[str, Scheme] = {}
        chosen = dict(plan.assignment)
        for knob in self.knobs:
            scheme = chosen.get(knob.sites[0])
            agree = all(chosen.get(site) is scheme for site in knob.sites[1:])
            if scheme not in knob.schemes or not agree:
                raise PlanError(
                    f"the plan does not fit knob {knob.name!r} (sites {', '.join(knob.sites)})",
                    hint=f"give all its sites one of {', '.join(s.value for s in knob.schemes)}",
                )
            found[knob.name] = scheme
        return found

    def uniform(self, scheme: Scheme) -> Plan:
        """Choose `scheme` wherever it is allowed, the most precise allowed scheme elsewhere."""
        return self.plan(
            {
                knob.name: scheme if scheme in knob.schemes else knob.schemes[-1]
                for knob in self.knobs
            }
        )
