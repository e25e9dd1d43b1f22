"""Estimates of a few plans -> additive costs of every op and every boundary."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoquant.backends.ethos_u.attribution import Edge, Parts
from autoquant.core.costs import CostTable
from autoquant.core.measurement import Kind
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.space import SearchSpace

Pair = tuple[Scheme, Scheme]
Floats = npt.NDArray[np.float64]

_MOST_READERS = 6
"""Readers of one tensor that are told apart; those beyond pay for a conversion of their own."""


@dataclass(frozen=True, slots=True, eq=False)
class EstimatedPlan:
    """A plan, and where its cycles go."""

    plan: Plan
    parts: Parts


def fit_costs(estimated: Sequence[EstimatedPlan], space: SearchSpace) -> CostTable:
    """Find the additive costs of estimated plans, in cycles.

    An op costs the mean of what it took in the plans that chose its scheme. A boundary costs
    what conversions of its direction took. One conversion serves all readers of a tensor that
    want its result, so what a tensor costs depends on all its readers at once:
    c(w, s) if any reader takes scheme s, w being the writer's. A table of pairs cannot say that;
    the nearest one (in least squares over all choices of writer and readers) also has costs
    between readers, and is exact where both directions cost the same.

    Args:
        estimated: Plans that between them show every choice and every boundary.
        space: What may be chosen.

    Raises:
        ValueError: No plan chose some scheme of some site.
    """
    knob_of = {site: knob.name for knob in space.knobs for site in knob.sites}
    allowed = {site: knob.schemes for knob in space.knobs for site in knob.sites}
    ops = {
        (site, scheme): _mean_op(estimated, site, scheme)
        for site, schemes in allowed.items()
        for scheme in schemes
    }
    edges: dict[Edge, dict[Pair, float]] = defaultdict(lambda: defaultdict(float))
    for writer, observed in _by_writer(estimated, knob_of).items():
        sites = (writer, *observed.readers)
        for edge, pairs in _pairwise(observed, tuple(allowed[site] for site in sites)).items():
            for pair, cycles in pairs.items():
                edges[sites[edge[0]], sites[edge[1]]][pair] += cycles
    rest = float(np.mean([item.parts.rest for item in estimated]))
    frozen = {edge: dict(pairs) for edge, pairs in edges.items()}
    return CostTable(rest, ops, frozen, Kind.ESTIMATED, "cycles")


def _mean_op(estimated: Iterable[EstimatedPlan], site: str, scheme: Scheme) -> float:
    shown = [item.parts.ops.get(site, 0) for item in estimated if item.plan[site] is scheme]
    if not shown:
        raise ValueError(f"no plan shows {site!r} in {scheme.value}")
    return float(np.mean(shown))


@dataclass(frozen=True, slots=True, eq=False)
class _Conversions:
    """What was seen of the conversions of one writer's tensor.

    Attributes:
        readers: One site for each knob that reads a converted tensor.
        shared: By schemes of writer and readers, cycles of the conversion for all of them.
        own: By reader, then by scheme, cycles of a change of scale within one scheme.
    """

    readers: tuple[str, ...]
    shared: Mapping[Pair, float]
    own: Mapping[str, Mapping[Scheme, float]]


def _by_writer(
    estimated: Iterable[EstimatedPlan], knob_of: Mapping[str, str]
) -> dict[str, _Conversions]:
    """Gather conversions by the site that writes; readers of one knob count as one."""
    readers: dict[str, dict[str, str]] = defaultdict(dict)
    shared: dict[str, dict[Pair, list[int]]] = defaultdict(lambda: defaultdict(list))
    own: dict[str, dict[tuple[str, Scheme], list[int]]] = defaultdict(lambda: defaultdict(list))
    for item in estimated:
        for conversion in item.parts.conversions:
            writer = conversion.writer
            for reader in conversion.readers:
                readers[writer].setdefault(knob_of[reader], reader)
            before, after = item.plan[writer], item.plan[conversion.readers[0]]
            if before is after:
                reader = readers[writer][knob_of[conversion.readers[0]]]
                own[writer][reader, before].append(conversion.cycles)
            else:
                shared[writer][before, after].append(conversion.cycles)
    found = {}
    for writer, by_knob in readers.items():
        same: dict[str, dict[Scheme, float]] = defaultdict(dict)
        for (reader, scheme), cycles in own[writer].items():
            same[reader][scheme] = float(np.mean(cycles))
        means = {pair: float(np.mean(cycles)) for pair, cycles in shared[writer].items()}
        found[writer] = _Conversions(tuple(by_knob.values()), means, same)
    return found


def _pairwise(
    observed: _Conversions, schemes: tuple[tuple[Scheme, ...], ...]
) -> dict[tuple[int, int], dict[Pair, float]]:
    """The pair costs nearest to what a tensor's conversions cost; index 0 is the writer."""
    count = min(len(schemes), 1 + _MOST_READERS)
    choices = list(itertools.product(*schemes[:count]))
    columns = [
        (edge, pair)
        for edge in itertools.combinations(range(count), 2)
        for pair in itertools.product(schemes[edge[0]], schemes[edge[1]])
        if edge[0] == 0 or pair[0] is not pair[1]
    ]
    design = np.array(
        [[(choice[a], choice[b]) == pair for (a, b), pair in columns] for choice in choices],
        dtype=np.float64,
    )
    target = np.array([_conversion_cycles(observed, choice) for choice in choices])
    solved = np.linalg.lstsq(design, target, rcond=None)[0]
    found: dict[tuple[int, int], dict[Pair, float]] = defaultdict(dict)
    for (edge, pair), cycles in zip(columns, solved, strict=True):
        found[edge][pair] = float(cycles)
    for beyond in range(count, len(schemes)):
        found[0, beyond] = dict(observed.shared)
    return found


def _conversion_cycles(observed: _Conversions, choice: tuple[Scheme, ...]) -> float:
    """What the conversions of a tensor cost, given the schemes of writer and readers."""
    writer, *readers = choice
    wanted = set(readers) - {writer}
    kept = [
        observed.own.get(site, {}).get(writer, 0.0)
        for site, scheme in zip(observed.readers, readers, strict=False)
        if scheme is writer
    ]
    return sum(observed.shared.get((writer, scheme), 0.0) for scheme in wanted) + sum(kept)
