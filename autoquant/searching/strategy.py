"""The strategy: asks for plans that were not asked for before, and is told how they did."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from autoquant.core.measurement import Candidate
from autoquant.core.objectives import Objective
from autoquant.core.plan import Plan
from autoquant.core.space import SearchSpace
from autoquant.searching.choices import Choices
from autoquant.searching.constraints import Limits
from autoquant.searching.sampled import SampledPlans
from autoquant.searching.samplers import SAMPLERS
from autoquant.searching.seeds import Seed
from autoquant.searching.study import Asked, Study, Told

_RANDOM_TRIES = 200
_LISTABLE_PLANS = 4096


@dataclass(frozen=True, slots=True)
class Ask:
    """A plan that the strategy wants measured."""

    number: int
    plan: Plan
    origin: str


class Proposer(Protocol):
    """Says which plan to try next once the seeds are asked for; its only state is what it saw."""

    def observe(self, candidate: Candidate, *, is_feasible: bool) -> None:
        """Take in a candidate that the study was told of."""

    def propose(
        self, random: np.random.Generator, pending: Sequence[Plan], taken: Collection[str]
    ) -> Plan | None:
        """Give a plan whose digest is not taken; None: leave it to the next proposer."""


class Strategy:
    """Asks for plans and is told of candidates; its only state is the study.

    Each ask draws from a generator whose seed derives from (job seed, candidate number), so that
    no random state has to survive a crash: what is asked depends on what was told before, and on
    nothing else. The study remembers the round of each ask, so that a round that was cut off is
    taken up where it stopped.

    Args:
        space: What may be drawn.
        seeds: What to ask for first.
        objectives: What to minimize (as losses).
        limits: The user's constraints.
        sampler: Name of a sampler.
        seed: The job's seed.
        journal: Where the study is kept; None: in memory.
        proposer: Asked before the sampler.
    """

    def __init__(
        self,
        space: SearchSpace,
        seeds: Sequence[Seed],
        *,
        objectives: Sequence[Objective],
        limits: Limits,
        sampler: str,
        seed: int,
        journal: Path | None = None,
        proposer: Proposer | None = None,
    ) -> None:
        self._space = space
        self._plan_count = space.plan_count
        self._choices = Choices(space)
        self._objectives = tuple(objectives)
        self._limits = limits
        self._sampler = sampler
        self._seed = seed
        self._study = Study(journal, space, len(self._objectives))
        sampled = SampledPlans(space, objectives, limits, SAMPLERS[sampler])
        self._proposers: tuple[Proposer, ...] = (
            (sampled,) if proposer is None else (proposer, sampled)
        )
        self._digests: set[str] = set()
        self._pending: dict[int, Ask] = {}
        self._round = 0
        self._unfinished: list[Ask] = []
        self._round_is_closed = False
        self._restore()
        self._waiting = deque(seed for seed in seeds if seed.plan.digest not in self._digests)
        self.seed_count = len(seeds)

    @property
    def asked_count(self) -> int:
        """Plans asked for so far."""
        return len(self._digests)

    @property
    def told(self) -> frozenset[int]:
        """Numbers of the candidates that it was told of."""
        return frozenset(range(self.asked_count)) - self._pending.keys()

    @property
    def unfinished(self) -> tuple[Ask, ...]:
        """What an earlier process asked for and was not told, in order."""
        return tuple(self._unfinished)

    @property
    def round_is_closed(self) -> bool:
        """Whether the round of `unfinished` was being told, so that it takes no more asks."""
        return self._round_is_closed

    def start_round(self) -> None:
        """Begin a round: what is asked from here on knows what was told before."""
        self._round += 1
        self._unfinished = []
        self._round_is_closed = False

    def ask(self) -> Ask | None:
        """Ask for a plan that was not asked for before; None when the space is exhausted."""
        if self.asked_count >= self._plan_count:
            return None
        if self._waiting:
            seed = self._waiting.popleft()
            return self._open(seed.plan, seed.origin)
        draw = np.random.default_rng(self._derived_seed())
        pending = [ask.plan for ask in self._pending.values()]
        for proposer in self._proposers:
            plan = proposer.propose(draw, pending, self._digests)
            if plan is not None:
                return self._open(plan, self._sampler)
        plan = self._draw_new()
        return None if plan is None else self._open(plan, "random")

    def tell(self, candidate: Candidate) -> None:
        """Tell how a plan did. Tell a round's candidates in the order of their numbers."""
        if self._pending.pop(candidate.number, None) is None:
            return
        self._study.tell(
            candidate.number,
            Told(candidate.measurements, candidate.failure, candidate.stopped),
            losses=self._losses(candidate),
            excess={} if candidate.failure else self._limits.violations(candidate),
        )
        self._show(candidate)

    def _open(self, plan: Plan, origin: str) -> Ask:
        ask = Ask(self.asked_count, plan, origin)
        choices = self._choices.of(plan)
        self._study.ask(Asked(ask.number, origin, plan.digest, choices, self._round))
        self._digests.add(plan.digest)
        self._pending[ask.number] = ask
        return ask

    def _losses(self, candidate: Candidate) -> list[float] | None:
        needed = {objective.measurement for objective in self._objectives}
        if candidate.failure is not None or not needed <= set(candidate.measurements):
            return None
        return [objective.loss(candidate.measurements) for objective in self._objectives]

    def _show(self, candidate: Candidate) -> None:
        is_feasible = self._limits.kept_by(candidate)
        for proposer in self._proposers:
            proposer.observe(candidate, is_feasible=is_feasible)

    def _draw_new(self) -> Plan | None:
        """Draw a plan that was never asked for; from all that are left where they can be listed."""
        draw = random.Random(self._derived_seed())
        if self._plan_count <= _LISTABLE_PLANS:
            left = [plan for plan in self._choices.all_plans() if plan.digest not in self._digests]
            return draw.choice(left) if left else None
        for _ in range(_RANDOM_TRIES):
            plan = self._choices.draw(draw)
            if plan.digest not in self._digests:
                return plan
        return None

    def _restore(self) -> None:
        """Learn what an earlier process asked for and told, from the study."""
        asked, told = self._study.asked, self._study.told
        self._round = max((item.round for item in asked), default=0)
        for item in asked:
            self._digests.add(item.digest)
            if item.number in told:
                self._show(self._candidate(item, told[item.number]))
            else:
                plan = self._choices.plan(item.choices)
                self._pending[item.number] = Ask(item.number, plan, item.origin)
        self._unfinished = list(self._pending.values())
        current = [item.number for item in asked if item.round == self._round]
        self._round_is_closed = any(number in told for number in current)
        self._study.forget()

    def _candidate(self, asked: Asked, told: Told) -> Candidate:
        return Candidate(
            asked.number,
            self._choices.plan(asked.choices),
            asked.origin,
            measurements=told.measurements,
            failure=told.failure,
            stopped=told.stopped,
        )

    def _derived_seed(self) -> int:
        text = f"{self._seed}:{self.asked_count}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
