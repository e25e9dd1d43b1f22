"""What comparing layers costs over running both models on the same samples.

    python scripts/bench/compare.py --folder data/cifar10

ResNet-20, all-int8, CPU time of one thread; building and weights are left out. Forwards and
comparisons run in turn; medians are shown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from report import Row, show

from autoquant.core.findings.layers import ComparisonMode
from autoquant.core.progress import Silent
from autoquant.debugging.compare import compare_plans
from autoquant.job import load_job
from autoquant.model.data.batches import take_samples
from autoquant.model.recipes import JobRecipe
from autoquant.searching.pair import build_pair, find_plan, prepare_untimed

JOB = Path(__file__).parents[2] / "experiments" / "resnet20_cifar10.yaml"


def timed(function: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    started = time.thread_time()
    function()
    return time.thread_time() - started


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the CIFAR-10 folder")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.folder.resolve()
    job = load_job(JOB, [f"{part}.arguments.folder={folder}" for part in ("model", "data")])
    subject = JobRecipe(job)()
    prepared = prepare_untimed(job, subject, Silent())
    plan = find_plan("int8", prepared, Silent())
    pair = build_pair(prepared, plan, Silent())
    batches = take_samples(subject.evaluation, arguments.samples)

    def forwards() -> None:
        for batch in batches:
            pair.backend.run(subject.model, batch.inputs)
            pair.backend.run(pair.executable.module, batch.inputs)

    rows: list[Row] = []
    for mode in (ComparisonMode.UNSHADOWED, ComparisonMode.SHADOWED):
        times = [
            (
                timed(forwards),
                timed(
                    lambda mode=mode: compare_plans(  # type: ignore[misc]
                        prepared, [plan], batches, mode, Silent(), weights=False
                    )
                ),
            )
            for _ in range(arguments.rounds + 1)
        ][1:]
        both = median(one for one, _ in times)
        compared = median(two for _, two in times)
        rows.append(
            {
                "mode": mode.value,
                "samples": arguments.samples,
                "both forwards, s": both,
                "compare, s": compared,
                "ratio": compared / both,
            }
        )
    show("compare", rows, arguments.json)


if __name__ == "__main__":
    main()
