"""Which tensors have a range that cannot be right, by what the numbers of bits say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from autoquant.core.findings.diagnosis import Cause
from autoquant.core.findings.range_audit import RangeAudit, widths
from autoquant.core.plan import Plan
from autoquant.core.sites import TRANSPOSED, Site
from autoquant.model.calibration.ranges.grid import Grid
from autoquant.model.graph.site_nodes import SiteNodes
from autoquant.model.graph.tensor_paths import take
from autoquant.model.numerics.rounding import SchemeRounding
from autoquant.model.numerics.weight_grids import WeightGrid

CLIP_RATIO = 4.0
"""Clipping is suspect when it loses four times what rounding does: more than a bit. A range of
least squared error has a ratio near 1."""
REACH = 2.0
"""And only where the data reach twice as far as the range. The extreme of n normal values grows
like sqrt(2 ln n): from a thousand to a billion values by 1.7, so a fair sample never does."""
LOST = 8.0
"""A range is suspect when it is eight times what the median channel or sample needs: three of
eight bits, so that five are left (32 levels, 18 dB less). Finer grids may be as much wider."""
WIDE = 4.0
"""A range may be four times what a function can tell apart, two bits, before it must be cut."""
FEW = 0.05
"""Share of the samples or channels below which they are few: outliers."""
FLAT = 8.0
"""Beyond +-8 a sigmoid or a tanh is within a sixth of an int8 step of its limit
(1 - sigmoid(8) = 0.0003)."""


@dataclass(frozen=True, slots=True, eq=False)
class Suspect:
    """A cause, and what mending it would do to the ranges.

    Attributes:
        cause: What may be wrong.
        audits: The tensors it is wrong at, in execution order.
        mended: By tensor, the grid that it would have; None: it needs a scale for each sample, or
            more bits.
        raised: Ops that need more bits, with their weights: what is large in an activation is
            small in the weights that read it.
        weights: Ops whose weights need a scale for each channel.
        samples: Indices of the samples that are to blame; empty where none is.
        ratio: How far a weight's range is beyond what its median channel needs; 0 for others.
    """

    cause: Cause
    audits: tuple[RangeAudit, ...]
    mended: Mapping[str, Grid | None]
    raised: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    samples: tuple[int, ...] = ()
    ratio: float = 0.0

    @property
    def touching(self) -> tuple[str, ...]:
        """Every op that writes or reads one of its tensors: all must be raised to raise them."""
        names = [
            name
            for item in self.audits
            for name in (*([item.site] if item.site else []), *item.readers)
        ]
        return tuple(dict.fromkeys([*names, *self.weights]))


def find_suspects(
    audits: Sequence[RangeAudit],
    grids: Mapping[str, Grid],
    sites: Mapping[str, Site],
    reach: float = REACH,
) -> Iterator[Suspect]:
    """Group the tensors whose range is suspect by cause; each tensor has one.

    Args:
        audits: Of all tensors, in execution order.
        grids: Their grids.
        sites: By name.
        reach: How far the data must reach, in widths of a range; 0 where samples are bad already.
    """
    left = list(audits)
    is_beyond = any(_is_clipped(item, reach) for item in left)
    causes = {
        Cause.OUTLIER_SAMPLE: lambda item: is_beyond and _clips(item, reach) and _by_few(item),
        Cause.CLIPPED_RANGE: lambda item: is_beyond and _clips(item, reach),
        Cause.SATURATED: lambda item: _is_saturated(item, sites),
        Cause.OUTLIER_CALIBRATION: lambda item: _is_wide(item) and _few_are_wide(item),
        Cause.VARYING_RANGE: _is_wide,
        Cause.OUTLIER_CHANNELS: _has_outlier_channels,
    }
    for cause, is_suspect in causes.items():
        found = tuple(item for item in left if is_suspect(item))
        left = [item for item in left if item not in found]
        if found:
            mended = {item.tensor: _mend(cause, item, grids[item.tensor]) for item in found}
            suspect = Suspect(cause, found, mended, samples=_samples(cause, found))
            is_raised = cause is Cause.OUTLIER_CHANNELS
            yield replace(suspect, raised=suspect.touching) if is_raised else suspect


def own_ratio(audit: RangeAudit, over: float) -> float:
    """A ratio without what a grid that is wider than all that calibration saw makes of it."""
    return over / max(audit.excess, 1.0)


def _clips(item: RangeAudit, reach: float) -> bool:
    """Whether it loses more by clipping than it should; behind a clipped tensor many do.

    Where samples are bad already (no `reach`), on those that are clipped.
    """
    return (item.clip_ratio if reach else item.clip_ratio_there) >= CLIP_RATIO


def _is_clipped(item: RangeAudit, reach: float) -> bool:
    """Whether the data lie beyond what a fair sample could have missed."""
    low, high = min(item.low, 0.0), max(item.high, 0.0)
    width = float(widths(item.clipping.low, item.clipping.high))
    return _clips(item, reach) and width >= reach * (high - low)


def _exceeds(item: RangeAudit, ratio: float, limit: float) -> bool:
    """Whether a ratio costs int8 what the limit says; a finer grid can afford more."""
    return ratio >= limit * item.fineness


def _by_few(item: RangeAudit) -> bool:
    return item.clipping.effective_samples <= max(1.5, FEW * item.clipping.samples)


def _is_saturated(item: RangeAudit, sites: Mapping[str, Site]) -> bool:
    readers = [sites[name] for name in item.readers]
    is_gate = bool(readers) and all(_is_flat_far_out(site) for site in readers)
    return is_gate and _exceeds(item, (item.high - item.low) / (2.0 * FLAT), WIDE)


def _is_flat_far_out(site: Site) -> bool:
    """Sigmoids and tanhs; a softmax goes by differences, which no range bounds."""
    return site.output_range is not None and "softmax" not in " ".join(site.fused).lower()


def _is_wide(item: RangeAudit) -> bool:
    return _exceeds(item, own_ratio(item, item.over_samples), LOST)


def _few_are_wide(item: RangeAudit) -> bool:
    return len(item.wide_samples()) <= max(1.0, FEW * len(item.sample_widths))


def _has_outlier_channels(item: RangeAudit) -> bool:
    return _exceeds(item, own_ratio(item, item.over_channels), LOST)


def _samples(cause: Cause, found: Sequence[RangeAudit]) -> tuple[int, ...]:
    if cause is Cause.OUTLIER_SAMPLE:
        return tuple(dict.fromkeys(item.clipping.worst for item in found))
    if cause is Cause.OUTLIER_CALIBRATION:
        return found[0].wide_samples()
    return ()


def _mend(cause: Cause, item: RangeAudit, grid: Grid) -> Grid | None:
    """The grid of as many levels over the range that the tensor should have had."""
    if cause in (Cause.OUTLIER_SAMPLE, Cause.CLIPPED_RANGE):
        return _stretched(grid, item.clipping.low, item.clipping.high)
    if cause is Cause.SATURATED:
        return _stretched(grid, max(item.low, -FLAT), min(item.high, FLAT))
    if cause is Cause.OUTLIER_CALIBRATION:
        fair = np.ones(len(item.sample_widths), dtype=np.bool_)
        fair[list(item.wide_samples())] = False
        return _stretched(
            grid, float(item.seen.sample_low[fair].min()), float(item.seen.sample_high[fair].max())
        )
    return None


def _stretched(grid: Grid, low: float, high: float) -> Grid:
    """The same number of levels from `low` to `high`, zero among them."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / (grid.high - grid.low), 1e-30)
    zero_point = min(max(grid.low - round(low / scale), grid.low), grid.high)
    return Grid(scale, zero_point, grid.low, grid.high)


