"""How well the cost model predicts plans that it did not see: random ones and block-wise ones.

    python scripts/bench/cost_model.py digits
    python scripts/bench/cost_model.py resnet20 --folder data/cifar10

One thread. Each plan is measured as a search measures it, in turn with the float model, but by
the CPU time of the thread, which leaves out what other processes take. "after n" corrects the
profile by the first n measured plans, half of each kind, and is scored on the others. "noise" is
the relative standard error of the measurements that it is scored against, "spread" the relative
standard deviation of what there is to rank. Where noise is half of the spread, two measurements of
the same plans agree no better than prediction and measurement do.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from report import Row, show
from torch import Tensor, nn

from autoquant.backends.protocol import Backend
from autoquant.backends.torch_cpu.graph_backend import TorchGraphBackend
from autoquant.backends.torch_cpu.profile import Profile, profile_costs
from autoquant.core.plan import Plan
from autoquant.core.progress import Silent
from autoquant.job import load_job
from autoquant.model.heap import keep_freed_memory
from autoquant.model.recipes import JobRecipe
from autoquant.searching.costing.cost_model import CostModel, Observation
from autoquant.searching.measuring.evaluator import latency_inputs
from autoquant.searching.measuring.latency import measure_latency
from autoquant.searching.preparing.preparation import Preparation, prepare

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
JOBS = {"digits": "digits.yaml", "resnet20": "resnet20_cifar10.yaml"}
KINDS = ("random", "block-wise")
PAIRS = {1: 80, 64: 12}
"""By batch size: about as much time for each."""
Floats = npt.NDArray[np.float64]


def draw_plans(prepared: Preparation, count: int) -> Iterator[tuple[str, Plan]]:
    """Random plans, and plans of one scheme for each block, in turn."""
    draw = random.Random(1)
    sites = {site.name: site for site in prepared.captured.sites}
    space = prepared.space
    firsts = {sites[knob.name].block: knob for knob in reversed(space.knobs)}
    for _ in range(count):
        yield KINDS[0], space.plan({knob.name: draw.choice(knob.schemes) for knob in space.knobs})
        scheme_of = {block: draw.choice(first.schemes) for block, first in firsts.items()}
        wanted = {knob: scheme_of[sites[knob.name].block] for knob in space.knobs}
        yield (
            KINDS[1],
            space.plan(
                {
                    knob.name: scheme if scheme in knob.schemes else knob.schemes[-1]
                    for knob, scheme in wanted.items()
                }
            ),
        )


def measure(
    backend: Backend,
    plan: Plan,
    module: nn.Module,
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    baseline_ms: float,
) -> Observation:
    """Time a built plan; its cost is in milliseconds of a float model that takes `baseline_ms`."""
    speedup = measure_latency(
        lambda: backend.run(module, inputs),
        lambda: backend.run(model, inputs),
        pairs=PAIRS.get(len(inputs[0]), 20),
    )["speedup"]
    cost = baseline_ms / speedup.value
    return Observation(plan, cost, cost * (speedup.stderr or 0.0) / speedup.value)


def score(model: CostModel, observations: Sequence[Observation]) -> Row:
    """Compare predictions with measurements that the model does not know."""
    measured = np.array([item.cost for item in observations])
    found = [model.predict(item.plan) for item in observations]
    predicted = np.array([item.mean for item in found])
    stderrs = np.array([item.stderr for item in observations])
    errors = np.abs(predicted / measured - 1.0)
    inside = np.abs(predicted - measured) < 2.0 * np.hypot(
        stderrs, np.array([item.stderr for item in found])
    )
    return {
        "plans": len(observations),
        "median error": f"{np.median(errors):.1%}",
        "worst": f"{errors.max():.1%}",
        "Spearman": f"{np.corrcoef(_ranks(predicted), _ranks(measured))[0, 1]:.3f}",
        "within 2 sd": f"{inside.mean():.0%}",
        "noise": f"{np.median(stderrs / measured):.1%}",
        "spread": f"{measured.std() / measured.mean():.1%}",
    }


def _ranks(values: Floats) -> Floats:
    ranks: Floats = np.argsort(np.argsort(values)).astype(np.float64)
    return ranks


def score_all(
    profile: Profile, kinds: Sequence[str], observations: Sequence[Observation], fits: Sequence[int]
) -> Iterator[Row]:
    """Score the profile alone, and after each number of observations."""
    model = CostModel(profile.table)
    for count in (0, *fits):
        for item in observations[len(model.observations) : count]:
            model = model.observe(item.plan, item.cost, item.stderr)
        unseen = list(zip(kinds, observations, strict=True))[count:]
        for kind in KINDS:
            stage = f"after {count}" if count else "profile alone"
            scored = score(model, [item for its, item in unseen if its == kind])
            yield {"costs": stage, "kind": kind, **scored}


def bench_engine(engine: str, arguments: argparse.Namespace) -> Iterator[Row]:
    """Build the plans once, and profile and measure them at each batch size."""
    overrides = [f"backend.engine={engine}"]
    if arguments.folder is not None:
        folder = arguments.folder.resolve()
        overrides += [f"model.arguments.folder={folder}", f"data.arguments.folder={folder}"]
    job = load_job(EXPERIMENTS / JOBS[arguments.model], overrides)
    subject = JobRecipe(job)()
    prepared = prepare(job, subject, Silent())
    captured = prepared.captured
    settings = prepared.settings.building(options={"engine": engine})
    backend = TorchGraphBackend(prepared.request(settings.build))
    drawn = list(draw_plans(prepared, arguments.plans))
    built = [backend.build(plan).module for _, plan in drawn]
    for batch in arguments.batches:
        inputs = latency_inputs(subject, batch)
        started = time.perf_counter()
        profile = profile_costs(
            captured, backend, prepared.space, subject.model, inputs, clock=time.thread_time
        )
        seconds = time.perf_counter() - started
        observations = [
            measure(backend, plan, module, subject.model, inputs, profile.baseline_ms)
            for (_, plan), module in zip(drawn, built, strict=True)
        ]
        for row in score_all(profile, [kind for kind, _ in drawn], observations, arguments.fits):
            yield {"engine": engine, "batch": batch, **row, "profile, s": seconds}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=list(JOBS))
    parser.add_argument("--folder", type=Path, help="of weights and images, for resnet20")
    parser.add_argument("--plans", type=int, default=50, help="of each kind")
    parser.add_argument("--fits", type=int, nargs="*", default=[16, 32])
    parser.add_argument("--engines", nargs="*", default=["onednn", "fbgemm"])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 64])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = [row for engine in arguments.engines for row in bench_engine(engine, arguments)]
    show("cost model", rows, arguments.json)


if __name__ == "__main__":
    main()
