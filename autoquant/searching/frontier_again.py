"""The frontier's members once more: their latency alone, and their quality on unseen data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

from autoquant.core.evaluation import Executor, Phase, Task
from autoquant.core.frontier import Frontier
from autoquant.core.measurement import Candidate
from autoquant.core.progress import Progress
from autoquant.core.recording import Recorder

FindFrontier = Callable[[Sequence[Candidate]], Frontier]

_TIMED_AGAIN = "latency again"
_RETRIES = 3
_NOISY = 0.03
"""A relative standard error above which a user should not read a ranking out of speedups."""


def time_again(
    candidates: Sequence[Candidate],
    find: FindFrontier,
    executor: Executor,
    recorder: Recorder,
    progress: Progress,
) -> tuple[Candidate, ...]:
    """Time the frontier's members again, and let the new time stand.

    Of many noisy times the best are the luckiest: what was chosen for its time must be timed
    anew. Where that changes the frontier, its new members are timed again too.
    """
    by_number = {candidate.number: candidate for candidate in candidates}
    for _ in range(_RETRIES):
        members = [
            item for item in find(tuple(by_number.values())) if _TIMED_AGAIN not in item.seconds
        ]
        if not members:
            break
        tasks = [Task(item.number, item.plan) for item in members]
        with progress.stage("timing the frontier again", len(tasks)) as advance:
            for outcome in executor.run(Phase.LATENCY, tasks):
                before = by_number[outcome.number]
                seconds = outcome.seconds.get(Phase.LATENCY.value, 0.0)
                by_number[outcome.number] = replace(
                    before,
                    measurements={**before.measurements, **outcome.measurements},
                    failure=outcome.failure,
                    seconds={**before.seconds, _TIMED_AGAIN: seconds},
                )
                recorder.candidate(by_number[outcome.number])
                advance(1)
    return tuple(by_number[number] for number in sorted(by_number))


def score_heldout(
    candidates: Sequence[Candidate],
    find: FindFrontier,
    executor: Executor,
    recorder: Recorder,
    progress: Progress,
) -> tuple[Candidate, ...]:
    """Score the frontier's members on data that the search never saw."""
    by_number = {candidate.number: candidate for candidate in candidates}
    members = [item for item in find(candidates) if "heldout_accuracy" not in item.measurements]
    if not members:
        return tuple(candidates)
    tasks = [Task(item.number, item.plan) for item in members]
    with progress.stage("scoring the frontier on held-out data", len(tasks)) as advance:
        for outcome in executor.run(Phase.HELDOUT, tasks):
            before = by_number[outcome.number]
            by_number[outcome.number] = replace(
                before,
                measurements={**before.measurements, **outcome.measurements},
                seconds={**before.seconds, "heldout": outcome.seconds.get("heldout", 0.0)},
            )
            recorder.candidate(by_number[outcome.number])
            advance(1)
    return tuple(by_number[number] for number in sorted(by_number))


def noise_notice(frontier: Frontier) -> str | None:
    """Say that the machine was too busy to time on, None where it was quiet."""
    errors = [
        (item.measurements["speedup"].stderr or 0.0) / item.measurements["speedup"].value
        for item in frontier
        if "speedup" in item.measurements
    ]
    if not errors or median(errors) <= _NOISY:
        return None
    return (
        f"the machine was busy: speedups have a standard error of {median(errors):.0%}, so do not "
        "read much into differences below twice that; search again on a quiet machine, or raise "
        "backend.pairs"
    )
