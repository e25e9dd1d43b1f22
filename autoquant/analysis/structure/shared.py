"""Modules that are called several times: must each call have a scale of its own?

An int8 kernel that is a module (a convolution, a linear layer, a hard-swish) keeps one scale for
its output. Called several times it rounds every call with it. Torch observes each call alone and
then keeps the scale of one of them, so a wider call is clipped and a narrower one too coarse.

Two numbers compare the calls, from histograms of their outputs on calibration data:

- bits lost: log2(joint range / own range) of the narrowest call, with ranges between the 0.1% and
  99.9% quantiles and widened to zero, as torch's affine grids are. One bit is 6 dB of its SQNR.
- the largest Kolmogorov-Smirnov distance between two calls: max |F1 - F2| of their cumulative
  distributions (Kolmogorov 1933), which says how much they differ, not what that costs.

A module must be split from one bit on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.fx import GraphModule

from autoquant.analysis.structure.calls import CallCounts, outermost
from autoquant.analysis.structure.torn import calls_by_path, fused_differently
from autoquant.core.concerns import Concern, Topic, attention, note
from autoquant.core.statistics import CalibrationStatistics, TensorStatistics
from autoquant.core.structure import ModuleCalls, Verdict

Edges = npt.NDArray[np.float64]

MAX_BITS_LOST = 1.0
"""From here on a shared scale costs a call 6 dB, and the module must be split."""

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
    apart: GraphModule,
    fused: GraphModule,
    statistics: CalibrationStatistics,
) -> Iterator[ModuleCalls]:
    """Judge every module without children that is called several times.

    Args:
        model: The float model.
        counts: Of its calls.
        apart: Its traced graph, every op a node of its own.
        fused: Its traced, fused graph.
        statistics: Of the fused graph's tensors, by node name.
    """
    torn = set(fused_differently(apart))
    nodes = calls_by_path(fused)
    for path, module in model.named_modules():
        count = counts.calls.get(path, 0)
        if not path or count < 2 or any(True for _ in module.children()):
            continue
        kind = type(module).__name__
        seen = [
            statistics.tensors[name] for name in nodes.get(path, ()) if name in statistics.tensors
        ]
        if path in torn:
            verdict, bits, distance = Verdict.MUST_SPLIT, None, None
        elif isinstance(module, _SCALELESS):
            verdict, bits, distance = Verdict.SCALELESS, None, None
        elif len(seen) < 2:
            verdict, bits, distance = Verdict.UNKNOWN, None, None
        else:
            bits, distance = bits_lost(seen), largest_distance(seen)
            verdict = Verdict.MUST_SPLIT if bits >= MAX_BITS_LOST else Verdict.MAY_STAY
        yield ModuleCalls(path, kind, count, verdict, bits, distance)


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


def find_shared(
    rows: Sequence[ModuleCalls], torn: Sequence[str], counts: CallCounts
) -> Iterator[Concern]:
    """Find the shared modules that must be split, and those that may stay.

    Args:
        rows: From `compare_calls`.
        torn: Paths of modules that are fused with other ops at each call.
        counts: Of all modules, those that hold others included.
    """
    for row in rows:
        if row.verdict is Verdict.MUST_SPLIT:
            reason, why = _TORN if row.path in torn else (_cost(row), _ONE_SCALE)
            yield attention(
                Topic.CALLS,
                (row.path,),
                f"{row.kind} is called {row.count} times and must be split: {reason}",
                why,
                f"model = aq.split_shared(model, batch, [{outermost(row.path, counts)!r}])",
            )
    staying = [row for row in rows if row.verdict is Verdict.MAY_STAY]
    if staying:
        worst = max(row.bits_lost or 0.0 for row in staying)
        yield note(
            Topic.CALLS,
            [row.path for row in staying],
            f"called several times and may stay: at most {worst:.1f} bits lost to a shared scale",
            "their calls have outputs of similar range",
            f"nothing; from {MAX_BITS_LOST:g} bit on a module must be split",
        )


_TORN = (
    "torch fuses it with other ops at each call",
    "the last fusion overwrites the others: the traced model computes something else",
)
_ONE_SCALE = (
    "the int8 module keeps one output scale, so that wide calls are clipped or narrow ones coarse"
)


def _cost(row: ModuleCalls) -> str:
    return (
        f"the narrowest call loses {row.bits_lost:.1f} bits to a shared scale "
        f"(outputs differ by {row.distance:.2f} in Kolmogorov-Smirnov distance)"
    )
