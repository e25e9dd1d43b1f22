"""The rounded twin of a plan: what is trained computes as the engine will, in float."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from autoquant.backends.targets import reference_rounding
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.ranges import OwnRange
from autoquant.core.statistics import CalibrationStatistics
from autoquant.finetuning.training.weights import TrainableWeights
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.site_nodes import SiteNodes, mark_sites
from autoquant.model.graph.tensor_paths import take
from autoquant.model.numerics.rounded_graph import TrainableGraph, choices_of
from autoquant.model.numerics.rounding import Format, SchemeRounding

SCALES = "scales."
"""What the names of learned scales begin with."""


class Twin:
    """A plan by reference numerics over trainable weights.

    Tensors are rounded where quantized ops read them, weights after batch norms are folded into
    them. Sites in fp32 are left alone. Everything runs in eval mode: no dropout, and batch norms on
    running statistics.
    """

    def __init__(
        self,
        captured: Capture,
        plan: Plan,
        settings: BuildSettings,
        weights: TrainableWeights,
        *,
        learns: bool = False,
    ) -> None:
        self.weights = weights
        self.scales: LearnedScales | None = None
        self._learns = learns
        self._captured = captured
        self._plan = plan
        self._settings = settings
        self._run: _Run | None = None
        self._statistics: CalibrationStatistics | None = None

    def take_ranges(self, statistics: CalibrationStatistics) -> None:
        """Round activations on the scales that calibration found."""
        rounding = reference_rounding(self._captured, statistics, self._settings)
        marked = mark_sites(self._captured)
        if self._learns and self.scales is None:
            ranges = TensorRanges(self._captured, statistics, self._settings)
            self.scales = LearnedScales(marked, self._plan, rounding, ranges)
        self._run = _Run(marked, rounding, choices_of(self._plan))
        self._run.scales = self.scales
        self._statistics = statistics

    def trainable(self) -> dict[str, nn.Parameter]:
        """What is trained, by name: the model's parameters, and scales as `scales.<tensor>`."""
        learned = {} if self.scales is None else self.scales.parameters
        scales = {f"{SCALES}{name}": item for name, item in learned.items()}
        return self.weights.trainable() | scales

    def kept(self) -> dict[str, Tensor]:
        """What a checkpoint holds, by name: what is trained, and statistics that follow it."""
        return {**self.trainable(), **self.weights.statistics()}

    @property
    def settings(self) -> BuildSettings:
        """What decides how tensors are rounded, with the ranges that were learned."""
        if self.scales is None:
            return self._settings
        learned = self.scales.found
        known = {item.tensor for item in learned}
        kept = (item for item in self._settings.ranges.own if item.tensor not in known)
        ranges = replace(self._settings.ranges, own=(*kept, *learned))
        return replace(self._settings, ranges=ranges)

    @property
    def statistics(self) -> CalibrationStatistics:
        """The ranges that it rounds on."""
        if self._statistics is None:
            raise ValueError("take_ranges comes first")
        return self._statistics

    def calibrate(self, batches: Sequence[tuple[Tensor, ...]]) -> None:
        """Calibrate the float model with the weights as they are now, and take the ranges."""
        graph = _with_constants(self._captured.graph, self.weights.constants())
        current = replace(self._captured, graph=graph)
        self.take_ranges(calibrate(current, batches))

    def __call__(self, inputs: tuple[Tensor, ...]) -> Any:
        """Compute outputs; gradients reach the weights."""
        if self._run is None:
            raise ValueError("take_ranges comes first")
        self._run.constants = self.weights.constants()
        try:
            return self._run.run(*inputs)
        finally:
            self._run.constants = {}


class _Run(TrainableGraph):
    """Reads the graph's constants from a mapping."""

    constants: Mapping[str, Tensor] = {}
    scales: LearnedScales | None = None

    def round(self, source: Node, how: Format, value: Tensor) -> Tensor:
        """Round what a node gives, at the scale that was learned where there is one."""
        found = None if self.scales is None else self.scales.round(source.name, how, value)
        return super().round(source, how, value) if found is None else found

    def run_node(self, n: Node) -> Any:
        """Run one node."""
        if n.op == "get_attr" and str(n.target) in self.constants:
            return self.constants[str(n.target)]
        return super().run_node(n)


def _with_constants(graph: GraphModule, constants: Mapping[str, Tensor]) -> GraphModule:
    """A copy of a float graph that holds these values."""
    copied = copy.deepcopy(graph)
    held = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    with torch.no_grad():
        for path, value in constants.items():
            if path in held:
                take(copied, path).copy_(value)
    return copied


_LEAST = float(torch.finfo(torch.float32).eps)
_BYTE = 255


class LearnedScales:
    """One scale for each tensor that the plan rounds to int8; zero points stay.

    Where a definition or the job fixes a range, it stays.
    """

    def __init__(
        self, marked: SiteNodes, plan: Plan, rounding: SchemeRounding, ranges: TensorRanges
    ) -> None:
        self._ranges = ranges
        self._grids = {
            ranges.source(tensor): how
            for tensor, how in _formats(marked, plan, rounding)
            if isinstance(how, Grid) and how.high <= _BYTE and ranges.is_observed(tensor)
        }
        self.parameters: Mapping[str, nn.Parameter] = {
            tensor: nn.Parameter(torch.tensor(grid.scale)) for tensor, grid in self._grids.items()
        }

    def round(self, tensor: str, how: Format, value: Tensor) -> Tensor | None:
        """Round a tensor at its learned scale; None: it has none.

        Equations 1 to 3: clipped values pass no gradient to what was rounded, and all pass one to
        the scale, times 1 / sqrt(elements x levels) (section 2.2).
        """
        source = self._ranges.source(tensor)
        grid = self._grids.get(source)
        if grid is None or how != grid:
            return None
        scale = self.parameters[source].abs().clamp_min(_LEAST)
        share = 1.0 / math.sqrt(value.numel() * grid.high)
        scale = (scale - scale * share).detach() + scale * share
        steps = (value / scale).clamp(grid.low - grid.zero_point, grid.high - grid.zero_point)
        return (steps + (steps.round() - steps).detach()) * scale

    @property
    def found(self) -> tuple[OwnRange, ...]:
        """The range of each tensor at its scale as it is now."""
        return tuple(
            OwnRange(
                tensor,
                (grid.low - grid.zero_point) * scale,
                (grid.high - grid.zero_point) * scale,
            )
            for tensor, grid in self._grids.items()
            for scale in [max(abs(float(self.parameters[tensor].detach())), _LEAST)]
        )


def _formats(
    marked: SiteNodes, plan: Plan, rounding: SchemeRounding
) -> Iterator[tuple[str, Format | None]]:
    """Every tensor that an op of the plan rounds, and how."""
    for root, site in marked.roots.items():
        for read in marked.operands[root].reads:
            yield read.name, rounding.read_format(site, plan[site.name], read.name)
    for last, site in marked.lasts.items():
        yield last.name, rounding.write_format(site, plan[site.name], last.name)
