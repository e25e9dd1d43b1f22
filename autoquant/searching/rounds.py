"""The loop: ask a round, measure it, tell it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from autoquant.core.evaluation import Executor, Outcome, Phase, Task
from autoquant.core.measurement import Candidate
from autoquant.core.recording import Recorder
from autoquant.errors import ExecutionError
from autoquant.job import Budget
from autoquant.searching.strategy import Ask, Strategy


class StopReason(Enum):
    """Why a search ended."""

    BUDGET = "the budget of trials is spent"
    TIME = "the time is up"
    EXHAUSTED = "every plan of the space was tried"
    INTERRUPTED = "it was interrupted"


@dataclass(frozen=True, slots=True)
class History:
    """All candidates, by number, and why there are no more."""

    candidates: tuple[Candidate, ...]
    reason: StopReason


_DONE_BY: Mapping[Phase, str] = {Phase.QUALITY: "sqnr_db", Phase.LATENCY: "speedup"}


class Rounds:
    """Runs rounds until the budget is spent.

    Args:
        strategy: Asks and is told.
        executor: Measures.
        phases: What to measure of each candidate, in order.
        budget: Trials, minutes, round size.
        known: Candidates of an earlier process; what they have is not measured again.
        recorder: Told of each candidate after each phase.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        strategy: Strategy,
        executor: Executor,
        *,
        phases: Sequence[Phase],
        budget: Budget,
        known: Sequence[Candidate],
        recorder: Recorder,
        clock: Callable[[], float],
    ) -> None:
        self._strategy = strategy
        self._executor = executor
        self._phases = tuple(phases)
        self._budget = budget
        self._recorder = recorder
        self._clock = clock
        self._candidates = {candidate.number: candidate for candidate in known}
        self._deadline = None if budget.minutes is None else clock() + 60.0 * budget.minutes
        self._exhausted = False

    def run(self) -> History:
        """Run until the budget is spent; an interrupt keeps everything that is finished.

        Raises:
            ExecutionError: Every candidate of a round failed.
        """
        try:
            self._finish_cut_off_round()
            while (reason := self._reason_to_stop()) is None:
                self._strategy.start_round()
                self._run_round([])
        except KeyboardInterrupt:
            reason = StopReason.INTERRUPTED
        ordered = sorted(self._candidates.values(), key=lambda item: item.number)
        return History(tuple(ordered), reason)

    def _finish_cut_off_round(self) -> None:
        if self._strategy.unfinished:
            self._run_round(list(self._strategy.unfinished))

    def _reason_to_stop(self) -> StopReason | None:
        if self._exhausted:
            return StopReason.EXHAUSTED
        if self._room() <= 0:
            return StopReason.BUDGET
        if self._deadline is not None and self._clock() >= self._deadline:
            return StopReason.TIME
        return None

    def _room(self) -> int:
        """How many more plans the budget allows; the seeds always fit."""
        return max(self._budget.trials, self._strategy.seed_count) - self._strategy.asked_count

    def _run_round(self, begun: list[Ask]) -> None:
        asks: dict[int, Ask] = {}
        for phase in self._phases:
            tasks = self._tasks(phase, asks, begun) if phase is self._phases[0] else None
            for outcome in self._executor.run(phase, tasks or self._pending(phase, asks)):
                self._take(asks[outcome.number], outcome)
        candidates = [self._candidates[number] for number in sorted(asks)]
        for candidate in candidates:
            self._strategy.tell(candidate)
        _refuse_total_failure(candidates)

    def _tasks(self, phase: Phase, asks: dict[int, Ask], begun: list[Ask]) -> Iterator[Task]:
        """The round's plans, asked for one by one while the first are being measured."""
        for ask in begun:
            asks[ask.number] = ask
            if self._needs(phase, ask):
                yield Task(ask.number, ask.plan)
        if begun and self._strategy.round_is_closed:
            return
        for _ in range(min(self._budget.round_size - len(begun), self._room())):
            asked = self._strategy.ask()
            if asked is None:
                self._exhausted = True
                return
            asks[asked.number] = asked
            if self._needs(phase, asked):
                yield Task(asked.number, asked.plan)

    def _pending(self, phase: Phase, asks: Mapping[int, Ask]) -> Iterator[Task]:
        for ask in asks.values():
            if self._needs(phase, ask):
                yield Task(ask.number, ask.plan)

    def _needs(self, phase: Phase, ask: Ask) -> bool:
        """Whether a phase of a plan is still to be measured."""
        known = self._known(ask)
        if known is None:
            return True
        return known.failure is None and _DONE_BY[phase] not in known.measurements

    def _known(self, ask: Ask) -> Candidate | None:
        """What is known of a plan; not of another plan that an earlier process gave its number."""
        known = self._candidates.get(ask.number)
        return known if known is not None and known.plan == ask.plan else None

    def _take(self, ask: Ask, outcome: Outcome) -> None:
        """Merge what a phase found into its candidate, and have it recorded."""
        before = self._known(ask) or Candidate(ask.number, ask.plan, ask.origin)
        seconds = dict(before.seconds)
        for name, value in outcome.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + value
        candidate = replace(
            before,
            measurements={**before.measurements, **outcome.measurements},
            failure=outcome.failure,
            seconds=seconds,
            executed=outcome.executed or before.executed,
        )
        self._candidates[ask.number] = candidate
        self._recorder.candidate(candidate)


def _refuse_total_failure(candidates: Sequence[Candidate]) -> None:
    """A whole round of failures is not bad luck."""
    failures = [item.failure for item in candidates if item.failure is not None]
    if len(candidates) > 1 and len(failures) == len(candidates):
        raise ExecutionError(
            f"all {len(candidates)} candidates of a round failed; the first: {failures[0].reason}",
            hint="once that is mended, --resume goes on with the same job; a changed job needs "
            "another output",
        )
