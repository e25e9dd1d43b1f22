"""The additive model as an integer program: knobs and schemes as columns, limits as rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from autoquant.core.costs import CostTable, PairCosts
from autoquant.core.precision import Scheme
from autoquant.core.space import Knob, SearchSpace

if TYPE_CHECKING:
    from scipy import sparse

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Losses = Mapping[tuple[str, Scheme], float]

_NOTHING = 1e-12
"""Edge costs below this share of their table's largest are rounding, not costs."""


@dataclass(frozen=True)
class Limit:
    """A bound that every plan must keep.

    Attributes:
        name: What is bounded, for messages: `size`, `share of int16`.
        costs: Its additive costs, over knobs.
        bound: The most that a plan may have, in the unit of `costs`.
    """

    name: str
    costs: CostTable
    bound: float


@dataclass(frozen=True, eq=False)
class Program:
    """Columns x[k, s] (knob k takes scheme s), then y[e, s, t] (both ends of an edge).

    The edges are in the tight form of the local marginal polytope (Wainwright and Jordan, 2008,
    section 4.1): sum_t y[e, s, t] = x[k, s] and sum_s y[e, s, t] = x[l, t]. Whole x make whole y.

    Attributes:
        space: What the knobs are.
        options: Knob index and scheme of each x.
        pairs: Knob indices of each edge, the smaller first.
        losses: Shape (columns,): what a sweep minimizes.
        costs: Shape (rows, columns): the costs of the sweep, then those of each limit.
        constants: Shape (rows,): what every plan has of each.
        limits: The limits of the rows from the second on.
        equalities: What ties the columns together; `equalities @ columns == targets`.
        targets: Right-hand sides.
        allowed: Shape (columns,): False where a loss or a cost is not finite.
    """

    space: SearchSpace
    options: tuple[tuple[int, Scheme], ...]
    pairs: tuple[tuple[int, int], ...]
    losses: Floats
    costs: Floats
    constants: Floats
    limits: tuple[Limit, ...]
    equalities: sparse.csr_matrix
    targets: Floats
    allowed: Mask

    @property
    def bounds(self) -> Floats:
        """Shape (rows,): the limits' bounds; the sweep's costs have none."""
        return np.array([math.inf, *(limit.bound for limit in self.limits)])

    def columns(self, choices: Mapping[str, Scheme]) -> Floats:
        """Give the 0 and 1 of every column of a plan."""
        index = {option: column for column, option in enumerate(self.options)}
        chosen = [index[i, choices[knob.name]] for i, knob in enumerate(self.space.knobs)]
        starts = _starts(self.space.knobs)
        found = np.zeros(len(self.losses))
        found[chosen] = 1.0
        start = len(self.options)
        for first, second in self.pairs:
            width = len(self.space.knobs[second].schemes)
            row, column = chosen[first] - starts[first], chosen[second] - starts[second]
            found[start + row * width + column] = 1.0
            start += len(self.space.knobs[first].schemes) * width
        return found

    def choices(self, columns: Floats) -> dict[str, Scheme]:
        """Read each knob's scheme off the columns: the one nearest to 1."""
        best: dict[int, tuple[float, Scheme]] = {}
        for (knob, scheme), value in zip(self.options, columns, strict=False):
            if knob not in best or value > best[knob][0]:
                best[knob] = (float(value), scheme)
        return {self.space.knobs[knob].name: scheme for knob, (_, scheme) in best.items()}


def build_program(
    space: SearchSpace, losses: Losses, costs: CostTable, limits: Sequence[Limit] = ()
) -> Program:
    """Write the additive model of a space as an integer program.

    What an edge costs by one of its ends alone is moved to that end; edges of which nothing is
    left get no columns. Pinned knobs have one column, so all their edges go this way.

    Args:
        space: The knobs.
        losses: By knob and scheme; a missing one is 0, one that is not finite is forbidden.
        costs: What a sweep bounds, over knobs (`CostTable.by_knob`).
        limits: What every plan must keep, over knobs.
    """
    tables = (costs, *(limit.costs for limit in limits))
    folded = [_fold(space, table) for table in tables]
    pairs = tuple(sorted(set(itertools.chain.from_iterable(edges for _, edges in folded))))
    options = tuple((i, scheme) for i, knob in enumerate(space.knobs) for scheme in knob.schemes)
    rows = [
        np.concatenate([*own, *(edges.get(pair, _zeros(space, pair)).ravel() for pair in pairs)])
        for own, edges in folded
    ]
    noise = np.zeros(len(rows[0]))
    noise[: len(options)] = [_loss(space.knobs[i], scheme, losses) for i, scheme in options]
    stacked = np.stack(rows)
    allowed = np.isfinite(noise) & np.isfinite(stacked).all(axis=0)
    equalities, targets = _equalities(space.knobs, pairs)
    return Program(
        space=space,
        options=options,
        pairs=pairs,
        losses=np.where(allowed, noise, 0.0),
        costs=np.where(allowed, stacked, 0.0),
        constants=np.array([table.constant for table in tables]),
        limits=tuple(limits),
        equalities=equalities,
        targets=targets,
        allowed=allowed,
    )


