"""Plans that an Optuna sampler draws, from a bounded window of what was told."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from autoquant.core.measurement import Candidate
from autoquant.core.objectives import Goal, losses_of
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import SearchSpace
from autoquant.searching.proposing.constraints import Limits
from autoquant.searching.proposing.refusals import Taken
from autoquant.searching.proposing.window import Window

BLOCK = 64
"""A sampler changes at most so many knobs of a plan at once: its time grows with their number."""

_TRIES = 8
_EPOCH = datetime(2000, 1, 1)
_GENERATION = "NSGAIISampler:generation"


@dataclass(frozen=True)
class _Told:
    """A candidate as the samplers see it; few of many are ever looked at."""

    space: SearchSpace
    plan: Plan
    losses: tuple[float, ...]
    excess: dict[str, float]

    @cached_property
    def choices(self) -> dict[str, str]:
        """Its scheme of each free knob."""
        return _params(self.space, self.plan)


class SampledPlans:
    """A proposer whose plans an Optuna sampler draws.

    The sampler sees the window, and the plans that are being measured. Of a space with more than
    `BLOCK` free knobs it draws a random block; the others stay as in a plan of the window's
    frontier. So an ask costs the same whatever the number of trials and of knobs, and where there
    are few of both nothing is left out.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Goal],
        limits: Limits,
        start: Callable[[int], BaseSampler],
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._objectives = tuple(objectives)
        self._limits = limits
        self._start = start
        self._distributions: dict[str, BaseDistribution] = {
            knob.name: CategoricalDistribution([scheme.value for scheme in knob.schemes])
            for knob in space.free
        }
        self._window: Window[_Told] = Window()

    def observe(self, candidate: Candidate, *, is_feasible: bool) -> None:  # noqa: ARG002
        """Take in a candidate; one that failed, or was not measured whole, teaches nothing."""
        losses = losses_of(self._objectives, candidate)
        if losses is None:
            return
        excess = self._limits.violations(candidate)
        told = _Told(self._space, candidate.plan, losses, excess)
        violation = sum(max(value, 0.0) for value in excess.values())
        self._window.add(candidate.number, losses, violation, told)

    def propose(
        self, random: np.random.Generator, pending: Sequence[Plan], taken: Taken
    ) -> Plan | None:
        """Give a plan that is not taken; None after some draws that were."""
        told = [self._trial(index, item) for index, item in enumerate(self._window.items())]
        waiting = [_params(self._space, plan) for plan in pending]
        for _ in range(_TRIES):
            plan = self._draw(random, told, waiting)
            if plan not in taken:
                return plan
        return None

    def _draw(
        self,
        random: np.random.Generator,
        told: Sequence[FrozenTrial],
        waiting: Sequence[dict[str, str]],
    ) -> Plan:
        names = list(self._distributions)
        base: dict[str, str] = {}
        front = self._window.front()
        if len(names) > BLOCK and front:
            base = front[random.integers(len(front))].choices
            names = [names[i] for i in np.sort(random.permutation(len(names))[:BLOCK])]
        drawn = self._sample(names, int(random.integers(2**32)), told, waiting)
        for name in names:  # what a sampler leaves out is drawn at random
            if name not in drawn:
                schemes = self._space.by_name[name].schemes
                drawn[name] = schemes[random.integers(len(schemes))].value
        return self._plan({**base, **drawn})

    def _sample(
        self,
        names: Sequence[str],
        seed: int,
        told: Sequence[FrozenTrial],
        waiting: Sequence[dict[str, str]],
    ) -> dict[str, Any]:
        running = [self._frozen(len(told) + i, params) for i, params in enumerate(waiting)]
        own = self._frozen(len(told) + len(running), {})
        study = optuna.create_study(
            storage=_Trials([*told, *running, own]), directions=["minimize"] * len(self._objectives)
        )
        space = {name: self._distributions[name] for name in names}
        return self._start(seed).sample_relative(study, own, space)

    def _trial(self, index: int, told: _Told) -> FrozenTrial:
        """A told candidate as a finished trial; NSGA-II takes its parents from all of them."""
        constraints = {f"constraints:{name}": value for name, value in told.excess.items()}
        attrs = {**constraints, _GENERATION: 0}
        return self._frozen(index, told.choices, values=list(told.losses), attrs=attrs)

    def _frozen(
        self,
        index: int,
        params: dict[str, str],
        values: list[float] | None = None,
        attrs: Mapping[str, Any] = MappingProxyType({}),
    ) -> FrozenTrial:
        """A trial of some values, or one that is running."""
        return FrozenTrial(
            number=index,
            trial_id=index,
            state=TrialState.COMPLETE if values else TrialState.RUNNING,
            value=None,
            values=values,
            datetime_start=_EPOCH,
            datetime_complete=_EPOCH if values else None,
            params=params,
            distributions=self._distributions if params else {},
            user_attrs={},
            system_attrs=dict(attrs),
            intermediate_values={},
        )

    def _plan(self, params: dict[str, str]) -> Plan:
        return self._space.plan(
            {
                knob.name: Scheme(params[knob.name]) if len(knob.schemes) > 1 else knob.schemes[0]
                for knob in self._space.knobs
            }
        )


def _params(space: SearchSpace, plan: Plan) -> dict[str, str]:
    schemes = dict(plan.assignment)
    return {knob.name: schemes[knob.name].value for knob in space.free}


class _Trials(InMemoryStorage):
    """A storage of given trials, by their index; Optuna's own would copy each of them."""

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        super().__init__()
        self._given = list(trials)

    def get_all_trials(
        self,
        study_id: int,  # noqa: ARG002
        deepcopy: bool = True,  # noqa: ARG002
        states: Any = None,
    ) -> list[FrozenTrial]:
        """Give the trials in some states."""
        return [trial for trial in self._given if states is None or trial.state in states]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Give one trial."""
        return self._given[trial_id]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of the trial that is being drawn."""
        self._given[trial_id].system_attrs[key] = value


def start_tpe(seed: int) -> BaseSampler:
    """Tree-structured Parzen estimator over all knobs together (Bergstra et al., NeurIPS 2011).

    The constant liar keeps the trials of one round apart. The seeds are its start-up trials.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=1)


def start_nsga2(seed: int) -> BaseSampler:
    """NSGA-II (Deb et al., IEEE TEVC 6(2), 2002)."""
    return NSGAIISampler(seed=seed, population_size=24)


def start_random(seed: int) -> BaseSampler:
    """Uniform over the space."""
    return RandomSampler(seed=seed)


GUIDED = "guided"
"""Plans come from `guided.Guide`; the sampler of that name draws where it has none."""

SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    GUIDED: start_random,
    "tpe": start_tpe,
    "nsga2": start_nsga2,
    "random": start_random,
}
