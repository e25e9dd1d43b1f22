"""Scales of int8 activations that training learns (Esser et al., ICLR 2020, LSQ)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from autoquant.core.plan import Plan
from autoquant.core.ranges import OwnRange
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.site_nodes import SiteNodes
from autoquant.model.numerics.rounding import Format, SchemeRounding

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