def _loss(knob: Knob, scheme: Scheme, losses: Losses) -> float:
    """Loss of one option; what is pinned is taken even where its loss is not finite."""
    loss = losses.get((knob.name, scheme), 0.0)
    return loss if math.isfinite(loss) or len(knob.schemes) > 1 else 0.0


def _fold(
    space: SearchSpace, table: CostTable
) -> tuple[list[Floats], dict[tuple[int, int], Floats]]:
    """Costs by knob, and what edges cost beyond them; no row or column of an edge is free of 0."""
    own = [
        np.array([table.ops[knob.name, scheme] for scheme in knob.schemes]) for knob in space.knobs
    ]
    edges = _merge(space, table.edges)
    largest = max((float(np.abs(costs).max()) for costs in edges.values()), default=0.0)
    kept = {}
    for (first, second), costs in edges.items():
        by_first = costs.min(axis=1)
        rest = costs - by_first[:, None]
        by_second = rest.min(axis=0)
        rest -= by_second[None, :]
        own[first] = own[first] + by_first
        own[second] = own[second] + by_second
        rest[np.abs(rest) <= _NOTHING * largest] = 0.0
        if rest.any():
            kept[first, second] = rest
    return own, kept


def _merge(space: SearchSpace, edges: PairCosts) -> dict[tuple[int, int], Floats]:
    """Edges by knob indices, the smaller first; both directions of a pair are added up."""
    index = {knob.name: i for i, knob in enumerate(space.knobs)}
    merged: dict[tuple[int, int], Floats] = {}
    for (writer, reader), pairs in edges.items():
        first, second = index[writer], index[reader]
        costs = np.array(
            [
                [pairs.get((before, after), 0.0) for after in space.knobs[second].schemes]
                for before in space.knobs[first].schemes
            ]
        )
        if first > second:
            first, second, costs = second, first, costs.T
        merged[first, second] = merged.get((first, second), 0.0) + costs
    return merged


def _zeros(space: SearchSpace, pair: tuple[int, int]) -> Floats:
    first, second = (space.knobs[i].schemes for i in pair)
    return np.zeros((len(first), len(second)))


def _equalities(
    knobs: Sequence[Knob], pairs: Sequence[tuple[int, int]]
) -> tuple[sparse.csr_matrix, Floats]:
    """One scheme for each knob, and y that agree with their x."""
    from scipy import sparse

    triples = list(_triples(knobs, pairs))
    rows, columns, values = (np.array(items) for items in zip(*triples, strict=True))
    matrix = sparse.csr_matrix((values, (rows, columns)))
    targets = np.zeros(matrix.shape[0])
    targets[: len(knobs)] = 1.0
    return matrix, targets


def _triples(
    knobs: Sequence[Knob], pairs: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int, float]]:
    """Row, column and value of every coefficient."""
    starts = _starts(knobs)
    for i, knob in enumerate(knobs):
        for s in range(len(knob.schemes)):
            yield i, starts[i] + s, 1.0
    row, column = len(knobs), starts[-1]
    for first, second in pairs:
        height, width = len(knobs[first].schemes), len(knobs[second].schemes)
        for s in range(height):
            yield row + s, starts[first] + s, -1.0
        for t in range(width):
            yield row + height + t, starts[second] + t, -1.0
        for s in range(height):
            for t in range(width):
                yield row + s, column + s * width + t, 1.0
                yield row + height + t, column + s * width + t, 1.0
        row += height + width
        column += height * width


def _starts(knobs: Sequence[Knob]) -> list[int]:
    """First column of each knob, and the number of all."""
    return [0, *itertools.accumulate(len(knob.schemes) for knob in knobs)]
