"""Modules that are called several times: how much would one scale for all calls cost?

Plans give the output of each call a scale of its own. A QConfigMapping cannot: torch.ao's int8
modules keep one scale, and round every call with it, so that a wider call is clipped or a narrower
one coarse. Two numbers compare the calls, from histograms of their outputs on calibration data:

- bits lost: log2(joint range / own range) of the narrowest call, with ranges between the 0.1% and
  99.9% quantiles and widened to zero, as affine grids are. One bit is 6 dB of its SQNR.
- the largest Kolmogorov-Smirnov distance between two calls: max |F1 - F2| of their cumulative
  distributions (Kolmogorov 1933), which says how much they differ, not what that costs.

From one bit on, a module must be split before a QConfigMapping is worth having.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt
from torch import nn

from autoquant.core.findings.concerns import Concern, Topic, note
from autoquant.core.findings.structure import ModuleCalls, Verdict
from autoquant.core.statistics import CalibrationStatistics, TensorStatistics
from autoquant.debugging.structure.calls import CallCounts, outermost
from autoquant.model.graph.captured import Capture

Edges = npt.NDArray[np.float64]

MAX_BITS_LOST = 1.0
"""From here on a shared scale costs a call 6 dB."""

_TAIL = 0.001
_SCALELESS = (
    *(nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d),
    *(nn.Dropout3d, nn.Flatten, nn.Unflatten, nn.Upsample, nn.PixelShuffle),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.Softmax),  # the scale of these is fixed
)


def compare_calls(
    model: nn.Module,
    counts: CallCounts,
    captured: Capture,
    statistics: CalibrationStatistics,
) -> Iterator[ModuleCalls]:
    """Judge every module without children that is called several times."""
    tensors = statistics.tensors
    for path, module in model.named_modules():
        count = counts.calls.get(path, 0)
        if not path or count < 2 or any(True for _ in module.children()):
            continue
        groups = captured.members.get(path, ())
        seen = [tensors[group[-1]] for group in groups if group[-1] in tensors]
        bits, distance = None, None
        if isinstance(module, _SCALELESS):
            verdict = Verdict.SCALELESS
        elif len(seen) < 2:
            verdict = Verdict.UNKNOWN
        else:
            bits, distance = bits_lost(seen), largest_distance(seen)
            verdict = Verdict.APART if bits >= MAX_BITS_LOST else Verdict.MAY_STAY
        yield ModuleCalls(path, type(module).__name__, count, verdict, bits, distance)


def bits_lost(calls: Sequence[TensorStatistics]) -> float:
    """Bits that the narrowest call loses when all calls share one scale.

    A call whose output is zero throughout loses nothing.
    """
    bounds = [_bounds(call) for call in calls]
    ranges = [high - low for low, high in bounds if high > low]
    if not ranges:
        return 0.0
    joint = max(high for _, high in bounds) - min(low for low, _ in bounds)
    return float(np.log2(joint / min(ranges)))


def largest_distance(calls: Sequence[TensorStatistics]) -> float:
    """Largest Kolmogorov-Smirnov distance between two calls, from 0 to 1."""
    return max(_distance(one, other) for one, other in combinations(calls, 2))


def _bounds(call: TensorStatistics) -> tuple[float, float]:
    """Quantiles of the histogram, widened to zero."""
    edges, cumulative = _cumulative(call)
    low, high = np.interp([_TAIL, 1.0 - _TAIL], cumulative, edges)
    return min(float(low), 0.0), max(float(high), 0.0)


def _distance(one: TensorStatistics, other: TensorStatistics) -> float:
    edges_1, below_1 = _cumulative(one)
    edges_2, below_2 = _cumulative(other)
    grid = np.union1d(edges_1, edges_2)
    gap = np.interp(grid, edges_1, below_1) - np.interp(grid, edges_2, below_2)
    return float(np.abs(gap).max())


def _cumulative(call: TensorStatistics) -> tuple[Edges, Edges]:
    """Edges of the bins, shape (bins + 1,), and the share of values below each."""
    counts = call.histogram.astype(np.float64)
    edges = np.linspace(call.histogram_low, call.histogram_high, len(counts) + 1)
    below = np.concatenate([[0.0], np.cumsum(counts)])
    return edges, below / max(below[-1], 1.0)


def find_shared(rows: Sequence[ModuleCalls], counts: CallCounts) -> Iterator[Concern]:
    """Find the shared modules whose calls need scales of their own, and those that do not."""
    for row in rows:
        if row.verdict is Verdict.APART:
            yield note(
                Topic.CALLS,
                (row.path,),
                f"{row.kind} is called {row.count} times, and the narrowest call would lose "
                f"{row.bits_lost:.1f} bits to a shared scale (outputs differ by "
                f"{row.distance:.2f} in Kolmogorov-Smirnov distance)",
                "plans give each call its own scale; a QConfigMapping has one for the module",
                "nothing here; before a QConfigMapping: "
                f"model = aq.split_shared(model, batch, [{outermost(row.path, counts)!r}])",
            )
    staying = [row for row in rows if row.verdict is Verdict.MAY_STAY]
    if staying:
        worst = max(row.bits_lost or 0.0 for row in staying)
        yield note(
            Topic.CALLS,
            [row.path for row in staying],
            f"called several times: one scale for all calls would cost {worst:.1f} bits at most",
            "their calls have outputs of similar range",
            "nothing",
        )
