"""How much of the frontier a search has found after how many evaluations.

    python scripts/bench/search_efficiency.py --folder data/cifar10

Searches by several strategies and seeds on real models. The true values of a plan (output SQNR and
speedup on the real engine) are measured once and kept in `--records`, so every strategy meets the
same truth and a second run replays in seconds.

Hypervolume is over SQNR, which counts up to 60 dB, and speedup; normalised by that of the reference
frontier: everything that any strategy found, and for the small space every plan there is.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from recorded import Recorded
from report import Row, show

from autoquant.backends.torch_cpu.support import site_support
from autoquant.core.measurement import Candidate
from autoquant.core.pareto import hypervolume
from autoquant.core.plan import Plan
from autoquant.core.progress import Silent
from autoquant.core.space import SearchSpace
from autoquant.job import Job, load_job
from autoquant.model.recipes import JobRecipe
from autoquant.searching.guidance import find_costs, guide
from autoquant.searching.preparing.preparation import Preparation, prepare
from autoquant.searching.preparing.space import bind_space
from autoquant.searching.proposing.constraints import Limits
from autoquant.searching.proposing.sampled import GUIDED
from autoquant.searching.proposing.strategy import Strategy
from autoquant.searching.ranking.ranked import rank_by_sensitivity
from autoquant.searching.seeding.seeds import Seed

ROOT = Path(__file__).parents[2]
CEILING_DB = 60.0
ROUND = 8
CHECKPOINTS = (8, 16, 24, 32, 48, 64)


@dataclass(frozen=True)
class Ground:
    """A model with everything that searches on it share."""

    name: str
    job: Job
    prepared: Preparation
    truth: Recorded
    limits: Limits
    seeds: tuple[Seed, ...]
    build_guide: Callable[[], object]
    is_small: bool

    @property
    def space(self) -> SearchSpace:
        """What is searched."""
        return self.prepared.space

    @cached_property
    def blocks(self) -> SearchSpace:
        """The same with one knob for each block."""
        captured = self.prepared.captured
        return bind_space(
            self.job.space.model_copy(update={"grouping": "block", "groups": ()}),
            captured.sites,
            captured.agreements,
            partial(site_support, self.prepared.engine),
            real_kernels_only=True,
        ).space


def lay(name: str, job: Job, records: Path) -> Ground:
    """Prepare a model: calibrate, rank, profile, and list the seeds."""
    subject = JobRecipe(job)()
    prepared = prepare(job, subject, Silent())
    evaluator = prepared.evaluator  # one thread: leaves out what other processes take
    baseline = evaluator.baseline()
    table = rank_by_sensitivity(job.sensitivity, prepared, Silent())
    costs = find_costs(job.goals, prepared, Silent())
    limits = Limits(job.constraints, baseline)
    guidance = guide(job, prepared, table, costs, baseline, limits)
    return Ground(
        name=name,
        job=job,
        prepared=prepared,
        truth=Recorded(records / f"{name.replace(', ', '-').replace(' ', '-')}.json", evaluator),
        limits=limits,
        seeds=guidance.seeds,
        build_guide=lambda: guide(job, prepared, table, costs, baseline, limits).proposer,
        is_small=name == _SMALL,
    )


def search(ground: Ground, strategy: str, seed: int, trials: int) -> list[Candidate]:
    """Run one search; candidates in the order in which they were measured."""
    seeds = {
        "ours": ground.seeds,
        "TPE, our seeds": ground.seeds,
        "seeds alone": ground.seeds,
        "ladder only": [s for s in ground.seeds if "ladder" in s.origin or "uniform" in s.origin],
        "program only": [s for s in ground.seeds if "program" in s.origin],
    }.get(strategy, ())
    if strategy in ("seeds alone", "ladder only", "program only"):
        return [ground.truth.candidate(n, s.plan, s.origin) for n, s in enumerate(seeds)][:trials]
    sampler = {"random": "random", "NSGA-II": "nsga2", "ours": GUIDED}.get(strategy, "tpe")
    asks = Strategy(
        ground.blocks if strategy == _BY_BLOCK else ground.space,
        tuple(seeds),
        objectives=ground.job.goals,
        limits=ground.limits,
        sampler=sampler,
        seed=seed,
        proposer=ground.build_guide() if sampler == GUIDED else None,  # type: ignore[arg-type]
    )
    found: list[Candidate] = []
    while len(found) < trials:
        asked = [asks.ask() for _ in range(min(ROUND, trials - len(found)))]
        told = [ground.truth.candidate(a.number, a.plan, a.origin) for a in asked if a is not None]
        if not told:
            break
        asks.tell(told)
        found += told
    return found


def losses_of(candidates: Sequence[Candidate]) -> np.ndarray:
    """Both axes, lower is better."""
    return np.array(
        [[-min(c.value("sqnr_db"), CEILING_DB), -c.value("speedup")] for c in candidates]
    ).reshape(len(candidates), 2)


def every_plan(space: SearchSpace) -> Iterator[Plan]:
    """All plans of a small space."""
    for schemes in itertools.product(*(knob.schemes for knob in space.knobs)):
        yield space.plan({k.name: s for k, s in zip(space.knobs, schemes, strict=True)})


_SMALL = "digits, 6 knobs"
_SIX_GROUPS = [
    ["stem*", "blocks.0.expand*"],
    ["blocks.0.depthwise*", "blocks.0.excite*", "blocks.0.project*", "blocks.0:*"],
    ["blocks.1.expand*", "blocks.1.depthwise*", "blocks.1.excite.gate*"],
    ["blocks.1.excite:*", "blocks.1.project*"],
    ["blocks.2.expand*", "blocks.2.depthwise*", "blocks.2.excite.gate*"],
    ["blocks.2.excite:*", "blocks.2.project*", "blocks.2:*", "head*"],
]
"""Few enough knobs that every plan can be measured."""

_BY_BLOCK = "TPE over blocks"
STRATEGIES = (
    "random",
    "TPE",
    _BY_BLOCK,
    "NSGA-II",
    "ladder only",
    "program only",
    "seeds alone",
    "TPE, our seeds",
    "ours",
)
_SEEDED_ONCE = ("ladder only", "program only", "seeds alone")


def compare(ground: Ground, seeds: int, trials: int) -> list[Row]:
    """Run all strategies on one model."""
    runs: dict[str, list[list[Candidate]]] = {}
    for strategy in STRATEGIES:
        repeats = 1 if strategy in _SEEDED_ONCE else seeds
        started = time.perf_counter()
        runs[strategy] = [search(ground, strategy, seed, trials) for seed in range(repeats)]
        print(f"{ground.name}, {strategy}: {time.perf_counter() - started:.0f} s", flush=True)
        ground.truth.save()
    everything = [c for found in runs.values() for run in found for c in run]
    if ground.is_small:
        everything += [ground.truth.candidate(0, p, "every") for p in every_plan(ground.space)]
        ground.truth.save()
    reference_losses = losses_of(everything)
    corner = reference_losses.max(axis=0)
    whole = hypervolume(reference_losses, corner)
    rows: list[Row] = []
    for strategy, repeats_found in runs.items():
        shares = [
            [hypervolume(losses_of(run[: i + 1]), corner) / whole for i in range(len(run))]
            for run in repeats_found
        ]
        row: dict[str, str | float | int] = {"model": ground.name, "strategy": strategy}
        for count in CHECKPOINTS:
            at = [share[min(count, len(share)) - 1] * 100 for share in shares]
            reached = all(len(share) < count for share in shares)
            row[f"at {count}"] = "" if reached else _spread(at)
        for target in (0.95, 0.99):
            row[f"to {target:.0%}"] = _reached(shares, target)
        rows.append(row)
    return rows


def _spread(values: Sequence[float]) -> str:
    """Median, with the range where there are several."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def _reached(shares: Sequence[Sequence[float]], target: float) -> str:
    """Median number of evaluations to a share; `never` where most runs do not get there."""
    counts = [next((i + 1 for i, v in enumerate(s) if v >= target), None) for s in shares]
    ordered = sorted(float("inf") if item is None else item for item in counts)
    middle = ordered[(len(ordered) - 1) // 2]
    return "never" if middle == float("inf") else str(int(middle))


def jobs(folder: Path | None) -> Iterator[tuple[str, Job]]:
    """The models by name."""
    common = ["backend.engine=onednn", "backend.pairs=5", "constraints.accuracy_drop=null"]
    digits = ROOT / "experiments" / "digits.yaml"
    few_knobs = f"space={{schemes: [int8, bf16, fp32], groups: {_SIX_GROUPS}}}"
    yield _SMALL, load_job(digits, [*common, few_knobs])
    yield "digits", load_job(digits, common)
    if folder is None:
        print("ResNet-20 is skipped: --folder names no folder with its data")
        return
    data = [f"model.arguments.folder={folder}", f"data.arguments.folder={folder}"]
    entry = f"{ROOT}/experiments/resnet20.py:evaluation"
    few_images = f"data.evaluation={{entry: '{entry}', arguments: {{samples: 512}}}}"
    resnet20 = ROOT / "experiments" / "resnet20_cifar10.yaml"
    yield "ResNet-20", load_job(resnet20, [*common, *data, few_images])


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="the CIFAR-10 folder")
    parser.add_argument("--records", type=Path, default=Path(__file__).parent / "records")
    parser.add_argument("--only", default="", help="one model, by its name")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    folder = None if arguments.folder is None else arguments.folder.resolve()
    for name, job in jobs(folder):
        if arguments.only not in ("", name):
            continue
        ground = lay(name, job, arguments.records)
        free = ground.space.free
        print(f"{ground.name}: {len(free)} free knobs, {ground.space.plan_count:.3g} plans")
        rows += compare(ground, arguments.seeds, arguments.trials)
    show("search_efficiency", rows, arguments.json)


if __name__ == "__main__":
    main()
