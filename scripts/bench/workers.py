"""How a search speeds up from one Ray worker to two, and that nothing else changes.

    python scripts/bench/workers.py --folder data/cifar10

Runs the same 32 trials of ResNet-20 (no latency phase) on one and two Ray workers of one thread
and in this process, and compares candidates and accuracies.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from report import Row, show
from stopwatch import Stopwatch

from autoquant.job import load_job
from autoquant.model.recipes import JobRecipe
from autoquant.searching.result import SearchResult
from autoquant.searching.search import run_search

JOB = Path(__file__).parents[2] / "experiments" / "resnet20_cifar10.yaml"


def run(folder: Path, output: Path, trials: int, *execution: str) -> tuple[SearchResult, float]:
    """Run one search; give its result and the seconds of its rounds."""
    job = load_job(
        JOB,
        [
            f"model.arguments.folder={folder}",
            f"data.arguments.folder={folder}",
            f"output={output}",
            f"budget.trials={trials}",
            "backend.engine=onednn",
            "space={schemes: [int8, bf16, fp32]}",
            "objectives=[output_error, size]",
            "cache=false",
            *execution,
        ],
    )
    progress = Stopwatch()
    result = run_search(job, JobRecipe(job), progress, resume=False)
    return result, progress.seconds["searching"]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the CIFAR-10 folder")
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    settings = {
        "local": ["execution.kind=local"],
        "ray, 1 worker": ["execution.kind=ray", "execution.workers=1"],
        "ray, 2 workers": ["execution.kind=ray", "execution.workers=2"],
    }
    found: dict[str, tuple[SearchResult, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, overrides in settings.items():
            output = Path(scratch) / name.replace(", ", "-").replace(" ", "-")
            found[name] = run(folder, output, arguments.trials, *overrides)
    reference, _ = found["local"]
    expected = [(c.number, c.digest, c.value("accuracy")) for c in reference.candidates]
    one = found["ray, 1 worker"][1]
    rows: list[Row] = [
        {
            "executor": name,
            "rounds, s": seconds,
            "of one worker": seconds / one,
            "same candidates and accuracies as local": str(
                [(c.number, c.digest, c.value("accuracy")) for c in result.candidates] == expected
            ),
        }
        for name, (result, seconds) in found.items()
    ]
    show("workers", rows, arguments.json)


if __name__ == "__main__":
    main()
