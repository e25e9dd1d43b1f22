"""What it gains to take the faster kernel of each op, over one engine for the whole model.

    python scripts/bench/kernels.py digits
    python scripts/bench/kernels.py resnet20 --folder data/cifar10

The all-int8 plan, one thread, each model in turn with the float model, by the CPU time of the
thread. The kernels are chosen as `engine: per-op` chooses them, before what is measured here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from cost_model import EXPERIMENTS, JOBS
from report import Row, show

from autoquant.backends.torch_cpu.options import Kernels, kernels_in
from autoquant.core.evaluation import Phase, Task
from autoquant.core.precision import Scheme
from autoquant.core.progress import Silent
from autoquant.job import load_job
from autoquant.model.heap import keep_freed_memory
from autoquant.model.recipes import JobRecipe
from autoquant.searching.pair import uniform_plan
from autoquant.searching.preparing.preparation import Preparation, prepare

PAIRS = 40


def bench_batch(model: str, batch: int, folder: Path | None) -> Iterator[Row]:
    """Choose kernels at one batch size, and time the plan with them and without."""
    overrides = ["backend.engine=per-op", f"backend.batch_size={batch}"]
    if folder is not None:
        overrides += [f"model.arguments.folder={folder}", f"data.arguments.folder={folder}"]
    job = load_job(EXPERIMENTS / JOBS[model], overrides)
    prepared = prepare(job, JobRecipe(job)(), Silent())
    build = prepared.settings.build
    chosen = kernels_in(build)
    counts = {
        engine: sum(scheme is Scheme.INT8 and e == engine for _, scheme, e in chosen.choices)
        for engine in chosen.counts()
    }
    for engine, kernels in (
        ("fbgemm", Kernels()),
        ("onednn", Kernels()),
        (build.options["engine"], chosen),
    ):
        mixed = bool(kernels.choices)
        shown = ", ".join(f"{count} {name}" for name, count in counts.items())
        yield {
            "batch": batch,
            "kernels": f"per-op ({shown})" if mixed else engine,
            "time over fp32": time_plan(prepared, engine, kernels),
        }


def time_plan(prepared: Preparation, engine: str, kernels: Kernels) -> str:
    """Time of the all-int8 plan over that of the float model, with its standard error."""
    built = prepared.settings.building(options={"engine": engine, "kernels": kernels.to_json()})
    settings = replace(built, latency_pairs=PAIRS)
    evaluator = replace(prepared, settings=settings).evaluator
    task = Task(0, uniform_plan(Scheme.INT8, prepared, Silent()))
    found = evaluator.run(Phase.LATENCY, task).measurements["speedup"]
    error = (found.stderr or 0.0) / found.value**2
    return f"{1 / found.value:.3f} ± {error:.3f}"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=list(JOBS))
    parser.add_argument("--folder", type=Path, help="of weights and images, for resnet20")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 64])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    folder = None if arguments.folder is None else arguments.folder.resolve()
    rows = [
        row for batch in arguments.batches for row in bench_batch(arguments.model, batch, folder)
    ]
    show("kernels", rows, arguments.json)


if __name__ == "__main__":
    main()