def find_weight_suspects(
    marked: SiteNodes, plan: Plan, rounding: SchemeRounding
) -> Iterator[Suspect]:
    """Find ops whose weight has one scale, eight times what its median channel needs.

    Transposed convolutions and recurrent layers have no kernel with a scale for each channel.
    """
    found: dict[str, float] = {}
    for root, site in marked.roots.items():
        grid = rounding.weight_format(site, plan[site.name])
        if isinstance(grid, WeightGrid) and not grid.is_per_channel:
            weights = [_value(marked, node) for node in marked.operands[root].weights]
            found[site.name] = max((_spread(item, site) for item in weights), default=1.0)
    wide = tuple(name for name, ratio in found.items() if ratio >= LOST)
    if wide:
        ratio = max(found[name] for name in wide)
        yield Suspect(Cause.PER_TENSOR_WEIGHT, (), {}, weights=wide, ratio=ratio)


def _value(marked: SiteNodes, node: Node) -> Tensor:
    value: Tensor = take(marked.module, str(node.target))
    return value.detach()


def _spread(weight: Tensor, site: Site) -> float:
    """The largest output channel over the median one; transposed weights are (inputs, outputs)."""
    axis = 1 if site.kind in TRANSPOSED else 0
    channels = weight.abs().transpose(0, axis).flatten(1).amax(1)
    alive = channels[channels > 0]
    return float(alive.max() / torch.quantile(alive, 0.5)) if len(alive) else 1.0
