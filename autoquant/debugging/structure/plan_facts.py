"""What a plan asks for at every op, in the words of observers."""

from __future__ import annotations

from collections.abc import Mapping

from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Mode, Precision, Scheme
from autoquant.core.qconfigs import ObserverFacts, QConfigFacts
from autoquant.core.sites import Site
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.captured import Capture
from autoquant.model.numerics.rounding import has_narrow_floats
from autoquant.model.numerics.weight_grids import LEVELS, GroupGrid, WeightGrid, weight_grid

BY_JOB = "fixed"
"""Observer of a tensor whose range the job fixes."""
BY_USER = "your own"
"""Observer of a tensor whose range a function of the user's found."""

_FLOAT = ObserverFacts("", "float32")
_HALVES = {Precision.FP16: "float16", Precision.BF16: "bfloat16"}
_STORED = {Precision.INT8: "qint8", Precision.INT16: "int16"}


def facts_of_plan(
    captured: Capture, plan: Plan, ranges: TensorRanges, settings: BuildSettings
) -> Mapping[str, QConfigFacts | None]:
    """Give by root node of every site what its scheme asks for; None: nothing."""
    return {
        site.node: _facts(
            site, plan[site.name], captured.members[site.name][0][-1], ranges, settings
        )
        for site in captured.sites
    }


def _facts(
    site: Site, scheme: Scheme, written: str, ranges: TensorRanges, settings: BuildSettings
) -> QConfigFacts | None:
    if scheme is Scheme.FP32:
        return None
    return QConfigFacts(
        _activation(site, scheme, written, ranges, settings), _weight(site, scheme, ranges)
    )


def _activation(
    site: Site, scheme: Scheme, written: str, ranges: TensorRanges, settings: BuildSettings
) -> ObserverFacts:
    if has_narrow_floats(site, scheme):
        return ObserverFacts("", _HALVES[scheme.activation])
    if scheme.mode is Mode.DYNAMIC:
        return ObserverFacts("by batch", "quint8", low=0, high=255, is_dynamic=True)
    if scheme.mode is not Mode.STATIC or not ranges.knows(written):
        return _FLOAT
    if scheme.activation is Precision.INT16:
        return ObserverFacts("minmax", "int16", low=-32768, high=32767)
    grid = ranges.int8_grid(written)
    name = settings.ranges.observer(ranges.owner(written) or site.name, settings.observer).value
    if ranges.source(written) in {item.tensor for item in settings.ranges.own}:
        name = BY_USER
    by_definition = site.output_range is not None
    is_fixed = by_definition or ranges.source(written) in settings.ranges.fixed_tensors
    if is_fixed:
        name = "by definition" if by_definition else BY_JOB
    scale = (grid.scale, grid.zero_point) if is_fixed else None
    return ObserverFacts(name, "quint8", low=grid.low, high=grid.high, fixed=scale)


def _weight(site: Site, scheme: Scheme, ranges: TensorRanges) -> ObserverFacts:
    if scheme.weight in _HALVES:
        return ObserverFacts("", _HALVES[scheme.weight])
    grid = weight_grid(site.kind, scheme, ranges.weight_bits)
    if grid is None:
        return _FLOAT
    if isinstance(grid, WeightGrid):
        return ObserverFacts(
            "largest", _STORED[scheme.weight], axis=grid.axis, low=grid.low, high=grid.high
        )
    if isinstance(grid, GroupGrid):
        low, high = LEVELS[scheme.weight]
        return ObserverFacts(f"largest of {grid.size}", "int4", axis=0, low=low, high=high)
    return ObserverFacts("minmax", "quint8", axis=0, low=0, high=255)
