"""The strategy: asks for plans that were not asked for before, and is told how they did."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from autoquant.core.history import Ask, AskLog, Past
from autoquant.core.measurement import Candidate
from autoquant.core.objectives import Goal
from autoquant.core.pairs import pairs_of
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace
from autoquant.searching.proposing.constraints import Limits
from autoquant.searching.proposing.refusals import AskedOrRefused, Edge, Refusals, Taken
from autoquant.searching.proposing.sampled import SAMPLERS, SampledPlans
from autoquant.searching.seeding.seeds import TEMPLATE, Seed


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


SEED = "seed:"
"""What origins of seeds begin with."""

_RANDOM_TRIES = 200
_LISTABLE_PLANS = 4096


class Proposer(Protocol):
    """Says which plan to try next once the seeds are asked for; its only state is what it saw."""

    def observe(self, candidate: Candidate, *, is_feasible: bool) -> None:
        """Take in a candidate that the strategy was told of."""

    def propose(
        self, random: np.random.Generator, pending: Sequence[Plan], taken: Taken
    ) -> Plan | None:
        """Give a plan that is not taken; None: leave it to the next proposer."""


class Strategy:
    """Asks for plans and is told of candidates, round by round; its only state is the past.

    Each ask draws from a generator whose seed derives from (job seed, candidate number), so that
    no random state has to survive a crash: what is asked depends on what was told before, and on
    nothing else. Each ask names its round, so that a round that was cut off is taken up where it
    stopped.

    Args:
        space: What may be drawn.
        seeds: What to ask for first.
        objectives: What to minimize (as losses).
        limits: The user's constraints.
        sampler: Name of a sampler.
        seed: The job's seed.
        past: What earlier processes asked for and told.
        log: Keeps what is asked and told; None: nothing does.
        proposer: Asked before the sampler.
        edges: Between sites: which site writes what which site reads.

    Attributes:
        taken: Plans that will not be proposed: asked for, or known to be refused.
    """

    def __init__(
        self,
        space: SearchSpace,
        seeds: Sequence[Seed],
        *,
        objectives: Sequence[Goal],
        limits: Limits,
        sampler: str,
        seed: int,
        past: Past | None = None,
        log: AskLog | None = None,
        proposer: Proposer | None = None,
        edges: Sequence[Edge] = (),
    ) -> None:
        self._plan_count = space.plan_count
        self._choices = Choices(space)
        self._limits = limits
        self._sampler = sampler
        self._seed = seed
        self._log = log
        sampled = SampledPlans(space, objectives, limits, SAMPLERS[sampler])
        self._proposers: tuple[Proposer, ...] = (
            (sampled,) if proposer is None else (proposer, sampled)
        )
        self._digests: set[str] = set()
        self._refusals = Refusals(space, edges)
        self.taken: Taken = AskedOrRefused(self._digests, self._refusals)
        self._pending: dict[int, Ask] = {}
        self._next = 0
        self._round = 1
        self._restore(past or Past())
        self._waiting = [seed for seed in seeds if seed.plan.digest not in self._digests]
        self._seed_count = len(seeds)

    @property
    def asked_count(self) -> int:
        """Plans asked for so far."""
        return len(self._digests)

    @property
    def has_seeds(self) -> bool:
        """Whether seeds are left to ask for."""
        return self._next_seed is not None

    @property
    def seed_count(self) -> int:
        """Seeds that were asked for or may be: the engine is not known to refuse them."""
        return self._seed_count - sum(map(self._is_refused, self._waiting))

    @property
    def is_seeding(self) -> bool:
        """Whether the round at hand is one of seeds."""
        if self._pending:
            return all(ask.origin.startswith(SEED) for ask in self._pending.values())
        return self.has_seeds

    @property
    def next_number(self) -> int:
        """The number of the next ask."""
        return self._next

    @property
    def pending(self) -> tuple[Ask, ...]:
        """What was asked for and is not told, in order; after a crash, the round to finish."""
        return tuple(self._pending.values())

    def ask(self) -> Ask | None:
        """Ask for a plan that was not asked for before; None when the space is exhausted."""
        if self.asked_count >= self._plan_count:
            return None
        seed = self._next_seed
        if seed is not None:
            self._waiting.remove(seed)
            return self._open(seed.plan, seed.origin)
        draw = np.random.default_rng(self._derived_seed())
        pending = [ask.plan for ask in self._pending.values()]
        for proposer in self._proposers:
            plan = proposer.propose(draw, pending, self.taken)
            if plan is not None:
                return self._open(plan, self._sampler)
        plan = self._draw_new()
        return None if plan is None else self._open(plan, "random")

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """Tell how the round's plans did, in the order of their numbers; the next round begins."""
        if self._log is not None:
            self._log.told(self._round)
        for candidate in candidates:
            self._show(candidate)
        self._pending.clear()
        self._round += 1

    @property
    def _next_seed(self) -> Seed | None:
        """The next seed that the engine is not known to refuse."""
        return next((seed for seed in self._waiting if not self._is_refused(seed)), None)

    def _is_refused(self, seed: Seed) -> bool:
        """Whether the engine is known to refuse a seed; a user's own plan is tried all the same."""
        return not seed.origin.startswith(TEMPLATE) and self._refusals.forbid(seed.plan)

    def _open(self, plan: Plan, origin: str) -> Ask:
        ask = Ask(self._next, plan, origin, self._round)
        if self._log is not None:
            self._log.asked(ask)
        self._add(ask)
        return ask

    def _add(self, ask: Ask) -> None:
        self._digests.add(ask.plan.digest)
        self._pending[ask.number] = ask
        self._next = ask.number + 1

    def _show(self, candidate: Candidate) -> None:
        self._refusals.learn(candidate)
        is_feasible = self._limits.kept_by(candidate)
        for proposer in self._proposers:
            proposer.observe(candidate, is_feasible=is_feasible)

    def _draw_new(self) -> Plan | None:
        """Draw a plan that was never asked for; from all that are left where they can be listed."""
        draw = random.Random(self._derived_seed())
        if self._plan_count <= _LISTABLE_PLANS:
            left = [plan for plan in self._choices.all_plans() if plan not in self.taken]
            return draw.choice(left) if left else None
        for _ in range(_RANDOM_TRIES):
            plan = self._choices.draw(draw)
            if plan not in self.taken:
                return plan
        return None

    def _restore(self, past: Past) -> None:
        """Learn what earlier processes asked for and told."""
        for ask in past.asked:
            self._add(ask)
        for number, candidate in past.told.items():
            del self._pending[number]
            self._show(candidate)
        last = past.asked[-1].round if past.asked else 0
        self._round = last if self._pending else last + 1

    def _derived_seed(self) -> int:
        text = f"{self._seed}:{self._next}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
