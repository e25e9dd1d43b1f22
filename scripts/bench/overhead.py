"""What a search spends on each trial beside its evaluation, end to end.

    python scripts/bench/overhead.py --trials 100

A small network of many linear layers is searched by `aq.search`, with its result folder and an
MLflow store, on real kernels. A trial's evaluation is what its candidate says it took: building,
quality, latency. The rest of the time from the last seed to the last candidate is overhead:
proposals, pruning, history, tracking. CPU time is that of the searching thread: what it has to do
itself, whatever others do; tracking runs beside it. `scale.py` has the same for very long searches,
and `ray_scale.py` for workers.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import wraps
from pathlib import Path

import torch
from report import Row, show
from torch import nn

import autoquant as aq
from autoquant.core.evaluation import Outcome
from autoquant.core.measurement import Candidate
from autoquant.core.progress import Silent
from autoquant.searching.measuring.evaluator import PlanEvaluator


class Watch(Silent):
    """Notes when candidates come in, as the progress of a search."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float, float]] = []
        self.evaluating = 0.0

    def candidate(self, candidate: Candidate) -> None:
        """Note times, and what the candidate's evaluation took; begin anew at each seed."""
        if candidate.origin.startswith("seed:"):
            self.seen.clear()
        own = time.thread_time() - self.evaluating
        self.seen.append((time.monotonic(), sum(candidate.seconds.values()), own))

    def watch_evaluations(self) -> None:
        """Sum up the CPU time of this process's evaluations."""
        run = PlanEvaluator.run

        @wraps(run)
        def watched(*args: object, **kwargs: object) -> Outcome:
            started = time.thread_time()
            try:
                return run(*args, **kwargs)  # type: ignore[arg-type]
            finally:
                self.evaluating += time.thread_time() - started

        PlanEvaluator.run = watched  # type: ignore[method-assign]


def model_of(layers: int) -> nn.Module:
    """Give a chain of linear layers."""
    torch.manual_seed(0)
    parts = [part for _ in range(layers) for part in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(*parts, nn.Linear(64, 10)).eval()


def measure(sampler: str, layers: int, trials: int) -> Row:
    """Search once; milliseconds by trial."""
    model, inputs = model_of(layers), torch.randn(512, 64)
    with torch.no_grad():
        labels = model(inputs).argmax(1)
    watch = Watch()
    watch.watch_evaluations()
    with tempfile.TemporaryDirectory() as folder:
        result = aq.search(
            model,
            calibration=inputs[:128],
            evaluation=(inputs[128:], labels[128:]),
            backend="fbgemm",
            sampler=sampler,
            max_drop=None,
            cache=False,
            objectives=("output_error", "bops"),
            trials=trials,
            effort="thorough",
            output=Path(folder) / "out",
            tracking_uri=f"sqlite:///{folder}/mlflow.db",
            progress=watch,
        )
        count = len(result.candidates)
    first, last = watch.seen[0], watch.seen[-1]
    spent = sum(seconds for _, seconds, _ in watch.seen[1:])
    number = len(watch.seen) - 1
    return {
        "sampler": sampler,
        "layers": layers + 1,
        "candidates": count,
        "evaluation, ms": 1e3 * spent / number,
        "overhead, ms": 1e3 * (last[0] - first[0] - spent) / number,
        "overhead, CPU ms": 1e3 * (last[2] - first[2]) / number,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--samplers", nargs="+", default=["guided", "tpe", "random"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = [measure(name, arguments.layers, arguments.trials) for name in arguments.samplers]
    show("overhead", rows, arguments.json)


if __name__ == "__main__":
    main()
