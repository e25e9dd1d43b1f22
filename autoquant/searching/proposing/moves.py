"""Plans as rows of option numbers, and the plans that a pair of additive tables suggests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import SearchSpace

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]

_SWEEPS = 3


@dataclass(frozen=True, eq=False)
class DenseTable:
    """An additive table over the free knobs of a space, as arrays.

    Attributes:
        constant: What every plan costs, pinned knobs included.
        ops: Shape (knobs, options); infinite where a knob has fewer options.
        edges: By pair of knobs: shape (options of the first, options of the second).
    """

    constant: float
    ops: Floats
    edges: Mapping[tuple[int, int], Floats]

    def predict(self, rows: Rows) -> Floats:
        """Cost of each plan; rows of shape (plans, knobs)."""
        total = self.ops[np.arange(self.ops.shape[0]), rows].sum(axis=1) + self.constant
        for (first, second), costs in self.edges.items():
            total += costs[rows[:, first], rows[:, second]]
        return np.asarray(total)


class Options:
    """The free knobs of a space, numbered, and their schemes, numbered."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._knobs = space.free
        self._pinned = {k.name: k.schemes[0] for k in space.knobs if len(k.schemes) == 1}
        self._index = {knob.name: index for index, knob in enumerate(self._knobs)}
        self.counts: Rows = np.array([len(knob.schemes) for knob in self._knobs], dtype=np.intp)

    def row(self, choices: Mapping[str, Scheme]) -> Rows:
        """Number a plan's choices."""
        return np.array([k.schemes.index(choices[k.name]) for k in self._knobs], dtype=np.intp)

    def plan(self, row: Rows) -> Plan:
        """Give the plan of a row."""
        chosen = {
            knob.name: knob.schemes[number] for knob, number in zip(self._knobs, row, strict=True)
        }
        return self._space.plan({**self._pinned, **chosen})

    def dense(self, table: CostTable) -> DenseTable:
        """Turn a table over knobs into arrays; what pinned knobs cost becomes constant."""
        width = int(self.counts.max(initial=1))
        ops = np.full((len(self._knobs), width), np.inf)
        for index, knob in enumerate(self._knobs):
            ops[index, : len(knob.schemes)] = [table.ops[knob.name, s] for s in knob.schemes]
        constant = table.constant + sum(table.ops[item] for item in self._pinned.items())
        edges: dict[tuple[int, int], Floats] = {}
        for (writer, reader), pairs in table.edges.items():
            first, second = self._index.get(writer), self._index.get(reader)
            costs = np.zeros((width, width))
            for (before, after), cost in pairs.items():
                rows = self._numbers(writer, before)
                columns = self._numbers(reader, after)
                if rows is not None and columns is not None:
                    costs[rows, columns] += cost
            if first is None and second is None:
                constant += float(costs[0, 0])
            elif second is None:
                ops[first] += costs[:, 0]
            elif first is None:
                ops[second] += costs[0]
            else:
                edges[first, second] = edges.get((first, second), 0.0) + costs
        return DenseTable(constant, ops, edges)

    def _numbers(self, knob: str, scheme: Scheme) -> int | None:
        """Number of a scheme of a knob (0 for a pinned one); None where it is not allowed."""
        if knob in self._pinned:
            return 0 if self._pinned[knob] is scheme else None
        schemes = self._knobs[self._index[knob]].schemes
        return schemes.index(scheme) if scheme in schemes else None


def trade_rows(
    noise: DenseTable, cost: DenseTable, count: int, random: np.random.Generator
) -> Rows:
    """Plans that minimize noise + weight * cost, for `count` weights drawn from their range.

    Each minimum is found by changing one knob at a time, from the minimum without boundaries on:
    exact without boundaries, else a local one.

    Returns:
        Shape (count, knobs).
    """
    weights = _draw_weights(noise.ops, cost.ops, count, random)
    rows = np.stack([(noise.ops + weight * cost.ops).argmin(axis=1) for weight in weights])
    neighbours: dict[int, list[tuple[int, Floats]]] = {}
    for (first, second), costs in cost.edges.items():
        neighbours.setdefault(first, []).append((second, costs.T))
        neighbours.setdefault(second, []).append((first, costs))
    for _ in range(_SWEEPS):
        before = rows.copy()
        for knob, around in neighbours.items():
            boundary = sum(costs[rows[:, other]] for other, costs in around)
            total = noise.ops[knob] + weights[:, None] * (cost.ops[knob] + boundary)
            rows[:, knob] = total.argmin(axis=1)
        if (before == rows).all():
            break
    return rows


def _draw_weights(noise: Floats, cost: Floats, count: int, random: np.random.Generator) -> Floats:
    """Weights, log-uniform between the least and the largest noise per cost of any change."""
    with np.errstate(invalid="ignore"):  # infinity minus infinity, where options are missing
        gains = noise[:, :, None] - noise[:, None, :]
        prices = cost[:, None, :] - cost[:, :, None]
    useful = np.isfinite(gains) & np.isfinite(prices) & (gains > 0) & (prices > 0)
    if not useful.any():
        return np.ones(count)
    slopes = gains[useful] / prices[useful]
    return np.asarray(np.exp(random.uniform(np.log(slopes.min()), np.log(slopes.max()), count)))


def neighbour_rows(
    rows: Rows, counts: Rows, count: int, random: np.random.Generator
) -> tuple[Rows, Rows]:
    """Plans that differ from a given one in one knob, or in two.

    Args:
        rows: Shape (plans, knobs): where to start from.
        counts: Shape (knobs,): options of each knob.
        count: How many to draw.
        random: Decides.

    Returns:
        Shape (count, knobs), and which row each started from, shape (count,).
    """
    origins = random.integers(len(rows), size=count)
    moved = rows[origins].copy()
    for changes in (np.arange(count), np.arange(0, count, 2)):
        knobs = random.integers(len(counts), size=len(changes))
        shifts = 1 + random.integers(np.maximum(counts[knobs] - 1, 1))
        moved[changes, knobs] = (moved[changes, knobs] + shifts) % counts[knobs]
    return moved, origins
