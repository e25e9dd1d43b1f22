"""The strategy: an Optuna study that asks for plans and is told how they did."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.trial import Trial, TrialState

from autoquant.core.measurement import Candidate
from autoquant.core.objectives import Objective
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import SearchSpace
from autoquant.searching.constraints import Limits
from autoquant.searching.journal import ROUND, Journal
from autoquant.searching.samplers import SAMPLERS
from autoquant.searching.seeds import Seed

STUDY_NAME = "autoquant"
_SAMPLER_TRIES = 8
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
        """Give a plan whose digest is not taken; None: leave it to the sampler."""


class Strategy:
    """Asks for plans and is told of candidates; its only state is the Optuna study.

    Every ask starts a fresh sampler whose seed derives from (job seed, trial number), so that no
    random state has to survive a crash: what is asked depends on what was told before, and on
    nothing else. Each trial remembers its round, so that a round that was cut off is taken up
    where it stopped.

    Args:
        space: What may be drawn.
        seeds: What to ask for first.
        objectives: What to minimize (as losses).
        limits: The user's constraints.
        sampler: Name of a sampler.
        seed: The job's seed.
        journal: Where the study is kept; None: in memory.
        proposer: Asked before the sampler.
        known: Candidates of an earlier process; the proposer sees those that the study was told of.
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
        known: Sequence[Candidate] = (),
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("optuna").setLevel(logging.WARNING)
        self._space = space
        self._objectives = tuple(objectives)
        self._limits = limits
        self._sampler = sampler
        self._seed = seed
        self._distributions: dict[str, BaseDistribution] = {
            knob.name: CategoricalDistribution([scheme.value for scheme in knob.schemes])
            for knob in space.free
        }
        self._study = optuna.create_study(
            study_name=STUDY_NAME,
            storage=InMemoryStorage() if journal is None else JournalStorage(Journal(journal)),
            directions=["minimize"] * len(self._objectives),
            load_if_exists=True,
        )
        self._digests: dict[str, int] = {}
        self._asked: list[int] = []
        self._open_trials: dict[int, Trial] = {}
        self._pending: dict[int, Plan] = {}
        self._waiting = 0
        self._proposer = proposer
        self._round = 0
        self._next_number = 0
        self._unfinished: list[Ask] = []
        self._round_is_closed = False
        self._renew_sampler()
        self._restore()
        self._enqueue(seeds)
        self.seed_count = len(seeds)
        for candidate in sorted(known, key=lambda item: item.number):
            if candidate.number in self.told:
                self._show(candidate)

    @property
    def asked_count(self) -> int:
        """Plans asked for so far; duplicates, which are never measured, do not count."""
        return len(self._asked)

    @property
    def told(self) -> frozenset[int]:
        """Numbers of the candidates that it was told of."""
        return frozenset(self._asked) - self._open_trials.keys()

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
        if len(self._digests) >= self._space.plan_count:
            return None
        if self._waiting == 0:
            self._propose()
        for _ in range(_SAMPLER_TRIES):
            found = self._ask_once()
            if found is not None:
                return found
        plan = self._draw_new()
        if plan is None:
            return None
        self._queue(plan, origin="random")
        return self._ask_once()

    def tell(self, candidate: Candidate) -> None:
        """Tell how a plan did. Tell a round's candidates in the order of their numbers."""
        trial = self._open_trials.pop(candidate.number, None)
        if trial is None:
            return
        self._pending.pop(candidate.number, None)
        self._show(candidate)
        for name, item in candidate.measurements.items():
            trial.set_user_attr(name, item.value)
        if candidate.failure is not None:
            trial.set_user_attr("failure", candidate.failure.reason)
            self._study.tell(trial, state=TrialState.FAIL)
            return
        for name, excess in self._limits.violations(candidate).items():
            trial.set_constraint(name, excess)
        losses = [objective.loss(candidate.measurements) for objective in self._objectives]
        self._study.tell(trial, losses)

    def _show(self, candidate: Candidate) -> None:
        if self._proposer is not None:
            self._proposer.observe(candidate, is_feasible=self._limits.kept_by(candidate))

    def _propose(self) -> None:
        """Put the proposer's next plan in the study's queue, if it has one."""
        if self._proposer is None:
            return
        plan = self._proposer.propose(
            np.random.default_rng(self._derived_seed()),
            tuple(self._pending.values()),
            self._digests.keys(),
        )
        if plan is not None:
            self._queue(plan, origin=self._sampler)

    def _queue(self, plan: Plan, **attributes: str) -> None:
        self._study.enqueue_trial(self._params(plan), user_attrs=attributes)
        self._waiting += 1

    def _ask_once(self) -> Ask | None:
        """Ask Optuna once; a duplicate is told as failed at once."""
        self._renew_sampler()
        trial = self._study.ask(self._distributions)
        self._waiting = max(self._waiting - 1, 0)
        self._next_number = max(self._next_number, trial.number + 1)
        plan = self._plan_of(trial.params)
        known = self._digests.get(plan.digest)
        if known is not None:
            trial.set_user_attr("duplicate_of", known)
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        origin = str(trial.user_attrs.get("origin", self._sampler))
        trial.set_user_attr("origin", origin)
        trial.set_user_attr("digest", plan.digest)
        trial.set_user_attr(ROUND, self._round)
        self._digests[plan.digest] = trial.number
        self._asked.append(trial.number)
        self._open_trials[trial.number] = trial
        self._pending[trial.number] = plan
        return Ask(trial.number, plan, origin)

    def _draw_new(self) -> Plan | None:
        """Draw a plan that was never asked for; from all that are left where they can be listed."""
        draw = random.Random(self._derived_seed())
        free = self._space.free
        if self._space.plan_count <= _LISTABLE_PLANS:
            left = [plan for plan in self._all_plans() if plan.digest not in self._digests]
            return draw.choice(left) if left else None
        for _ in range(_RANDOM_TRIES):
            plan = self._plan_of({k.name: draw.choice(k.schemes).value for k in free})
            if plan.digest not in self._digests:
                return plan
        return None

    def _all_plans(self) -> list[Plan]:
        choices: list[dict[str, str]] = [{}]
        for knob in self._space.free:
            choices = [{**item, knob.name: s.value} for item in choices for s in knob.schemes]
        return [self._plan_of(item) for item in choices]

    def _restore(self) -> None:
        """Learn what an earlier process asked for, from the journal."""
        trials = self._study.get_trials(deepcopy=False)
        self._next_number = len(trials)
        self._waiting = sum(trial.state is TrialState.WAITING for trial in trials)
        asked = [trial for trial in trials if ROUND in trial.user_attrs]
        for trial in asked:
            self._digests[trial.user_attrs["digest"]] = trial.number
            self._asked.append(trial.number)
        self._round = max((trial.user_attrs[ROUND] for trial in asked), default=0)
        current = [trial for trial in asked if trial.user_attrs[ROUND] == self._round]
        self._round_is_closed = any(trial.state.is_finished() for trial in current)
        self._open_trials = {
            trial.number: Trial(self._study, trial._trial_id)
            for trial in current
            if trial.state is TrialState.RUNNING
        }
        self._unfinished = [
            Ask(trial.number, self._plan_of(trial.params), trial.user_attrs["origin"])
            for trial in current
            if trial.state is TrialState.RUNNING
        ]
        self._pending = {ask.number: ask.plan for ask in self._unfinished}

    def _enqueue(self, seeds: Sequence[Seed]) -> None:
        """Enqueue the seeds that an earlier process did not."""
        known = {trial.user_attrs.get("seed") for trial in self._study.get_trials(deepcopy=False)}
        for seed in seeds:
            if seed.plan.digest not in known:
                self._queue(seed.plan, origin=seed.origin, seed=seed.plan.digest)

    def _plan_of(self, params: dict[str, str]) -> Plan:
        return self._space.plan(
            {
                knob.name: Scheme(params[knob.name]) if len(knob.schemes) > 1 else knob.schemes[0]
                for knob in self._space.knobs
            }
        )

    def _params(self, plan: Plan) -> dict[str, str]:
        choices = self._space.choices(plan)
        return {knob.name: choices[knob.name].value for knob in self._space.free}

    def _renew_sampler(self) -> None:
        self._study.sampler = SAMPLERS[self._sampler](self._derived_seed())

    def _derived_seed(self) -> int:
        text = f"{self._seed}:{self._next_number}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
