"""The stages of a search that users see: each ends in a written frontier."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autoquant.core.evaluation import Executor
from autoquant.core.frontier import Frontier, GrowingFrontier, find_frontier
from autoquant.core.history import Past, StopReason
from autoquant.core.measurement import Candidate, Measurements
from autoquant.core.objectives import Goal, Objective
from autoquant.core.precision import Scheme
from autoquant.core.progress import Advance, ShowsStanding, Standing
from autoquant.core.sensitivity import SensitivityTable
from autoquant.job import Budget, Effort
from autoquant.results.findings import Findings
from autoquant.results.forms import BASELINE
from autoquant.results.recorders import JointRecorder
from autoquant.results.report import render_report
from autoquant.searching.begun import Begun
from autoquant.searching.facts import settle_facts
from autoquant.searching.guidance import Guidance
from autoquant.searching.preparing.preparation import Preparation
from autoquant.searching.proposing.constraints import Limits
from autoquant.searching.proposing.prospects import is_certainly_within
from autoquant.searching.proposing.pruner import Pruner
from autoquant.searching.proposing.rounds import Ended, IsSpent, Rounds
from autoquant.searching.proposing.strategy import Strategy
from autoquant.searching.seeding.seeds import MENDS, Seed, mend_uniform, scheme_of, uniform_plans
from autoquant.searching.seeding.seeds import PROGRAM as OF_PROGRAM

UNIFORM, PROGRAM, SEARCH = (
    "1 of 3: uniform plans",
    "2 of 3: the program's plans",
    "3 of 3: search",
)


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of one search, of a float model as far as it is measured."""

    begun: Begun
    prepared: Preparation
    baseline: Measurements

    @property
    def limits(self) -> Limits:
        """The job's constraints."""
        return Limits(self.begun.job.constraints, self.baseline)

    def knowing(self, more: Measurements) -> Stages:
        """The stages from here on, of a float model of which more was measured."""
        baseline = {**self.baseline, **more}
        self.begun.folder.write(BASELINE, baseline)
        return replace(self, baseline=baseline)

    def answer_first(self, executor: Executor, pruner: Pruner) -> Ended:
        """Measure the uniform plans, as one round; reason None: more is to come.

        Whatever time is left: a search without an answer would be none. One that the target
        refuses is measured without what it refuses.
        """
        past = self.begun.folder.past()
        seeds = self._answers(past)
        tried = set(_by_digest(past))
        ended = Ended(past.candidates, None)
        while ended.reason is None and not _digests(seeds) <= tried:
            tried |= _digests(seeds)
            strategy = self._strategy(seeds, past)
            budget = self.begun.job.budget.model_copy(update={"round_size": len(seeds)})
            with self.begun.progress.stage(UNIFORM, len(seeds)) as advance:
                rounds, _ = self._rounds(strategy, executor, pruner, past, budget, advance)
                ended = rounds.run(seeds_alone=True)
            past = self.begun.folder.past()
            seeds = self._answers(past)
        return replace(ended, reason=ended.reason or self._reason_after_answer(past))

    def go_on(self, guidance: Guidance, executor: Executor) -> Ended:
        """Measure the other seeds, then proposals, until the budget is spent or nothing is left."""
        budget, past = self.begun.job.budget, self.begun.folder.past()
        strategy = self._strategy(guidance.seeds, past, guidance)
        prospects = guidance.prospects

        is_quick = budget.effort is Effort.QUICK
        if is_quick:  # its plans come cheapest first, and each is looked at before the next
            budget = budget.model_copy(update={"round_size": 1})

        def is_spent(candidates: Sequence[Candidate]) -> bool:
            if is_quick:
                return self._is_one_certain(candidates)
            if prospects is None or not budget.trials:  # all seeds are asked for by that name
                return False
            return prospects.are_spent(candidates, strategy.taken, seeds_left=strategy.has_seeds)

        most = budget.trials or strategy.seed_count
        ended = Ended(past.candidates, None)
        rounds, counter = self._rounds(
            strategy,
            executor,
            guidance.pruner,
            past,
            budget,
            _nowhere,
            is_spent,
            self.begun.deadline,
        )
        if strategy.is_seeding:
            with self.begun.progress.stage(PROGRAM, min(most, strategy.seed_count)) as advance:
                counter.advance = advance
                advance(len(past.candidates))
                ended = rounds.run(seeds_alone=True)
            self._write_report(ended.candidates)
        if is_quick and ended.reason in (None, StopReason.NOTHING_TO_GAIN):
            return replace(ended, reason=StopReason.QUICK)
        if ended.reason is not None:
            return ended
        if strategy.asked_count >= most and not strategy.pending:
            return replace(ended, reason=StopReason.BUDGET)
        with self.begun.progress.stage(SEARCH, most) as advance:
            counter.advance = advance
            advance(len(ended.candidates))
            return rounds.run()

    def findings(
        self,
        candidates: Sequence[Candidate],
        reason: StopReason | None,
        table: SensitivityTable | None = None,
    ) -> Findings:
        """What was found so far, or where the search has ended in all."""
        return self._findings(candidates, self.find(candidates), reason, table)

    def _findings(
        self,
        candidates: Sequence[Candidate],
        frontier: Frontier,
        reason: StopReason | None = None,
        table: SensitivityTable | None = None,
    ) -> Findings:
        return Findings(
            facts=settle_facts(self.begun.job, self.begun.facts, self.prepared, frontier, reason),
            job_text=self.begun.job_text,
            environment=self.begun.environment,
            sites=self.prepared.captured.sites,
            candidates=tuple(candidates),
            frontier=frontier,
            sensitivity=table,
        )

    def find(self, candidates: Sequence[Candidate]) -> Frontier:
        """The frontier of what keeps the constraints."""
        limits = self.limits
        kept = [candidate for candidate in candidates if limits.kept_by(candidate)]
        return find_frontier(kept, self.baseline, self.begun.job.goals)

    def _answers(self, past: Past) -> tuple[Seed, ...]:
        """The uniform plans, and those that the target refused without what it refused."""
        space = self.prepared.space
        seeds = list(uniform_plans(space, self.prepared.captured.sites))
        told, most = _by_digest(past), len(seeds) + MENDS
        for seed in seeds:  # grows while it is walked
            failure = told[seed.plan.digest].failure if seed.plan.digest in told else None
            mended = mend_uniform(space, seed, failure.refused or ()) if failure else None
            if mended is not None and mended not in seeds and len(seeds) < most:
                seeds.append(mended)
        return tuple(seeds[: self.begun.job.budget.trials or None])

    def _strategy(
        self, seeds: Sequence[Seed], past: Past, guidance: Guidance | None = None
    ) -> Strategy:
        return Strategy(
            self.prepared.space,
            seeds,
            objectives=self.begun.job.goals,
            limits=self.limits,
            sampler=self.begun.job.sampler,
            seed=self.begun.job.seed,
            past=past,
            log=self.begun.folder,
            proposer=None if guidance is None else guidance.proposer,
            edges=self.prepared.edges,
        )

    def _rounds(
        self,
        strategy: Strategy,
        executor: Executor,
        pruner: Pruner,
        past: Past,
        budget: Budget,
        advance: Advance,
        is_spent: IsSpent = lambda candidates: False,
        deadline: float = math.inf,
    ) -> tuple[Rounds, _Counter]:
        counter = _Counter(advance, len(self.prepared.phases))
        rounds = Rounds(
            strategy,
            executor,
            phases=self.prepared.phases,
            budget=budget,
            known=past.candidates,
            pruner=pruner,
            recorder=JointRecorder(
                (
                    self.begun.folder,
                    self.begun.tracker,
                    self.begun.progress,
                    counter,
                    self.begun.interrupts,
                )
            ),
            clock=time.monotonic,
            deadline=deadline,
            is_spent=is_spent,
            told=_Told(self, GrowingFrontier(self.begun.job.goals)),
        )
        return rounds, counter

    def write_standing(self, candidates: Sequence[Candidate], frontier: Frontier) -> None:
        """Write the frontier as it stands after a round."""
        findings = self._findings(candidates, frontier)
        self.begun.folder.write_standing(findings.frontier)
        self.begun.tracker.frontier(findings)
        if isinstance(self.begun.progress, ShowsStanding):
            self.begun.progress.standing(self._standing(findings))

    def _standing(self, findings: Findings) -> Standing:
        """What stands out among the candidates so far."""
        whole, members = findings.comparable, findings.frontier.members
        axis = next(item for item in self.begun.job.goals if not item.is_quality)
        fastest = _cheapest(whole, axis)
        exact = max(members, key=lambda item: item.value("sqnr_db"), default=None)
        word = "fastest" if axis is Objective.LATENCY else "cheapest"
        named = (("best within the limit", findings.chosen), (word, fastest))
        budget, left = self.begun.job.budget, self.begun.deadline - time.monotonic()
        is_open = budget.effort is not Effort.QUICK and budget.trials > 0
        return Standing(
            tuple((name, item) for name, item in (*named, ("most exact", exact)) if item),
            done=len(findings.candidates),
            most=max(budget.trials, len(findings.candidates)) if is_open else None,
            left_s=None if math.isinf(left) else max(left, 0.0),
            metric=findings.facts.metric,
        )

    def _write_report(self, candidates: Sequence[Candidate]) -> None:
        """Write the report of a search that goes on; a quick one is over before it is read."""
        if not self.begun.is_quick:
            self.begun.folder.write_report(
                render_report(self.findings(candidates, None), self.begun.folder.path)
            )

    def _reason_after_answer(self, past: Past) -> StopReason | None:
        """Why the uniform plans were all; None: the search goes on, or a round is unfinished."""
        budget = self.begun.job.budget
        if len(past.asked) > len(past.told):
            return None
        if budget.trials and len(past.asked) >= budget.trials:
            return StopReason.BUDGET
        if time.monotonic() >= self.begun.deadline:
            return StopReason.TIME
        if budget.effort is Effort.QUICK and self._is_cheapest_within(past):
            return StopReason.NOTHING_TO_GAIN
        self._write_report(past.candidates)
        return None

    def _is_one_certain(self, candidates: Sequence[Candidate]) -> bool:
        """Whether of the program's plans, which come cheapest first, one is surely in the limit.

        With several costs there is no such order.
        """
        ours = (item for item in candidates if item.origin.startswith(OF_PROGRAM))
        costs = [goal for goal in self.begun.job.goals if not goal.is_quality]
        return len(costs) == 1 and any(is_certainly_within(item, self.limits) for item in ours)

    def _is_cheapest_within(self, past: Past) -> bool:
        """Whether of the uniform plans the cheapest, in each cost, is within the accuracy limit.

        Of one that failed nobody knows what the rest of it would cost.
        """
        told, seeds = _by_digest(past), self._answers(past)
        uniform = [told[seed.plan.digest] for seed in seeds if seed.plan.digest in told]
        known = {scheme_of(item.origin) for item in uniform if item.failure is None}
        if not {scheme_of(item.origin) for item in uniform} <= known:
            return False
        for axis in (goal for goal in self.begun.job.goals if not goal.is_quality):
            cheapest = _cheapest(uniform, axis)
            if cheapest is None or not is_certainly_within(cheapest, self.limits):
                return False
        return True


