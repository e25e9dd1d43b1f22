"""Ranges settled before the first candidate: what `mix` takes at each site."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from autoquant.core.build import BuildSettings
from autoquant.core.progress import Progress
from autoquant.core.sites import LOOKUPS, RECURRENT
from autoquant.core.statistics import CalibrationStatistics, ObserverName
from autoquant.errors import JobError
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.data.batches import Batch, take_samples
from autoquant.model.data.outputs import OutputWeights, named_outputs
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.site_nodes import SiteNodes, mark_sites
from autoquant.model.numerics.rounding_power import powers_of_samples
from autoquant.searching.measuring.evaluator import MeasurementSettings

MIX_SAMPLES = 64
"""Calibration samples on which the observers of `mix` are compared."""


def settle_ranges(
    settings: MeasurementSettings,
    captured: Capture,
    statistics: CalibrationStatistics,
    calibration: Sequence[Batch],
    progress: Progress,
) -> MeasurementSettings:
    """Choose the observers of the sites with `mix`."""
    before = dict(settings.build.ranges.sites)
    observers = {
        site.name: before.get(site.name, settings.build.observer) for site in captured.sites
    }
    if ObserverName.MIX not in observers.values():
        return settings
    if captured.how != "export":
        raise JobError(
            "calibration.observer: mix chooses by reference numerics, and the model was captured "
            "module by module",
            hint="name one observer",
        )
    batches = take_samples(calibration, MIX_SAMPLES)
    with progress.stage("choosing observers", sum(map(len, batches))) as advance:
        chosen = choose_observers(captured, statistics, settings.build, batches, advance)
    mixed = {
        name: chosen[name]
        for name, observer in observers.items()
        if observer is ObserverName.MIX and name in chosen
    }
    sites = tuple((before | mixed).items())
    return settings.building(ranges=replace(settings.build.ranges, sites=sites))


CANDIDATES = tuple(item for item in ObserverName if item is not ObserverName.MIX)
_CHUNK = 16
_DRAWS = 4
_CLEARLY = 0.1
_Grids = Mapping[ObserverName, Grid]


def choose_observers(
    captured: Capture,
    statistics: CalibrationStatistics,
    settings: BuildSettings,
    batches: Sequence[Batch],
    progress: Callable[[int], None] = lambda samples: None,
) -> dict[str, ObserverName]:
    """Choose each site's observer by the output error of the tensors whose range it finds in int8.

    To first order: with random signs v at the outputs, g = J^T v, and E[(g . d)^2] = ||J d||^2
    for the rounding error d of a tensor (Hutchinson's estimator; Avron and Toledo, J. ACM 58(2),
    2011, section 2). The errors of one channel are summed before they are squared, so that
    clipping, which moves all of them the same way, counts with its sign; `rounding_power` has the
    equation. A site decides for what it writes, and for what it is the first to read where no
    site writes that (inputs of the model).

    What it cannot see: errors so large that the network answers them nonlinearly.

    Returns:
        By site; a site whose tensors no other reads in static int8 has none. `histogram` stands
        unless another has a tenth less error, since estimates on few samples are that uncertain.
    """
    marked = mark_sites(captured)
    settings = replace(settings, ranges=replace(settings.ranges, sites=(), fixed=(), own=()))
    ranges = {
        item: TensorRanges(captured, statistics, replace(settings, observer=item))
        for item in CANDIDATES
    }
    owners = dict(_owners(marked, ranges[ObserverName.HISTOGRAM]))
    grids: dict[Node, _Grids] = {
        node: {item: found.int8_grid(node.name) for item, found in ranges.items()}
        for node in owners
    }
    powers: dict[str, dict[ObserverName, float]] = defaultdict(lambda: defaultdict(float))
    draw = torch.Generator().manual_seed(0)
    for batch in batches:
        for part in Batch(batch.inputs, axes=batch.axes).parts(_CHUNK):
            backward = _Backward(marked.module, owners)
            for node, value, gradients in backward.run_back(part.inputs, draw):
                for item, power in _powers(grids[node], value, gradients):
                    powers[owners[node]][item] += power
            progress(len(part))
    return {name: _best(found) for name, found in powers.items()}


def _owners(marked: SiteNodes, ranges: TensorRanges) -> Iterator[tuple[Node, str]]:
    """By tensor that a site reads on a grid, the site whose observer decides its range."""
    by_name = {node.name: node for node in marked.nodes}
    for root, operands in marked.operands.items():
        if marked.roots[root].kind in LOOKUPS | RECURRENT:
            continue
        for read in operands.reads:
            owner = ranges.owner(read.name)
            if owner is not None and read.op != "get_attr" and ranges.knows(read.name):
                yield by_name[ranges.source(read.name)], owner


def _powers(
    grids: _Grids, value: Tensor, gradients: Sequence[Tensor]
) -> Iterator[tuple[ObserverName, float]]:
    """What each observer's rounding error of a tensor does at the outputs, over samples."""
    known: dict[Grid, float] = {}
    for item, how in grids.items():
        if how not in known:
            powers = powers_of_samples(how, value, gradients, len(value))
            known[how] = sum(float(power.sum()) for power in powers)
        yield item, known[how]


def _best(powers: Mapping[ObserverName, float]) -> ObserverName:
    """The observer of least power; `histogram` unless it is clearly beaten."""
    best = min(CANDIDATES, key=powers.__getitem__)
    first = ObserverName.HISTOGRAM
    return best if powers[best] < (1.0 - _CLEARLY) * powers[first] else first


class _Backward(Interpreter):
    """Runs the float graph once, and back from its outputs to some of its tensors."""

    def __init__(self, graph: GraphModule, wanted: Container[Node]) -> None:
        super().__init__(graph)
        self._wanted = wanted
        self._values: dict[Node, Tensor] = {}

    def run_back(
        self, inputs: tuple[Tensor, ...], draw: torch.Generator
    ) -> Iterator[tuple[Node, Tensor, list[Tensor]]]:
        """Give each wanted tensor with its gradient for each draw of signs."""
        with torch.enable_grad():
            named = named_outputs(self.run(*inputs), detached=False)
        scales = OutputWeights().scales(named)
        outputs = [value for value in named.values() if value.requires_grad]
        if not outputs:
            return
        units = [scales[name] for name, value in named.items() if value.requires_grad]
        drawn: list[Sequence[Tensor | None]] = []
        for _ in range(_DRAWS):
            signs = [
                (torch.randint(0, 2, leaf.shape, generator=draw).to(leaf.dtype) * 2 - 1) * unit
                for leaf, unit in zip(outputs, units, strict=True)
            ]
            drawn.append(
                torch.autograd.grad(
                    outputs,
                    list(self._values.values()),
                    signs,
                    retain_graph=True,
                    allow_unused=True,
                )
            )
        for (node, value), *gradients in zip(self._values.items(), *drawn, strict=True):
            found = [item for item in gradients if isinstance(item, Tensor)]
            yield node, value.detach(), found

    def run_node(self, n: Node) -> Any:
        """Run one node; what is wanted of it takes part in the way back."""
        value = super().run_node(n)
        if n in self._wanted and isinstance(value, Tensor):
            value = value if value.requires_grad else value.detach().requires_grad_()
            self._values[n] = value
        return value
