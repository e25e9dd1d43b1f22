"""Timed plans -> a cost for every choice and every boundary, seen or not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoquant.backends.boundaries import Edge, Parts
from autoquant.core.costs import CostTable
from autoquant.core.measurement import Kind
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import SearchSpace

Floats = npt.NDArray[np.float64]
Pair = tuple[Scheme, Scheme]

_NOISE_TO_CONTEXT = 0.25
"""Variance of an op's time from plan to plan over that of what its inputs' formats do to it."""


@dataclass(frozen=True, slots=True, eq=False)
class TimedPlan:
    """A plan and where its time went."""

    plan: Plan
    parts: Parts


def fit_costs(
    timed: Sequence[TimedPlan],
    space: SearchSpace,
    edges: Iterable[Edge],
    elements: Mapping[str, int],
) -> CostTable:
    """Fit the additive costs that the timed plans agree on best.

    An op's cost is the mean of its times over the plans that chose its scheme. How its inputs
    arrive changes it (int8 kernels write channels last, and a float op after them runs faster
    on that): what a writer's scheme adds or takes, shrunk towards nothing, is part of the
    boundary. So a boundary costs its conversions plus what it does to its reader, and may be
    negative. What no plan shows is filled in. An op: by its cost in its most precise scheme
    times the ratio that the two schemes have elsewhere, or one where no plan has the scheme: the
    engine refused them all. A boundary: by a line in the tensor's
    size, fitted over the boundaries of the same pair of schemes.

    Args:
        timed: At least one plan.
        space: What may be chosen.
        edges: From `find_edges`.
        elements: By site, the elements that it writes.

    Raises:
        ValueError: A site was seen in no scheme.
    """
    allowed = {site: knob.schemes for knob in space.knobs for site in knob.sites}
    listed = tuple(edges)
    writers: dict[str, list[str]] = defaultdict(list)
    for writer, reader in listed:
        writers[reader].append(writer)
    ops: dict[tuple[str, Scheme], float] = {}
    added: dict[Edge, dict[Pair, float]] = {edge: {} for edge in listed}
    for site, schemes in allowed.items():
        for scheme in schemes:
            shown = [item for item in timed if item.plan[site] is scheme]
            if shown:
                ops[site, scheme], contexts = _op_cost(shown, site, writers[site])
                for (writer, before), cost in contexts.items():
                    added[writer, site][before, scheme] = cost
    _fill_ops(ops, allowed)
    lines = _conversion_lines(timed, listed, elements)
    costs = {
        edge: _edge_costs(edge, timed, allowed, added[edge], lines, elements[edge[0]])
        for edge in listed
    }
    rest = float(np.median([item.parts.rest for item in timed]))
    return CostTable(rest, ops, costs, Kind.MEASURED, "ms")


def _op_cost(
    shown: Sequence[TimedPlan], site: str, writers: Sequence[str]
) -> tuple[float, dict[tuple[str, Scheme], float]]:
    """An op's mean time, and what each writer's scheme adds to it, by ridge regression."""
    times = np.array([item.parts.ops.get(site, 0.0) for item in shown])
    mean = float(times.mean())
    columns = list(
        dict.fromkeys((writer, item.plan[writer]) for item in shown for writer in writers)
    )
    if len(shown) < 2 or not columns:
        return mean, {}
    present = np.array(
        [[float(item.plan[writer] is scheme) for writer, scheme in columns] for item in shown]
    )
    gram = present.T @ present + _NOISE_TO_CONTEXT * np.eye(len(columns))
    effects = np.linalg.solve(gram, present.T @ (times - mean))
    return mean, dict(zip(columns, effects.tolist(), strict=True))


def _fill_ops(
    ops: dict[tuple[str, Scheme], float], allowed: Mapping[str, tuple[Scheme, ...]]
) -> None:
    """Fill in the ops that no plan shows, in place."""
    seen = dict(ops)
    for site, schemes in allowed.items():
        for scheme in (item for item in schemes if (site, item) not in seen):
            known = [item for item in schemes if (site, item) in seen]
            ratios = [
                cost / seen[other, known[-1]]
                for (other, found), cost in seen.items()
                if known and found is scheme and seen.get((other, known[-1]))
            ]
            if not known:
                raise ValueError(f"no timed plan shows what {site!r} costs")
            ratio = float(np.median(ratios)) if ratios else 1.0  # no plan with it could be built
            ops[site, scheme] = seen[site, known[-1]] * ratio


def _conversion_lines(
    timed: Sequence[TimedPlan], edges: Sequence[Edge], elements: Mapping[str, int]
) -> dict[Pair, tuple[float, float]]:
    """By pair of schemes, milliseconds of a conversion and milliseconds of each element."""
    points: dict[Pair, list[tuple[int, float]]] = defaultdict(list)
    for item in timed:
        for writer, reader in edges:
            pair = item.plan[writer], item.plan[reader]
            cost = item.parts.edges.get((writer, reader), 0.0)
            points[pair].append((elements[writer], cost))
    return {pair: _line(np.array(found, dtype=np.float64)) for pair, found in points.items()}


def _line(points: Floats) -> tuple[float, float]:
    """Intercept and slope of a line through (size, cost), neither of them negative."""
    sizes, costs = points[:, 0], points[:, 1]
    if np.unique(sizes).size > 1:
        slope, intercept = np.polyfit(sizes, costs, 1)
        if slope >= 0.0 and intercept >= 0.0:
            return float(intercept), float(slope)
    return 0.0, float(costs.sum() / max(sizes.sum(), 1.0))


def _edge_costs(
    edge: Edge,
    timed: Sequence[TimedPlan],
    allowed: Mapping[str, tuple[Scheme, ...]],
    added: Mapping[Pair, float],
    lines: Mapping[Pair, tuple[float, float]],
    size: int,
) -> dict[Pair, float]:
    """What each pair of schemes costs on one edge."""
    writer, reader = edge
    seen: dict[Pair, list[float]] = defaultdict(list)
    for item in timed:
        seen[item.plan[writer], item.plan[reader]].append(item.parts.edges.get(edge, 0.0))
    found: dict[Pair, float] = {}
    for before in allowed[writer]:
        for after in allowed[reader]:
            pair = before, after
            if pair in seen:
                conversion = float(np.mean(seen[pair]))
            else:
                intercept, slope = lines.get(pair, (0.0, 0.0))
                conversion = intercept + slope * size
            found[pair] = conversion + added.get(pair, 0.0)
    return found
