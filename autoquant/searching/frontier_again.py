"""The frontier's members once more: their latency, also of one sample; quality on unseen data."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from autoquant.core.evaluation import Executor, Outcome, Phase, Task
from autoquant.core.frontier import Frontier
from autoquant.core.history import Recorder
from autoquant.core.measurement import Candidate, Measurements
from autoquant.core.progress import Progress
from autoquant.core.quantities import SINGLE_SPEEDUP
from autoquant.searching.measuring.plan_timer import differ

FindFrontier = Callable[[Sequence[Candidate]], Frontier]

TIMED_AGAIN = "latency again"
"""Among a candidate's seconds: it was timed in a second sitting."""
_SITTINGS = 3


def time_again(
    candidates: Sequence[Candidate],
    find: FindFrontier,
    executor: Executor,
    recorder: Recorder,
    progress: Progress,
) -> tuple[Candidate, ...]:
    """Time the frontier's members in a sitting of their own, and let the new time stand.

    Of many noisy times the best are the luckiest: what was chosen for its time must be timed
    anew. So are all that the machine was too busy for. Where that changes the frontier, its new
    members are timed again too; what differs from its last sitting by more than its error is busy,
    and taken once more. A member whose place among the others is certain need not be timed more
    exactly.
    """

    def add(before: Candidate, outcome: Outcome) -> Candidate:
        return replace(
            before,
            measurements=of_two_sittings(before.measurements, outcome.measurements),
            failure=outcome.failure,
            seconds={**before.seconds, TIMED_AGAIN: outcome.seconds.get(Phase.LATENCY.value, 0.0)},
        )

    title = "timing the frontier again"
    for sitting in range(1, _SITTINGS + 1):
        speedups = {
            item.number: item.value("speedup")
            for item in find(candidates)
            if "speedup" in item.measurements
        }
        due = [
            Task(
                item.number,
                item.plan,
                competing=tuple(own for number, own in speedups.items() if number != item.number),
                sitting=sitting,
            )
            for item in candidates
            if _is_due(item, speedups.keys(), sitting)
        ]
        candidates = _measure_further(
            candidates, due, Phase.LATENCY, title, add, executor, recorder, progress
        )
    return tuple(candidates)


def of_two_sittings(before: Measurements, after: Measurements) -> Measurements:
    """The later times stand, with an error that covers what the two sittings differ by.

    Of two values the standard deviation is their difference over root two. Where they differ by
    more than their errors, the machine was busy in one of them.
    """
    found = dict(before)
    for name, item in after.items():
        earlier = before.get(name)
        if earlier is not None and item.clock is not None and earlier.kind is item.kind:
            apart = abs(item.value - earlier.value) / math.sqrt(2.0)
            item = replace(  # noqa: PLW2901  # the same time, better known
                item,
                stderr=max(item.stderr or 0.0, apart),
                busy=item.busy or differ(earlier, item),
            )
        found[name] = item
    return found


def _is_due(candidate: Candidate, members: Collection[int], sitting: int) -> bool:
    """Whether a candidate is timed in a sitting."""
    is_timed = candidate.failure is None and candidate.stopped is None
    speedup = candidate.measurements.get("speedup")
    if not is_timed or speedup is None:
        return False
    if candidate.number in members:
        return TIMED_AGAIN not in candidate.seconds or speedup.busy
    return speedup.busy and sitting == 1


def time_single(
    candidates: Sequence[Candidate],
    wanted: Sequence[Candidate],
    executor: Executor,
    recorder: Recorder,
    progress: Progress,
) -> tuple[Candidate, ...]:
    """Time some candidates on one sample: the same builds, which were made for the job's batch.

    A model that takes no single sample has no such times, which is said.
    """
    due = [
        Task(item.number, item.plan)
        for item in wanted
        if SINGLE_SPEEDUP.name not in item.measurements
    ]

    def add(before: Candidate, outcome: Outcome) -> Candidate:
        if outcome.failure is not None:
            progress.note(f"#{before.number} is not timed on one sample: {outcome.failure.reason}")
        return replace(before, measurements={**before.measurements, **outcome.measurements})

    title = "timing one sample at a time"
    return _measure_further(candidates, due, Phase.SINGLE, title, add, executor, recorder, progress)


def score_heldout(
    candidates: Sequence[Candidate],
    wanted: Sequence[Candidate],
    executor: Executor,
    recorder: Recorder,
    progress: Progress,
) -> tuple[Candidate, ...]:
    """Score some candidates on data that the search never saw."""
    due = [
        Task(item.number, item.plan)
        for item in wanted
        if "heldout_accuracy" not in item.measurements
    ]

    def add(before: Candidate, outcome: Outcome) -> Candidate:
        return replace(
            before,
            measurements={**before.measurements, **outcome.measurements},
            seconds={**before.seconds, "heldout": outcome.seconds.get("heldout", 0.0)},
        )

    title = "scoring the frontier on held-out data"
    return _measure_further(
        candidates, due, Phase.HELDOUT, title, add, executor, recorder, progress
    )


def _measure_further(
    candidates: Sequence[Candidate],
    due: Sequence[Task],
    phase: Phase,
    title: str,
    add: Callable[[Candidate, Outcome], Candidate],
    executor: Executor,
    recorder: Recorder,
    progress: Progress,
) -> tuple[Candidate, ...]:
    """Do one more phase of some candidates, and add what it finds to them."""
    if not due:
        return tuple(candidates)
    by_number = {candidate.number: candidate for candidate in candidates}
    with progress.stage(title, len(due)) as advance:
        for outcome in executor.run(phase, due):
            found = add(by_number[outcome.number], outcome)
            by_number[outcome.number] = found
            recorder.candidate(found)
            advance(1)
    return tuple(by_number[number] for number in sorted(by_number))


def noise_notice(frontier: Frontier) -> str | None:
    """Say that the machine was too busy to time on, None where it was quiet."""
    speedups = [item.measurements["speedup"] for item in frontier if "speedup" in item.measurements]
    busy = sum(item.busy for item in speedups)
    if not busy:
        return None
    return (
        f"the machine was busy: {busy} of {len(speedups)} speedups of the frontier are marked so, "
        "which differed by more than their errors within a sitting or between two, or were of "
        "short calls that others held up; search again on a quiet machine"
    )
