"""How long the additive model's whole frontier takes, by the number of knobs.

    python scripts/bench/program.py --knobs 50 200 1000

Made-up models: a chain of knobs with skip edges, four schemes each, 20 points. Costs and losses
are spread as in convolutional networks: log-normal, losses over ten decades.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Mapping
from pathlib import Path

from report import Row, show

from autoquant.core.costs import CostTable
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace
from autoquant.searching.seeding.program.sweep import sweep_frontier

COST = {Scheme.INT8: 0.3, Scheme.INT16: 0.9, Scheme.BF16: 0.6, Scheme.FP32: 1.0}
NOISE = {Scheme.INT8: 1.0, Scheme.INT16: 2e-4, Scheme.BF16: 3e-3, Scheme.FP32: 0.0}


def made_up(
    knobs: int, skips: float, seed: int
) -> tuple[SearchSpace, Mapping[tuple[str, Scheme], float], CostTable]:
    """Give a space, its losses and its costs; `skips` edges a knob beside the chain."""
    draw = random.Random(seed)
    names = [f"k{i:05}" for i in range(knobs)]
    space = SearchSpace(tuple(Knob(name, (name,), tuple(COST)) for name in names))
    ops, losses = {}, {}
    for name in names:
        work, noise = draw.lognormvariate(0, 1), draw.lognormvariate(-7, 2)
        for scheme, cost in COST.items():
            ops[name, scheme] = work * cost * draw.uniform(0.8, 1.25)
            losses[name, scheme] = noise * NOISE[scheme] * draw.lognormvariate(0, 0.5)
    ends = [(i, i + 1) for i in range(knobs - 1)]
    for _ in range(round(skips * knobs)):
        start = draw.randrange(knobs - 5)
        ends.append((start, start + draw.randint(2, 5)))
    edges = {}
    for first, second in ends:
        size = 0.15 * draw.lognormvariate(0, 1)
        edges[names[first], names[second]] = {
            (before, after): size * draw.uniform(0.5, 1.5)
            for before in COST
            for after in COST
            if before is not after
        }
    return space, losses, CostTable(0.0, ops, edges)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--knobs", type=int, nargs="+", default=[50, 200, 1000])
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--skips", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[Row] = []
    for knobs in arguments.knobs:
        space, losses, costs = made_up(knobs, arguments.skips, arguments.seed)
        started, worked = time.perf_counter(), time.process_time()
        points = sweep_frontier(space, losses, costs, points=arguments.points)
        rows.append(
            {
                "knobs": knobs,
                "edges": len(costs.edges),
                "points": len(points),
                "s": time.perf_counter() - started,
                "s of CPU": time.process_time() - worked,
                "widest gap": max(point.gap for point in points),
                "least loss above 0": min(point.loss for point in points if point.loss > 0),
                "greatest loss": max(point.loss for point in points),
            }
        )
    show("program", rows, arguments.json)


if __name__ == "__main__":
    main()
