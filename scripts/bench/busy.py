"""Whether speed-ups hold while other processes work: quiet, under a steady load, and in bursts.

    python scripts/bench/busy.py --folder data/cifar10

MobileNetV3 on digits and ResNet-20, batch 1 and 64, one thread, on torch, OpenVINO and ONNX
Runtime: the all-int8 and all-bf16 plans (all-fp32 where there are no kernels for bf16) and a mixed
one. Each condition is a sitting of its own, timed as a search times; the load is made here, by ten
processes that multiply matrices, all the time or in bursts of up to a second. Shown is how far
speed-ups are from the quiet ones: median and largest.
"""

from __future__ import annotations

import argparse
import math
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from report import Row, show

from autoquant.backends.targets import native_plan
from autoquant.core.evaluation import Phase, Task
from autoquant.core.measurement import Measurements
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.progress import Silent
from autoquant.core.space import SearchSpace
from autoquant.job import load_job
from autoquant.model.recipes import JobRecipe
from autoquant.searching.measuring.evaluator import PlanEvaluator
from autoquant.searching.pair import prepare_untimed

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
ENGINES = {
    "torch": "{name: torch, engine: onednn}",
    "openvino": "openvino",
    "onnxruntime": "onnxruntime",
}
BATCHES = (1, 64)
WORK = """
import random, sys, time
import numpy as np
one = np.ones((256, 256), np.float32)
while True:
    until = time.time() + random.uniform(0.1, 1.0)
    while time.time() < until:
        one @ one
    if sys.argv[1] == "bursts":
        time.sleep(random.uniform(0.1, 1.0))
"""
Timed = dict[tuple[int, int], Measurements]
"""By case and plan."""
CONDITIONS = ("quiet", "steady", "bursts")


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """What is timed in one process: a model on an engine at a batch size."""

    model: str
    engine: str
    batch: int
    evaluator: PlanEvaluator
    plans: tuple[Plan, ...]


@contextmanager
def load(condition: str, count: int) -> Iterator[None]:
    """Let other processes work, or none where it is quiet."""
    busy = 0 if condition.startswith("quiet") else count
    command = [sys.executable, "-c", WORK, condition]
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    started = [subprocess.Popen(command, env=environment) for _ in range(busy)]
    try:
        time.sleep(2.0 if busy else 0.0)
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def cases(models: dict[str, list[str]], engines: list[str]) -> Iterator[Case]:
    """Prepare each model once on each engine, and open what times it at each batch size."""
    for name, overrides in models.items():
        for engine in engines:
            job = load_job(EXPERIMENTS / name, [*overrides, f"backend={ENGINES[engine]}"])
            subject = JobRecipe(job)()
            prepared = prepare_untimed(job, subject, Silent())
            sites, support = prepared.captured.sites, prepared.backend.support
            uniform = [native_plan(scheme, sites, support) for scheme in (Scheme.INT8, Scheme.BF16)]
            mixed = [mixed_plan(prepared.space, seed=1)]
            for batch in BATCHES:
                settings = replace(prepared.settings, latency_batch=batch, latency_pairs=12)
                evaluator = replace(prepared, settings=settings).evaluator
                plans = dict.fromkeys([*uniform, *mixed])
                evaluator.rivals()
                yield Case(name.removesuffix(".yaml"), engine, batch, evaluator, tuple(plans))


def mixed_plan(space: SearchSpace, seed: int) -> Plan:
    """A scheme for each knob, drawn."""
    generator = random.Random(seed)
    return space.plan({knob.name: generator.choice(knob.schemes) for knob in space.knobs})


def time_all(listed: list[Case], sitting: int) -> Timed:
    """Time every plan once, by case and plan; what an engine refuses is left out."""
    found: Timed = {}
    for index, case in enumerate(listed):
        for number, plan in enumerate(case.plans):
            outcome = case.evaluator.run(Phase.LATENCY, Task(number, plan, sitting=sitting))
            if outcome.failure is None:
                found[index, number] = outcome.measurements
    return found


def deviations(
    case: int,
    name: str,
    quiet: Timed,
    other: Timed,
) -> list[float]:
    """How far the plans of a case are from quiet, as shares."""
    both = [key for key in quiet if key[0] == case and key in other and name in quiet[key]]
    return [abs(math.log(other[key][name].value / quiet[key][name].value)) for key in both]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="the CIFAR-10 folder; without it digits alone")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--models", nargs="+", default=["digits", "resnet20_cifar10"])
    parser.add_argument("--processes", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    models: dict[str, list[str]] = {"digits.yaml": []}
    if arguments.folder is not None:
        folder = arguments.folder.resolve()
        models["resnet20_cifar10.yaml"] = [
            f"{part}.arguments.folder={folder}" for part in ("model", "data")
        ]
    models = {name: item for name, item in models.items() if Path(name).stem in arguments.models}
    listed = list(cases(models, arguments.engines))
    timed = {}
    for sitting, condition in enumerate(CONDITIONS, start=1):
        with load(condition, arguments.processes):
            started = time.perf_counter()
            timed[condition] = time_all(listed, sitting)
            print(f"{condition}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    rows: list[Row] = []
    for index, case in enumerate(listed):
        quiet = timed["quiet"]
        speeds = [item["speedup"].value for key, item in quiet.items() if key[0] == index]
        row: dict[str, str | float | int] = {
            "model": case.model,
            "engine": case.engine,
            "batch": case.batch,
            "speed-ups, quiet": f"{min(speeds):.2f} to {max(speeds):.2f}",
        }
        for condition in CONDITIONS[1:]:
            other = timed[condition]
            apart = deviations(index, "speedup", quiet, other)
            busy = sum(item["speedup"].busy for key, item in other.items() if key[0] == index)
            row[condition] = f"{median(apart):.1%} / {max(apart):.1%}" + (
                f" ({busy} busy)" if busy else ""
            )
            over_float = deviations(index, "float_speedup", quiet, other)
            row[f"{condition}, over float"] = f"{max(over_float):.1%}" if over_float else "-"
        rows.append(row)
    show("busy", rows, arguments.json)


if __name__ == "__main__":
    main()
