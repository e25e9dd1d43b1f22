"""Estimates of a few plans -> additive costs of every op and every boundary."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoquant.backends.litert.ethos_u.attribution import Edge, Parts
from autoquant.core.costs import CostTable
from autoquant.core.measurement import Kind
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import SearchSpace

Pair = tuple[Scheme, Scheme]
Floats = npt.NDArray[np.float64]

_MOST_READERS = 6
"""Readers of one value that share a conversion in the table; more count as several values."""


@dataclass(frozen=True, slots=True, eq=False)
class EstimatedPlan:
    """A plan, and where its cycles go."""

    plan: Plan
    parts: Parts


def fit_costs(
    estimated: Sequence[EstimatedPlan], space: SearchSpace, edges: Iterable[Edge]
) -> CostTable:
    """Find the additive costs of estimated plans, in cycles.

    An op costs what it takes among neighbours of its own scheme. What a neighbour of another
    scheme changes (a pad or an add that Vela can no longer fuse with it) is part of the boundary
    to that neighbour; least squares over the plans tell both apart.

    A boundary also costs what conversions of its direction took. One conversion serves all
    readers of a tensor that want its result, so what a tensor costs depends on all its readers at
    once:
    c(w, s) if any reader takes scheme s, w being the writer's. A table of pairs cannot say that;
    the nearest one (in weighted least squares over all choices of writer and readers) also has
    costs between readers, and is exact where both directions cost the same.

    Args:
        estimated: Plans that between them show every choice and every boundary.
        space: What may be chosen.
        edges: (writing site, reading site).

    Raises:
        ValueError: No plan chose some scheme of some site.
    """
    knob_of = {site: knob.name for knob in space.knobs for site in knob.sites}
    allowed = {site: knob.schemes for knob in space.knobs for site in knob.sites}
    between = [edge for edge in edges if knob_of[edge[0]] != knob_of[edge[1]]]
    ops: dict[tuple[str, Scheme], float] = {}
    costs: dict[Edge, dict[Pair, float]] = defaultdict(lambda: defaultdict(float))
    for site, schemes in allowed.items():
        near = [edge for edge in between if site in edge]
        for scheme in schemes:
            ops[site, scheme], changes = _op_cost(estimated, site, scheme, near, allowed)
            for (edge, pair), cycles in changes.items():
                costs[edge][pair] += cycles
    for (writer, _), observed in _by_value(estimated, knob_of).items():
        for knobs in _groups(tuple(observed.readers)):
            sites = (writer, *(observed.readers[knob] for knob in knobs))
            schemes_of = tuple(allowed[site] for site in sites)
            for (first, second), pairs in _pairwise(observed, knobs, schemes_of).items():
                for pair, cycles in pairs.items():
                    costs[sites[first], sites[second]][pair] += cycles
    rest = float(np.mean([item.parts.rest for item in estimated]))
    frozen = {edge: dict(pairs) for edge, pairs in costs.items()}
    return CostTable(rest, ops, frozen, Kind.ESTIMATED, "cycles")


def _op_cost(
    estimated: Iterable[EstimatedPlan],
    site: str,
    scheme: Scheme,
    near: Sequence[Edge],
    allowed: Mapping[str, tuple[Scheme, ...]],
) -> tuple[float, dict[tuple[Edge, Pair], float]]:
    """Cycles of an op under a scheme, and what neighbours of other schemes add to them."""
    shown = [item for item in estimated if item.plan[site] is scheme]
    if not shown:
        raise ValueError(f"no plan shows {site!r} in {scheme.value}")
    columns = [
        (edge, (other, scheme) if edge[1] == site else (scheme, other))
        for edge in near
        for other in allowed[edge[0] if edge[1] == site else edge[1]]
        if other is not scheme
    ]
    design = np.array(
        [
            [1.0, *((item.plan[a], item.plan[b]) == pair for (a, b), pair in columns)]
            for item in shown
        ],
        dtype=np.float64,
    )
    solved = _solve(design, np.array([item.parts.ops.get(site, 0) for item in shown], np.float64))
    return float(solved[0]), dict(zip(columns, solved[1:].tolist(), strict=True))


def _solve(design: Floats, target: Floats) -> Floats:
    """Least squares; where several are equally good, the smallest."""
    return np.asarray(np.linalg.lstsq(design, target, rcond=None)[0], dtype=np.float64)


class _Conversions:
    """What was seen of the conversions of one value; readers of one knob count as one."""

    def __init__(self) -> None:
        self.readers: dict[str, str] = {}
        """By knob, one of its sites."""
        self._seen: dict[tuple[Pair, frozenset[str]], list[int]] = defaultdict(list)

    def add(self, pair: Pair, knobs: Mapping[str, str], cycles: int) -> None:
        """Note what a conversion took, for the readers of some knobs."""
        for knob, site in knobs.items():
            self.readers.setdefault(knob, site)
        self._seen[pair, frozenset(knobs)].append(cycles)

    def cycles(self, knobs: Sequence[str], choice: tuple[Scheme, ...]) -> float:
        """What those for some knobs take, given the schemes of the writer and of these."""
        writer, *schemes = choice
        total = 0.0
        for scheme in dict.fromkeys(schemes):
            wanting = frozenset(k for k, s in zip(knobs, schemes, strict=True) if s is scheme)
            total += self._of((writer, scheme), wanting)
        return total

    def _of(self, pair: Pair, wanting: frozenset[str]) -> float:
        """The cycles seen for these readers; else those for any; within a scheme for each."""
        if (pair, wanting) in self._seen:
            return float(np.mean(self._seen[pair, wanting]))
        known = {readers: c for (p, readers), c in self._seen.items() if p == pair}
        if pair[0] is pair[1]:
            return float(sum(np.mean(c) for readers, c in known.items() if readers <= wanting))
        return float(np.mean([np.mean(c) for c in known.values()])) if known else 0.0


def _by_value(
    estimated: Iterable[EstimatedPlan], knob_of: Mapping[str, str]
) -> dict[tuple[str, str], _Conversions]:
    """Gather conversions by writing site and value."""
    found: dict[tuple[str, str], _Conversions] = defaultdict(_Conversions)
    for item in estimated:
        for conversion in item.parts.conversions:
            pair = (item.plan[conversion.writer], item.plan[conversion.readers[0]])
            knobs = {knob_of[reader]: reader for reader in reversed(conversion.readers)}
            found[conversion.writer, conversion.value].add(pair, knobs, conversion.cycles)
    return found


def _groups(knobs: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Readers that are looked at together: all, or so many that their choices can be listed."""
    for start in range(0, len(knobs), _MOST_READERS):
        yield knobs[start : start + _MOST_READERS]


