"""What a candidate for an NPU costs, and how well additive costs predict Vela.

    python scripts/bench/ethos_u.py --folder data/cifar10

ResNet-20 with two outlier channels in one block of each stage, 256 calibration images, one thread.
"candidates": medians over random plans: writing and reading back LiteRT's file, Vela's estimate,
500 images in LiteRT. "costs": the table is fitted to 18 plans and scored on others: one scheme for
each block, and one for each op; "boundaries" is the share of the cycles that go to conversions.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import torch
from report import Row, show

from autoquant.backends.litert.ethos_u.backend import EthosUBackend
from autoquant.core.plan import Plan
from autoquant.core.progress import Silent
from autoquant.core.space import SearchSpace
from autoquant.job import load_job
from autoquant.model.data.batches import take_samples
from autoquant.model.recipes import JobRecipe
from autoquant.model.subject import Subject
from autoquant.searching.preparing.preparation import Preparation, prepare

JOB = Path(__file__).parents[2] / "experiments" / "resnet20_npu.yaml"
SAMPLES = 500


def prepared_for(accelerator: str, folder: Path) -> tuple[Preparation, Subject, EthosUBackend]:
    """Everything that a search has before its first candidate."""
    place = folder.resolve()
    job = load_job(
        JOB,
        [
            f"model.arguments.folder={place}",
            f"data.arguments.folder={place}",
            f"backend.accelerator={accelerator}",
        ],
    )
    subject = JobRecipe(job)()
    prepared = prepare(job, subject, Silent())
    backend = prepared.backend
    if not isinstance(backend, EthosUBackend):
        raise TypeError(f"{JOB} is a job for {backend.name}")
    return prepared, subject, backend


def random_plans(space: SearchSpace, count: int) -> Iterator[Plan]:
    """Plans of one scheme for each op, drawn evenly."""
    draw = random.Random(101)
    for _ in range(count):
        yield space.plan({knob.name: draw.choice(knob.schemes) for knob in space.knobs})


def block_plans(prepared: Preparation, count: int) -> Iterator[Plan]:
    """Plans of one scheme for each block, drawn evenly."""
    draw = random.Random(102)
    space = prepared.space
    block_of = {site.name: site.block for site in prepared.captured.sites}
    for _ in range(count):
        scheme_of = {
            block: draw.choice(space.schemes) for block in dict.fromkeys(block_of.values())
        }
        yield space.plan({knob.name: scheme_of[block_of[knob.name]] for knob in space.knobs})


def seconds(function: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def candidate_row(prepared: Preparation, subject: Subject, backend: EthosUBackend) -> Row:
    """Where the time of a candidate goes."""
    batches = take_samples(subject.evaluation, SAMPLES)
    builds, estimates, evaluations = [], [], []
    plans = list(random_plans(prepared.space, 12))
    backend.build(plans[0])  # weights are rounded once
    for plan in plans:
        estimate = seconds(lambda plan=plan: backend.estimate_ms(plan))  # type: ignore[misc]
        started = time.perf_counter()
        module = backend.build(plan).module
        builds.append(time.perf_counter() - started - estimate)
        estimates.append(estimate)
        backend.run(module, batches[0].inputs)  # opens the interpreter
        evaluations.append(
            seconds(lambda module=module: [backend.run(module, b.inputs) for b in batches])  # type: ignore[misc]
        )
    whole = median(builds) + median(estimates) + median(evaluations)
    return {
        "build, ms": 1e3 * median(builds),
        "Vela, ms": 1e3 * median(estimates),
        f"{SAMPLES} images, ms": 1e3 * median(evaluations),
        "outside the evaluation": f"{1 - median(evaluations) / whole:.0%}",
    }


def cost_rows(prepared: Preparation, backend: EthosUBackend, count: int) -> Iterator[Row]:
    """How well the additive table predicts plans that it was not fitted to."""
    space = prepared.space
    started = time.perf_counter()
    table = backend.costs(space, (), time.perf_counter)
    spent = time.perf_counter() - started
    for kind, plans in (
        ("block", list(block_plans(prepared, count))),
        ("per op", list(random_plans(space, count))),
    ):
        true = np.array([backend.estimate_ms(plan) for plan in plans])
        predicted = np.array([table.predict(plan) for plan in plans])
        ops = np.array([sum(table.ops[item] for item in plan.assignment) for plan in plans])
        errors = np.abs(predicted / true - 1)
        yield {
            "plans": kind,
            "count": count,
            "mean error": f"{errors.mean():.2%}",
            "largest": f"{errors.max():.2%}",
            "Spearman": f"{np.corrcoef(_ranks(predicted), _ranks(true))[0, 1]:.4f}",
            "boundaries": f"{np.mean(1 - ops / true):.1%}",
            "spread": f"{true.std() / true.mean():.1%}",
            "table, s": spent,
        }


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.argsort(np.argsort(values)).astype(np.float64)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the CIFAR-10 folder")
    parser.add_argument(
        "--accelerators", nargs="*", default=["ethos-u55-128", "ethos-u65-256", "ethos-u85-256"]
    )
    parser.add_argument("--plans", type=int, default=100, help="of each kind")
    parser.add_argument("--json", type=Path, help="a folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    candidates: list[Row] = []
    costs: list[Row] = []
    for accelerator in arguments.accelerators:
        prepared, subject, backend = prepared_for(accelerator, arguments.folder)
        candidates.append({"NPU": accelerator, **candidate_row(prepared, subject, backend)})
        costs += [
            {"NPU": accelerator, **row} for row in cost_rows(prepared, backend, arguments.plans)
        ]
    for name, rows in (("candidates", candidates), ("costs", costs)):
        show(name, rows, None if arguments.json is None else arguments.json / f"{name}.json")


if __name__ == "__main__":
    main()
