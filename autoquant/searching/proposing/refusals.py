"""What an engine refuses is learnt from the plans that failed, and not asked for again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from autoquant.core.measurement import Candidate
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import SearchSpace

Edge = tuple[str, str]
"""Two sites, one of which reads what the other writes."""

_Part = tuple[tuple[str, Scheme], ...]
"""One choice, or two choices side by side: knobs with their schemes."""


class Taken(Protocol):
    """Plans that may not be proposed: asked for already, or known to be refused."""

    def __contains__(self, plan: object) -> bool:
        """Whether a plan is one of them."""

    def __len__(self) -> int:
        """How many were asked for."""


class Refusals:
    """Rules out plans that hold what an engine refused.

    An engine refuses a plan for one choice at a site, or for two choices side by side. Which one
    it was, it seldom says: it names a site, if anything. Suspect is each choice at that site
    and each pair with a neighbour (at all sites where none is named), less what some plan holds
    that worked. A plan that holds all suspects of one refusal holds what was refused, and is ruled
    out; each plan that works leaves fewer suspects, down to one. Where none is left beside the
    named site, pairs with sites further away are suspect; where none is left at all, nothing is
    ruled out.

    It follows from the candidates alone, so that a resumed search rules out the same.
    """

    def __init__(self, space: SearchSpace, edges: Iterable[Edge]) -> None:
        self._knob_of = {site: knob.name for knob in space.knobs for site in knob.sites}
        self._beside: dict[str, set[str]] = {knob.name: set() for knob in space.knobs}
        for writer, reader in edges:
            first, second = self._knob_of[writer], self._knob_of[reader]
            if first != second:
                self._beside[first].add(second)
                self._beside[second].add(first)
        self._worked: list[Plan] = []
        self._refused: list[_Refusal] = []

    def learn(self, candidate: Candidate) -> None:
        """Take in how a plan did."""
        plan, failure = candidate.plan, candidate.failure
        if failure is None:
            self._worked.append(plan)
            for refusal in self._refused:
                refusal.suspects = _less(refusal.suspects, plan)
                self._look_further(refusal)
        elif failure.refused is not None:
            named = {self._knob_of[site] for site in failure.refused if site in self._knob_of}
            for knobs in [{name} for name in sorted(named)] or [set(self._beside)]:
                parts = _parts(plan, {name: self._beside[name] for name in knobs})
                refusal = _Refusal(plan, next(iter(knobs)) if named else None, parts)
                self._clear(refusal)
                self._look_further(refusal)
                self._refused.append(refusal)

    def forbid(self, plan: Plan) -> bool:
        """Whether a plan holds what was refused."""
        if not self._refused:
            return False
        schemes = dict(plan.assignment)
        return any(item.suspects and _holds(schemes, item.suspects) for item in self._refused)

    def _look_further(self, refusal: _Refusal) -> None:
        """Suspect pairs with sites further away, once, where nothing beside the site is left."""
        if refusal.suspects or refusal.named is None or refusal.is_far:
            return
        refusal.is_far = True
        refusal.suspects = _parts(
            refusal.plan, {refusal.named: self._beside.keys() - {refusal.named}}
        )
        self._clear(refusal)

    def _clear(self, refusal: _Refusal) -> None:
        """Clear what plans hold that worked."""
        for plan in self._worked:
            refusal.suspects = _less(refusal.suspects, plan)


@dataclass(frozen=True, slots=True)
class AskedOrRefused:
    """The plans of some digests, and what is refused."""

    asked: Collection[str]
    refusals: Refusals

    def __contains__(self, plan: object) -> bool:
        return isinstance(plan, Plan) and (plan.digest in self.asked or self.refusals.forbid(plan))

    def __len__(self) -> int:
        return len(self.asked)


@dataclass(slots=True)
class _Refusal:
    """A plan that was refused, the knob that was named, and what may be the reason."""

    plan: Plan
    named: str | None
    suspects: list[_Part]
    is_far: bool = False


def _parts(plan: Plan, pairs: Mapping[str, Iterable[str]]) -> list[_Part]:
    """The choices of some knobs in a plan, alone and each with those of others."""
    schemes = dict(plan.assignment)
    found: dict[_Part, None] = {}
    for name, others in pairs.items():
        found[((name, schemes[name]),)] = None
        for first, second in (sorted((name, other)) for other in others):
            found[(first, schemes[first]), (second, schemes[second])] = None
    return list(found)


def _less(parts: list[_Part], plan: Plan) -> list[_Part]:
    """What a plan does not hold."""
    if not parts:
        return parts
    schemes = dict(plan.assignment)
    return [part for part in parts if not _holds(schemes, [part])]


def _holds(schemes: Mapping[str, Scheme], parts: Iterable[_Part]) -> bool:
    return all(schemes[name] is scheme for part in parts for name, scheme in part)