def _pairwise(
    observed: _Conversions, knobs: Sequence[str], schemes: tuple[tuple[Scheme, ...], ...]
) -> dict[tuple[int, int], dict[Pair, float]]:
    """The pair costs nearest to what a value's conversions cost; index 0 is the writer."""
    choices = list(itertools.product(*schemes))
    columns = [
        (edge, pair)
        for edge in itertools.combinations(range(len(schemes)), 2)
        for pair in itertools.product(schemes[edge[0]], schemes[edge[1]])
        if edge[0] == 0 or pair[0] is not pair[1]
    ]
    design = np.array(
        [[(choice[a], choice[b]) == pair for (a, b), pair in columns] for choice in choices],
        dtype=np.float64,
    )
    target = np.array([observed.cycles(knobs, choice) for choice in choices], np.float64)
    weights = np.sqrt(np.array([_weight(choice, len(choices)) for choice in choices]))
    solved = _solve(design * weights[:, None], target * weights)
    found: dict[tuple[int, int], dict[Pair, float]] = defaultdict(dict)
    for (edge, pair), cycles in zip(columns, solved, strict=True):
        found[edge][pair] = float(cycles)
    return found


def _weight(choice: tuple[Scheme, ...], choices: int) -> float:
    """How much a squared error counts: good plans have few boundaries, however many choices."""
    _, *readers = choice
    if len(set(choice)) == 1:
        return choices * 2
    return choices / 2 if len(set(readers)) == 1 else 1.0