def _by_digest(past: Past) -> dict[str, Candidate]:
    return {candidate.digest: candidate for candidate in past.told.values()}


def _digests(seeds: Sequence[Seed]) -> set[str]:
    return {seed.plan.digest for seed in seeds}


def times_of_uniform(
    candidates: Sequence[Candidate], prepared: Preparation, baseline: Measurements
) -> dict[Scheme, float]:
    """Milliseconds of the uniform plans by scheme, free of the machine's drift."""
    speeds = {
        item.digest: item.value("speedup")
        for item in candidates
        if "speedup" in item.measurements and item.stopped is None
    }
    plans = {scheme: prepared.space.uniform(scheme).digest for scheme in prepared.space.schemes}
    return {
        scheme: baseline["latency_ms"].value / speeds[digest]
        for scheme, digest in plans.items()
        if digest in speeds
    }


def _cheapest(candidates: Sequence[Candidate], axis: Goal) -> Candidate | None:
    """The candidate with the least of a cost, of those that know it."""
    priced = [item for item in candidates if axis.measurement in item.measurements]
    return min(priced, key=lambda item: axis.loss(item.measurements), default=None)


@dataclass
class _Told:
    """Takes in the candidates of each round, and writes the frontier as it then stands.

    Attributes:
        count: Candidates that were taken in; those of a round come after all before it.
    """

    stages: Stages
    growing: GrowingFrontier
    count: int = 0

    def __call__(self, candidates: Sequence[Candidate]) -> None:
        """Take in what is new of all candidates."""
        limits = self.stages.limits
        self.growing.extend(filter(limits.kept_by, candidates[self.count :]))
        self.count = len(candidates)
        self.stages.write_standing(candidates, self.growing.stand(self.stages.baseline))


@dataclass
class _Counter:
    """Advances the progress bar when the last phase of a candidate is done."""

    advance: Advance
    phase_count: int

    def candidate(self, candidate: Candidate) -> None:
        """Count a finished candidate."""
        timed = self.phase_count == 1 or "speedup" in candidate.measurements
        if timed or candidate.failure is not None:
            self.advance(1)


def _nowhere(steps: int) -> None:
    """Advance no bar."""
