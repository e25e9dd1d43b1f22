"""How evenly Ray workers share trials that take a fixed time, and what a trial costs beside it.

    python scripts/bench/ray_scale.py

The evaluator sleeps, so that more workers than cores can be looked at. Efficiency is the time that
the sleeps alone would take, spread evenly, over the time that they took.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

from report import Row, show

from autoquant.core.evaluation import Evaluator, Outcome, Phase, Task
from autoquant.core.measurement import Kind, Measurement
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.job import Execution
from autoquant.searching.measuring.workers.ray_workers import RayExecutor


@dataclass(frozen=True)
class Sleeper:
    """Stands in for an evaluator: every task takes the same time."""

    seconds: float

    def __call__(self) -> Evaluator:
        """Give itself: it has nothing to load."""
        return self

    def run(self, phase: Phase, task: Task) -> Outcome:  # noqa: ARG002
        """Sleep."""
        time.sleep(self.seconds)
        return Outcome(task.number, {"sqnr_db": Measurement(1.0, Kind.MEASURED)})


def spread(workers: int, trials: int, seconds: float) -> float:
    """Run the trials on some workers; seconds from the first task to the last outcome."""
    execution = Execution(kind="ray", workers=workers)
    executor = RayExecutor(Sleeper(seconds), execution)
    plan = Plan.of({"op": Scheme.INT8})
    try:
        list(executor.run(Phase.QUALITY, [Task(number, plan) for number in range(workers * 2)]))
        started = time.perf_counter()
        found = list(executor.run(Phase.QUALITY, (Task(number, plan) for number in range(trials))))
        took = time.perf_counter() - started
    finally:
        executor.close()
    if len(found) != trials:
        raise SystemExit(f"{len(found)} outcomes of {trials} trials")
    return took


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each trial")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[Row] = []
    for workers in (1, 2, 4, 8):
        took = spread(workers, arguments.trials, arguments.seconds)
        ideal = arguments.trials * arguments.seconds / workers
        rows.append(
            {
                "workers": workers,
                "s": took,
                "efficiency": ideal / took,
                "ms a trial beside the sleep": (took - ideal) * workers / arguments.trials * 1000,
            }
        )
    show("ray_scale", rows, arguments.json)


if __name__ == "__main__":
    main()
