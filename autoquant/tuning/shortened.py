"""The project's search, from a plan that meets the goal towards fewer int16 ops."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autoquant.core.evaluation import Phase
from autoquant.core.findings.tuning import Attempt, Stage, judge
from autoquant.core.history import StopReason
from autoquant.core.measurement import Candidate, Kind, Measurement
from autoquant.core.objectives import Objective
from autoquant.core.progress import Advance, Progress
from autoquant.core.sensitivity import SensitivityTable
from autoquant.core.space import SearchSpace
from autoquant.job import SearchSettings
from autoquant.searching.guidance import find_costs, guide
from autoquant.searching.preparing.preparation import Preparation
from autoquant.searching.proposing.constraints import Limits
from autoquant.searching.proposing.rounds import Rounds
from autoquant.searching.proposing.strategy import Strategy
from autoquant.searching.seeding.seeds import Seed
from autoquant.tuning.measured import PlanMeasurer

_SEED_SHARE = 0.5
"""The additive model's own plans take at most this share of the budget."""


@dataclass(frozen=True, slots=True, eq=False)
class FewerInt16:
    """Searches for plans with fewer int16 ops within the goal."""

    job: SearchSettings
    prepared: Preparation
    table: SensitivityTable
    measurer: PlanMeasurer
    goal: float
    progress: Progress

    def __call__(self, space: SearchSpace, start: Attempt) -> Sequence[Attempt]:
        """Search a space from an attempt; gives what was measured and has no more int16 ops.

        The additive model's least noisy plans for each smaller share come first, then proposals.
        """
        trials = self.job.budget.trials
        if trials < 1 or not space.free or start.plan.int16_share == 0.0:
            return ()
        job = self._job_from(start)
        prepared = replace(self.prepared, space=space, phases=(Phase.QUALITY,))
        baseline = {"size_bytes": Measurement(float(prepared.captured.float_bytes), Kind.ESTIMATED)}
        limits = Limits(job.constraints, baseline)
        costs = find_costs(job.goals, prepared, self.progress)
        guidance = guide(job, prepared, self.table, costs, baseline, limits)
        models = [seed for seed in guidance.seeds if seed.origin.startswith("seed:program")]
        models = models[: max(1, round(trials * _SEED_SHARE))]
        strategy = Strategy(
            space,
            [Seed(start.plan, "seed:bisection"), *models],
            objectives=job.goals,
            limits=limits,
            sampler=job.sampler,
            seed=job.seed,
            proposer=guidance.proposer,
        )
        with self.progress.stage("searching for fewer int16 ops", trials) as advance:
            rounds = Rounds(
                strategy,
                self.measurer,
                phases=prepared.phases,
                budget=job.budget,
                known=(),
                pruner=guidance.pruner,
                recorder=_Counter(advance),
                clock=time.monotonic,
            )
            history = rounds.run()
        if history.reason is StopReason.INTERRUPTED:
            raise KeyboardInterrupt  # what was measured is kept; another run goes on
        return [
            Attempt(Stage.SEARCH, item.origin, item, judge(item, self.goal))
            for item in history.candidates
            if item.plan != start.plan
        ]

    def _job_from(self, start: Attempt) -> SearchSettings:
        constraints = self.job.constraints.model_copy(
            update={"accuracy_drop": self.goal, "int16_share": start.plan.int16_share}
        )
        return self.job.model_copy(
            update={
                "objectives": (Objective.OUTPUT_ERROR, Objective.INT16_SHARE),
                "constraints": constraints,
            }
        )


@dataclass(frozen=True, slots=True)
class _Counter:
    """Advances the progress with each candidate."""

    advance: Advance

    def candidate(self, candidate: Candidate) -> None:  # noqa: ARG002
        """Count it."""
        self.advance(1)
