"""What torch.compile makes of plans, beside torch's own engine with the same plans.

    python scripts/bench/inductor.py --folder data/cifar10

ResNet-20, one thread. Each built model is timed in turn with the float model;
a time is over eager fp32, the median of the pairs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from cost_model import EXPERIMENTS, JOBS
from report import Row, show

from autoquant.backends.protocol import Backend, Executable
from autoquant.backends.targets import load_target
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.progress import Silent
from autoquant.job import load_job
from autoquant.model.recipes import JobRecipe
from autoquant.searching.measuring.evaluator import with_threads
from autoquant.searching.measuring.latency import measure_latency
from autoquant.searching.preparing.preparation import Preparation, prepare

PAIRS = 30


def bench(prepared: Preparation, engine: str) -> Iterator[Row]:
    """Build and time a few plans on both."""
    opened = {
        name: load_target(name).open_backend(
            prepared.request(
                replace(
                    prepared.settings.build,
                    backend=name,
                    options={"engine": engine} if name == "torch" else {},
                )
            )
        )
        for name in ("inductor", "torch")
    }
    for title, plan in plans(prepared, opened["inductor"]):
        row: dict[str, str | float | int] = {"plan": title}
        for name, backend in opened.items():
            started = time.perf_counter()
            built = backend.build(plan)
            row[f"{name} build, s"] = time.perf_counter() - started
            row[f"{name}, time over eager fp32"] = time_over_float(prepared, backend, built)
            row[f"{name} SQNR, dB"] = sqnr_db(prepared, backend, built)
        yield row


def plans(prepared: Preparation, inductor: Backend) -> Iterator[tuple[str, Plan]]:
    """All fp32, each layer that inductor runs in int8, every second one of these, and all int8."""
    sites = prepared.captured.sites
    able = [s.name for s in sites if inductor.support(s, Scheme.INT8) is Support.NATIVE]
    names = [site.name for site in sites]
    for title, chosen in (
        ("fp32", []),
        ("int8 layers", able),
        ("every second", able[::2]),
        ("all", names),
    ):
        yield (
            f"{title} ({len(chosen)} of {len(sites)} int8)",
            Plan.of({s.name: Scheme.INT8 if s.name in chosen else Scheme.FP32 for s in sites}),
        )


def time_over_float(prepared: Preparation, backend: Backend, built: Executable) -> float:
    """Time of a built model over that of the float model."""
    inputs = prepared.subject.evaluation[0].inputs
    batch = prepared.settings.latency_batch or len(inputs[0])
    inputs = tuple(item[:batch] for item in inputs)
    with with_threads(1):
        timed = measure_latency(
            lambda: backend.run(built.module, inputs),
            lambda: backend.run(prepared.subject.model, inputs),
            pairs=PAIRS,
        )
    return 1.0 / timed["speedup"].value


def sqnr_db(prepared: Preparation, backend: Backend, built: Executable) -> float:
    """Signal over quantization noise of the outputs, on the batch of the latency."""
    inputs = prepared.subject.evaluation[0].inputs
    batch = prepared.settings.latency_batch or len(inputs[0])
    inputs = tuple(item[:batch] for item in inputs)
    expected = backend.run(prepared.subject.model, inputs)
    noise = backend.run(built.module, inputs) - expected
    return float(10 * torch.log10(expected.square().sum() / noise.square().sum()))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--engine", default="onednn", help="of torch")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    job = load_job(
        EXPERIMENTS / JOBS["resnet20"],
        [
            f"backend.engine={given.engine}",
            f"backend.batch_size={given.batch}",
            f"model.arguments.folder={given.folder}",
            f"data.arguments.folder={given.folder}",
        ],
    )
    prepared = prepare(job, JobRecipe(job)(), Silent())
    show("inductor", list(bench(prepared, given.engine)), given.output)


if __name__ == "__main__":
    main()
