"""What the controller spends on each trial, from the first to the last of a very long search.

    python scripts/bench/scale.py --knobs 1000 --trials 10000 --sampler tpe

The evaluator is made up: additive noise and latency, in no time. Everything else is what a search
uses: strategy, pruner, result folder, and with --mlflow an SQLite store. Then the search is opened
again as `--resume` does.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from report import Row, show

from autoquant.core.costs import CostTable
from autoquant.core.evaluation import IsOver, Outcome, Phase, Task, never
from autoquant.core.frontier import find_frontier
from autoquant.core.history import Past
from autoquant.core.measurement import Candidate, Kind, Measurement, Measurements
from autoquant.core.objectives import Objective
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.readback import Ran
from autoquant.core.space import Knob, SearchSpace
from autoquant.job import Budget, Constraints
from autoquant.results import files
from autoquant.results.findings import SearchFacts
from autoquant.results.folder import ResultFolder
from autoquant.results.mlflow.background import BackgroundTracker
from autoquant.results.mlflow.store import TrackingSettings, open_recorder
from autoquant.results.recorders import JointRecorder, Tracker
from autoquant.searching.costing.cost_model import CostModel
from autoquant.searching.costing.forecast import Forecast
from autoquant.searching.proposing.constraints import Limits
from autoquant.searching.proposing.guided import CostAxis, Guide
from autoquant.searching.proposing.pruner import Pruner
from autoquant.searching.proposing.rounds import Rounds
from autoquant.searching.proposing.sampled import GUIDED, SAMPLERS
from autoquant.searching.proposing.strategy import Strategy
from autoquant.searching.proposing.study import write_study
from autoquant.searching.seeding.seeds import Seed

COST = {Scheme.INT8: 0.3, Scheme.INT16: 0.9, Scheme.BF16: 0.6, Scheme.FP32: 1.0}
NOISE = {Scheme.INT8: 1.0, Scheme.INT16: 2e-4, Scheme.BF16: 3e-3, Scheme.FP32: 1e-9}
OBJECTIVES = (Objective.OUTPUT_ERROR, Objective.LATENCY)
BASELINE_MS = 20.0
PARTS = ("ask and tell", "of which sampler", "of which history", "pruner", "history", "mlflow")


class Truth:
    """Additive noise and cost of every knob: the evaluator, and what foresees latency."""

    def __init__(self, knobs: int) -> None:
        draw = random.Random(0)
        self.space = SearchSpace(
            tuple(
                Knob(f"layer{i:05}.conv", (f"layer{i:05}.conv",), tuple(COST)) for i in range(knobs)
            )
        )
        self._noise = {knob.name: draw.lognormvariate(-7, 2) for knob in self.space.knobs}
        self._work = {knob.name: draw.lognormvariate(0, 1) for knob in self.space.knobs}
        self._whole = sum(self._work.values())

    def run(
        self, phase: Phase, tasks: Iterable[Task], is_over: IsOver = never
    ) -> Iterator[Outcome]:
        """Measure plans; the executed schemes are read back as from an engine."""
        for task in tasks:
            if is_over():
                return
            if phase is Phase.LATENCY:
                yield Outcome(task.number, self._latency(task.plan, Kind.MEASURED))
                continue
            executed = {site: Ran(scheme) for site, scheme in task.plan.assignment}
            yield Outcome(task.number, self._quality(task.plan), executed=executed)

    def close(self) -> None:
        """Nothing to stop."""

    def costs(self) -> CostTable:
        """Milliseconds, somewhat wrong, as a profile gives them."""
        draw = random.Random(1)
        return self._table(
            self._work, COST, lambda: draw.uniform(0.9, 1.1) * BASELINE_MS / self._whole
        )

    def noise(self) -> CostTable:
        """Noise, somewhat wrong, as a sensitivity table gives it."""
        draw = random.Random(2)
        return self._table(self._noise, NOISE, lambda: draw.uniform(0.7, 1.4))

    def _table(
        self,
        of_knobs: Mapping[str, float],
        of_schemes: Mapping[Scheme, float],
        error: Callable[[], float],
    ) -> CostTable:
        ops = {
            (knob, scheme): first * second * error()
            for knob, first in of_knobs.items()
            for scheme, second in of_schemes.items()
        }
        return CostTable(0.0, ops)

    def _quality(self, plan: Plan) -> Measurements:
        noise = sum(self._noise[site] * NOISE[scheme] for site, scheme in plan.assignment)
        drop = 0.1 * math.tanh(noise)
        values = {
            "sqnr_db": -10 * math.log10(noise),
            "accuracy": 0.9 - drop,
            "accuracy_drop": drop,
            "kl": noise,
            "size_bytes": 1e6,
        }
        return {name: Measurement(v, Kind.EMULATED, 0.001, 512) for name, v in values.items()}

    def _latency(self, plan: Plan, kind: Kind) -> Measurements:
        share = sum(self._work[site] * COST[scheme] for site, scheme in plan.assignment)
        share /= self._whole
        return {
            "latency_ms": Measurement(BASELINE_MS * share, kind, 0.01, 20),
            "speedup": Measurement(1 / share, kind, 0.02 / share, 20),
        }


class Meter:
    """Seconds by part and by stretch of trials, and the memory at the end of each."""

    def __init__(self, stretch: int) -> None:
        self.stretch = stretch
        self.seconds: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.mebibytes: dict[int, float] = {}
        self.worked: dict[int, float] = defaultdict(float)
        self.last = time.process_time()
        self.trial = 0

    def timed(self, owner: Any, method: str, part: str) -> None:
        """Time every call of a method."""
        setattr(owner, method, partial(self._call, getattr(owner, method), part))

    def candidate(self, candidate: Candidate) -> None:
        """Note how far the search is."""
        now = time.process_time()
        self.worked[self.trial // self.stretch] += now - self.last
        self.last, self.trial = now, candidate.number
        self.mebibytes[self.trial // self.stretch] = resident_mebibytes()

    def row(self, stretch: int) -> Row:
        """Milliseconds of a trial by part, in one stretch."""
        seconds = self.seconds[stretch]
        row: dict[str, str | float | int] = {
            "trials": f"{stretch * self.stretch} to {(stretch + 1) * self.stretch}"
        }
        row |= {part: 1e3 * seconds[part] / self.stretch for part in PARTS}
        row["all, ms"] = sum(
            1e3 * seconds[part] / self.stretch for part in PARTS if "of which" not in part
        )
        row["of CPU, with the evaluator"] = 1e3 * self.worked[stretch] / self.stretch
        row["memory, MiB"] = self.mebibytes[stretch]
        return row

    def _call(self, function: Callable[..., Any], part: str, *args: Any, **keywords: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **keywords)
        finally:
            spent = time.perf_counter() - started
            self.seconds[self.trial // self.stretch][part] += spent


def resident_mebibytes() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_search(
    arguments: argparse.Namespace,
    truth: Truth,
    folder: ResultFolder,
    tracker: Tracker,
    meter: Meter,
    past: Past | None = None,
) -> Rounds:
    """Put a search together, as `autoquant.searching.search` does."""
    limits = Limits(Constraints(accuracy_drop=0.02), {})
    seeds = [Seed(truth.space.uniform(scheme), f"seed:uniform-{scheme.value}") for scheme in COST]
    costs = truth.costs()
    axis = CostAxis(Objective.LATENCY, CostModel(costs), baseline_ms=BASELINE_MS)
    guide = Guide(truth.space, CostModel(truth.noise()), axis)
    strategy = Strategy(
        truth.space,
        seeds,
        objectives=OBJECTIVES,
        limits=limits,
        sampler=arguments.sampler,
        seed=0,
        past=past,
        log=folder,
        proposer=guide if arguments.sampler == GUIDED else None,
    )
    pruner = Pruner(
        OBJECTIVES,
        limits,
        Forecast(truth.space, lambda plan: {}, CostModel(costs), BASELINE_MS),
    )
    for method in ("ask", "tell"):
        meter.timed(strategy, method, "ask and tell")
    for method in ("asked", "told"):
        meter.timed(folder, method, "of which history")
    for proposer in strategy._proposers:
        meter.timed(proposer, "propose", "of which sampler")
        meter.timed(proposer, "observe", "of which sampler")
    for method in ("learn", "settle", "bar", "prune_latency"):
        meter.timed(pruner, method, "pruner")
    return Rounds(
        strategy,
        truth,
        phases=(Phase.QUALITY, Phase.LATENCY),
        budget=Budget(trials=arguments.trials, round_size=8),
        known=() if past is None else past.candidates,
        pruner=pruner,
        recorder=JointRecorder((folder, tracker, meter)),
        clock=time.monotonic,
    )


def open_tracker(folder: Path, wanted: bool) -> Tracker:
    """Open an SQLite store beside the folder, or none."""
    if not wanted:
        return Tracker()
    facts = SearchFacts(
        search_id="scale", name="scale", metric="none", target="none", max_drop=0.02, settings={}
    )
    settings = TrackingSettings(f"sqlite:///{folder / 'mlflow.db'}", "scale")
    return BackgroundTracker(open_recorder(settings, facts, "", {}))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--knobs", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=10000)
    parser.add_argument("--sampler", choices=sorted(SAMPLERS), default="tpe")
    parser.add_argument("--mlflow", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    truth = Truth(arguments.knobs)
    meter = Meter(max(1, arguments.trials // 10))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "out"
        with closing(ResultFolder.create(path)) as folder:
            tracker = open_tracker(Path(scratch), arguments.mlflow)
            meter.timed(tracker, "candidate", "mlflow")
            meter.timed(folder, "candidate", "history")
            search = open_search(arguments, truth, folder, tracker, meter)
            started = time.perf_counter()
            history = search.run()
            print(f"{len(history.candidates)} trials in {time.perf_counter() - started:.0f} s")
            started = time.perf_counter()
            tracker.stop("finished")
            print(f"tracker: {time.perf_counter() - started:.1f} s behind")
        started = time.perf_counter()
        frontier = find_frontier(history.candidates, {}, OBJECTIVES)
        print(f"frontier of {len(frontier)}: {time.perf_counter() - started:.2f} s")
        started = time.perf_counter()
        limits = Limits(Constraints(accuracy_drop=0.02), {})
        write_study(path / files.STUDY, truth.space, OBJECTIVES, limits, history.candidates)
        print(f"study: {time.perf_counter() - started:.1f} s")
        for name in (files.HISTORY, files.STUDY):
            print(f"{name}: {(path / name).stat().st_size / 2**20:.1f} MiB")
        del history, search, frontier
        started = time.perf_counter()
        with closing(ResultFolder.resume(path)) as folder:
            tracker = open_tracker(Path(scratch), arguments.mlflow)
            past = folder.past()
            for candidate in past.candidates:
                tracker.candidate(candidate)
            open_search(arguments, truth, folder, tracker, meter, past)
            print(f"resume: {time.perf_counter() - started:.1f} s")
            tracker.stop("finished")
    show("scale", [meter.row(0), meter.row(9)], arguments.json)


if __name__ == "__main__":
    main()
