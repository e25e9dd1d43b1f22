"""A cost table as numbers: its terms, the terms of each plan, and how alike two plans are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_FEW = 8
_READER_SHARE = 0.1
"""How far a boundary may be off beside its own cost, as a share of the op that reads there: the
layout in which a tensor arrives changes the speed of its reader."""


@dataclass(frozen=True, eq=False)
class CostTerms:
    """The terms of a table, numbered: ops first, then pairs of schemes on edges, then "nothing".

    Attributes:
        table: What they are the terms of.
        costs: Shape (m + 1,): of each term; the last one is the pair that costs nothing.
        spreads: Shape (m + 1,): what a relative error of 1 means for each term.
        groups: Shape (m + 1,): terms that may be off by one factor together: the ops of a
            scheme, the boundaries of a pair of schemes.
        ops: Term of each site and scheme.
        edges: By edge, term of each pair.
    """

    table: CostTable
    costs: Floats
    spreads: Floats
    groups: Ints
    ops: dict[tuple[str, Scheme], int]
    edges: tuple[tuple[tuple[str, str], dict[tuple[Scheme, Scheme], int]], ...]

    @property
    def nothing(self) -> int:
        """The term of a pair that the table does not list."""
        return len(self.costs) - 1

    def of(self, plan: Plan) -> Ints:
        """Number the terms of one plan: shape (sites + edges,); a place is the same in all plans.

        Raises:
            KeyError: The table lacks a site of the plan under the plan's scheme.
        """
        schemes = dict(plan.assignment)
        chosen = [self.ops[item] for item in plan.assignment]
        chosen += [
            pairs.get((schemes[writer], schemes[reader]), self.nothing)
            for (writer, reader), pairs in self.edges
        ]
        return np.array(chosen, dtype=np.int64)

    def rows(self, plans: Sequence[Plan]) -> Ints:
        """Number the terms of several plans; those of the last call are not numbered again.

        Raises:
            KeyError: As for `of`.
        """
        known = self._numbered
        rows = [known[p.digest] if p.digest in known else self.of(p) for p in plans]
        known.clear()
        known.update({plan.digest: row for plan, row in zip(plans, rows, strict=True)})
        return np.stack(rows)

    def own_kernel(self, rows: Ints, columns: Ints) -> Floats:
        """Covariance of plans' costs when each term is off by itself, by 100%.

        Args:
            rows: Shape (p, k), from `of`.
            columns: Shape (q, k).

        Returns:
            Shape (p, q). O(p q k) time.
        """
        if len(columns) < len(rows):
            return np.asarray(self.own_kernel(columns, rows).T)
        if len(rows) <= _FEW:
            variances = self.spreads**2
            return np.array([((row == columns) * variances[row]).sum(axis=1) for row in rows])
        return np.asarray(self._loads(rows) @ self._loads(columns).T)

    def shared_parts(self, rows: Ints) -> Floats:
        """Shape (p, groups): how much of each plan's cost each group has."""
        count = int(self.groups.max()) + 1
        places = self.groups[rows] + count * np.arange(len(rows))[:, None]
        parts = np.bincount(
            places.ravel(), weights=self.costs[rows].ravel(), minlength=count * len(rows)
        )
        return np.asarray(parts.reshape(len(rows), count), dtype=np.float64)

    def pulls(self, rows: Ints, weights: Floats) -> Floats:
        """Shape (m + 1,): the sum of the weights of the plans that each term is part of."""
        spread = np.repeat(weights, rows.shape[1])
        pulled = np.bincount(rows.ravel(), weights=spread, minlength=len(self.costs))
        return np.asarray(pulled, dtype=np.float64)

    def _loads(self, rows: Ints) -> Floats:
        """Shape (p, m + 1): the spread of each plan's terms, 0 of others."""
        found = np.zeros((len(rows), len(self.costs)))
        np.put_along_axis(found, rows, self.spreads[rows], axis=1)
        return found

    @cached_property
    def _numbered(self) -> dict[str, Ints]:
        return {}


@lru_cache(maxsize=8)
def number_terms(table: CostTable) -> CostTerms:
    """Number the terms of a table; of one table once."""
    costs: list[float] = []
    spreads: list[float] = []
    groups: list[int] = []
    known: dict[object, int] = {}
    ops: dict[tuple[str, Scheme], int] = {}
    edges: list[tuple[tuple[str, str], dict[tuple[Scheme, Scheme], int]]] = []

    def add(cost: float, spread: float, group: object) -> int:
        costs.append(cost)
        spreads.append(spread)
        groups.append(known.setdefault(group, len(known)))
        return len(costs) - 1

    for (site, scheme), cost in table.ops.items():
        ops[site, scheme] = add(cost, abs(cost), scheme)
    for (writer, reader), pairs in table.edges.items():
        edges.append(((writer, reader), {}))
        for (before, after), cost in pairs.items():
            spread = abs(cost) + _READER_SHARE * abs(table.ops.get((reader, after), 0.0))
            edges[-1][1][before, after] = add(cost, spread, (before, after))
    add(0.0, 0.0, None)
    arrays = np.array(costs), np.array(spreads), np.array(groups, dtype=np.int64)
    for array in arrays:
        array.setflags(write=False)
    return CostTerms(table, *arrays, ops, tuple(edges))
