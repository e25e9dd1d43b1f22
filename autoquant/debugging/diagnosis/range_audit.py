"""Audits the grid of every tensor against what calibration saw and what a data set holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from autoquant.core.findings.range_audit import Clipping, RangeAudit
from autoquant.core.sites import Site
from autoquant.core.statistics import CalibrationStatistics
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.data.batches import Batch
from autoquant.model.graph.aten import hands_on
from autoquant.model.graph.same_values import value_sources
from autoquant.model.graph.site_nodes import SiteNodes
from autoquant.model.graph.watched import Watched


def audit_ranges(
    marked: SiteNodes,
    statistics: CalibrationStatistics,
    grids: Mapping[str, Grid],
    batches: Iterable[Batch],
    progress: Callable[[int], None] = lambda samples: None,
) -> tuple[RangeAudit, ...]:
    """Run the float model over a data set and see what each grid would clip.

    Keeps sums: memory does not depend on how many samples there are.
    """
    sums = {name: _Sums() for name in grids}
    samples = 0

    def add(node: Node, value: object) -> None:
        if node.name in grids and isinstance(value, Tensor) and value.numel():
            sums[node.name].add(value, grids[node.name], samples)

    run = Watched(marked.module, add)
    with torch.no_grad():
        for batch in batches:
            run.run(*batch.inputs)
            samples += len(batch)
            progress(len(batch))
    return tuple(_audits(marked, statistics, grids, sums))


@dataclass(slots=True)
class _Sums:
    low: float = float("inf")
    high: float = float("-inf")
    energy: float = 0.0
    squares: float = 0.0
    worst: int = 0
    worst_energy: float = -1.0
    samples: int = 0
    elements: int = 0

    def add(self, value: Tensor, grid: Grid, first: int) -> None:
        """Take in one batch whose first sample has the index `first`."""
        rows = value.reshape(len(value), -1)
        beyond = (rows - rows.clamp(grid.lowest, grid.highest)).double()
        energies = beyond.square().sum(1)
        low, high = rows.aminmax()
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        self.energy += float(energies.sum())
        self.squares += float(energies.square().sum())
        self.samples += len(rows)
        self.elements += rows.numel()
        place = int(energies.argmax())
        if float(energies[place]) > self.worst_energy:
            self.worst, self.worst_energy = first + place, float(energies[place])

    def finish(self) -> Clipping:
        return Clipping(
            self.low, self.high, self.energy, self.squares, self.worst, self.samples, self.elements
        )


def _writer(marked: SiteNodes, node: Node) -> Site | None:
    """The site that writes a tensor, or what it is a part of; None: it comes from an input."""
    while node not in marked.lasts and node.all_input_nodes and hands_on(node):
        node = node.all_input_nodes[0]
    return marked.lasts.get(node)


def _audits(
    marked: SiteNodes,
    statistics: CalibrationStatistics,
    grids: Mapping[str, Grid],
    sums: Mapping[str, _Sums],
) -> Iterable[RangeAudit]:
    sources = value_sources(marked.module)
    readers: dict[str, list[str]] = defaultdict(list)
    for root, site in marked.roots.items():
        for source in marked.operands[root].reads:
            readers[sources.get(source.name, source.name)].append(site.name)
    for node in marked.nodes:
        grid, seen = grids.get(node.name), statistics.tensors.get(node.name)
        if grid is None or seen is None or not sums[node.name].elements:
            continue
        writer = _writer(marked, node)
        yield RangeAudit(
            tensor=node.name,
            site=writer.name if writer is not None else None,
            readers=tuple(dict.fromkeys(readers[sources.get(node.name, node.name)])),
            low=grid.lowest,
            high=grid.highest,
            step=grid.scale,
            seen=seen,
            clipping=sums[node.name].finish(),
        )
