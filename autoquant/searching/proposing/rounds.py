"""The loop: ask a round, measure it, tell it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from autoquant.core.evaluation import Executor, Outcome, Phase, Task
from autoquant.core.history import Ask, Recorder, StopReason
from autoquant.core.measurement import Candidate
from autoquant.core.pairs import shared
from autoquant.errors import AutoquantError, ExecutionError
from autoquant.job import Budget
from autoquant.searching.proposing.pruner import Pruned, Pruner
from autoquant.searching.proposing.strategy import Strategy


@dataclass(frozen=True, slots=True)
class Ended:
    """All candidates, by number, why there are no more, and the error behind that, if any.

    Without a reason there may be more: only the seeds are through.
    """

    candidates: tuple[Candidate, ...]
    reason: StopReason | None
    error: AutoquantError | None = None

    @property
    def is_broken(self) -> bool:
        """Whether nothing more shall be measured."""
        return self.reason in (StopReason.INTERRUPTED, StopReason.FAILED)


IsSpent = Callable[[Sequence[Candidate]], bool]
Told = Callable[[Sequence[Candidate]], None]

_DONE_BY: Mapping[Phase, str] = {Phase.QUALITY: "sqnr_db", Phase.LATENCY: "speedup"}


class Rounds:
    """Runs rounds until the budget is spent.

    Args:
        strategy: Asks and is told.
        executor: Measures.
        phases: What to measure of each candidate, in order.
        budget: Trials, round size.
        known: Candidates of an earlier process; what they have is not measured again.
        pruner: Says what of a candidate is worth measuring.
        recorder: Told of each candidate after each phase.
        clock: Seconds, monotonic.
        deadline: When the time is up, in the clock's seconds.
        is_spent: Asked between rounds whether nothing is left to gain.
        told: Called with all candidates after each round.
    """

    def __init__(
        self,
        strategy: Strategy,
        executor: Executor,
        *,
        phases: Sequence[Phase],
        budget: Budget,
        known: Sequence[Candidate],
        pruner: Pruner,
        recorder: Recorder,
        clock: Callable[[], float],
        deadline: float = math.inf,
        is_spent: IsSpent = lambda candidates: False,
        told: Told = lambda candidates: None,
    ) -> None:
        self._strategy = strategy
        self._executor = executor
        self._phases = tuple(phases)
        self._budget = budget
        self._pruner = pruner
        self._recorder = recorder
        self._clock = clock
        self._candidates = {candidate.number: candidate for candidate in known}
        for candidate in known:
            pruner.learn(candidate)
        self._deadline = deadline
        self._is_spent = is_spent
        self._told = told
        self._exhausted = False

    def run(self, *, seeds_alone: bool = False) -> Ended:
        """Run until the budget is spent; an interrupt keeps everything that is finished.

        So does the loss of the workers, and a search in which every candidate failed. With
        `seeds_alone` no round of proposals is run; one that was begun is left as it is.
        """
        reason: StopReason | None = None
        lost = None
        try:
            if self._strategy.pending and (self._strategy.is_seeding or not seeds_alone):
                self._run_round(self._strategy.pending)
            while self._strategy.is_seeding or not seeds_alone:
                if (reason := self._reason_to_stop()) is not None:
                    break
                self._run_round(())
        except KeyboardInterrupt:
            reason = StopReason.INTERRUPTED
        except ExecutionError as error:
            reason, lost = StopReason.FAILED, error
        return Ended(self._ordered, reason, lost)

    @property
    def _ordered(self) -> tuple[Candidate, ...]:
        return tuple(self._candidates[number] for number in sorted(self._candidates))

    def _reason_to_stop(self) -> StopReason | None:
        if self._exhausted:
            return StopReason.EXHAUSTED
        if self._room() <= 0:
            return StopReason.BUDGET
        if all(self._is_over(phase) for phase in self._phases):
            return StopReason.TIME
        if self._is_spent(self._ordered):
            return StopReason.NOTHING_TO_GAIN
        return None

    @property
    def _is_late(self) -> bool:
        return self._clock() >= self._deadline

    def _is_over(self, phase: Phase) -> bool:
        """Whether the time is up; it never is before one candidate has what a phase measures."""
        return self._is_late and any(
            _DONE_BY[phase] in item.measurements for item in self._candidates.values()
        )

    def _room(self) -> int:
        """How many more plans the budget allows."""
        most = self._budget.trials or self._strategy.seed_count
        return most - self._strategy.asked_count

    def _run_round(self, begun: Sequence[Ask]) -> None:
        asks: dict[int, Ask] = {}
        of_seeds = self._strategy.is_seeding
        for phase in self._phases:
            first = phase is self._phases[0]
            tasks = self._tasks(phase, asks, begun) if first else self._pending(phase, asks)
            for outcome in self._executor.run(phase, tasks, partial(self._is_over, phase)):
                self._take(asks[outcome.number], outcome)
        if self._is_late and self._is_open(asks, of_seeds):
            return  # a resumed search takes it up where it stopped
        if asks:
            self._strategy.tell([self._candidates[number] for number in sorted(asks)])
            self._told(self._ordered)
        _refuse_total_failure(self._ordered)

    def _is_open(self, asks: Mapping[int, Ask], of_seeds: bool) -> bool:
        """Whether the time was up before all of a round was asked for and measured."""
        no_more = self._exhausted or (of_seeds and not self._strategy.has_seeds)
        whole = len(asks) >= self._budget.round_size or self._room() <= 0 or no_more
        return not whole or any(
            self._needs(phase, ask) for ask in asks.values() for phase in self._phases
        )

    def _tasks(self, phase: Phase, asks: dict[int, Ask], begun: Sequence[Ask]) -> Iterator[Task]:
        """The round's plans, asked for one by one while the first are being measured.

        The thresholds know what was told before the round, and nothing of the round itself. A
        round is of seeds or of proposals, never of both.
        """
        of_seeds = self._strategy.is_seeding
        self._pruner.settle(begun[0].number if begun else self._strategy.next_number)
        for ask in begun:
            asks[ask.number] = ask
            if self._needs(phase, ask):
                yield self._task(ask)
        for _ in range(min(self._budget.round_size - len(begun), self._room())):
            if of_seeds and not self._strategy.has_seeds:
                return
            asked = self._strategy.ask()
            if asked is None:
                self._exhausted = True
                return
            asks[asked.number] = asked
            if self._needs(phase, asked):
                yield self._task(asked)

    def _task(self, ask: Ask) -> Task:
        return Task(ask.number, ask.plan, self._pruner.threshold(ask.plan, ask.origin))

    def _pending(self, phase: Phase, asks: Mapping[int, Ask]) -> Iterator[Task]:
        """What a later phase must still measure; the rest gets its prediction."""
        for ask in asks.values():
            if ask.number not in self._candidates or not self._needs(phase, ask):
                continue
            pruned = self._pruner.prune_latency(self._candidates[ask.number])
            if pruned is None:
                yield Task(ask.number, ask.plan, competing=self._pruner.competing())
            else:
                self._keep(_estimated(self._candidates[ask.number], pruned))

    def _needs(self, phase: Phase, ask: Ask) -> bool:
        """Whether a phase of a plan is still to be measured."""
        known = self._candidates.get(ask.number)
        if known is None:
            return True
        return known.failure is None and _DONE_BY[phase] not in known.measurements

    def _take(self, ask: Ask, outcome: Outcome) -> None:
        """Merge what a phase found into its candidate, and have it recorded."""
        before = self._candidates.get(ask.number) or Candidate(ask.number, ask.plan, ask.origin)
        seconds = dict(before.seconds)
        for name, value in outcome.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + value
        candidate = replace(
            before,
            measurements={**before.measurements, **outcome.measurements},
            failure=outcome.failure,
            stopped=outcome.stopped or before.stopped,
            seconds=seconds,
            executed=shared(outcome.executed or before.executed),
        )
        self._keep(candidate)

    def _keep(self, candidate: Candidate) -> None:
        self._candidates[candidate.number] = candidate
        self._pruner.learn(candidate)
        self._recorder.candidate(candidate)


def _estimated(candidate: Candidate, pruned: Pruned) -> Candidate:
    """A candidate whose latency is predicted instead of measured."""
    return replace(
        candidate,
        measurements={**pruned.predicted, **candidate.measurements},
        stopped=pruned.reason,
    )


def _refuse_total_failure(candidates: Sequence[Candidate]) -> None:
    """Nothing that ever worked is not bad luck; a round of failures after good ones may be."""
    failures = [item.failure for item in candidates if item.failure is not None]
    if len(candidates) > 1 and len(failures) == len(candidates):
        raise ExecutionError(
            f"all {len(candidates)} candidates failed; the first: {failures[0].reason}",
            hint="once that is mended, --resume goes on with the same job; a changed job needs "
            "another output",
        )
