"""Observers by name: torch's own, one for what torch lacks, and fixed ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.ao.quantization import (
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    ObserverBase,
)
from torch.ao.quantization.observer import UniformQuantizationObserverBase

from autoquant.core.ranges import FixedRange, RangeRules
from autoquant.core.statistics import ObserverName, TensorStatistics
from autoquant.model.ranges.density import Density
from autoquant.model.ranges.find import FROM_HISTOGRAM
from autoquant.model.ranges.moving_average import moving_average_range


class RangeObserver(HistogramObserver):
    """An observer of torch's kind that finds its range from the histogram by another method.

    Where torch prepares, calibrates and converts with it, a model gets the very scales that
    candidates have.

    Args:
        method: `percentile`, `kl` or `mse`.
        percentile: Of the first.
        settings: Those of HistogramObserver.
    """

    def __init__(self, method: ObserverName, percentile: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.method = method
        self.percentile = percentile

    @torch.jit.unused
    def calculate_qparams(self, **kwargs: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Give scale and zero point; torch's default for what has one value only."""
        counts = self.histogram.double().cpu().numpy()
        low, high = float(self.min_val), float(self.max_val)
        if low < high and counts.sum() > 0:
            levels = self.quant_max - self.quant_min + 1
            find = FROM_HISTOGRAM[self.method]
            low, high = find(Density(counts, low, high), levels, self.percentile)
        return _scale(self, low, high)


def range_observer(observer: ObserverName, rules: RangeRules, *, reduce_range: bool) -> Any:
    """Give the constructor of the observer of an int8 activation.

    Args:
        observer: Any but `mix`, which is settled before.
        rules: The observers' parameters.
        reduce_range: Seven bits.
    """
    settings = {"dtype": torch.quint8, "reduce_range": reduce_range}
    if observer is ObserverName.HISTOGRAM:
        return HistogramObserver.with_args(**settings)
    if observer is ObserverName.MINMAX:
        return MinMaxObserver.with_args(**settings)
    if observer is ObserverName.MOVING_AVERAGE:
        return MovingAverageMinMaxObserver.with_args(averaging_constant=rules.averaging, **settings)
    return RangeObserver.with_args(method=observer, percentile=rules.percentile, **settings)


def fixed_observer(like: UniformQuantizationObserverBase, fixed: FixedRange) -> Any:
    """Give the constructor of an observer with a fixed range, of the dtype of another one."""
    scale, zero_point = fixed_scale(like, fixed.low, fixed.high)
    return FixedQParamsObserver.with_args(
        scale=float(scale),
        zero_point=int(zero_point),
        dtype=like.dtype,
        qscheme=like.qscheme,
        quant_min=like.quant_min,
        quant_max=like.quant_max,
    )


def fixed_scale(observer: ObserverBase, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Scale and zero point that an observer gives to a known range.

    Raises:
        ValueError: It has no range (PlaceholderObserver).
    """
    if not isinstance(observer, UniformQuantizationObserverBase):
        raise ValueError(f"a {type(observer).__name__} has no range")
    return _scale(observer, low, high)


def fill(observer: ObserverBase, seen: TensorStatistics) -> None:
    """Let an observer have seen what calibration saw.

    Raises:
        ValueError: It needs what these statistics do not hold.
    """
    if isinstance(observer, HistogramObserver):
        observer.histogram = torch.from_numpy(seen.histogram.copy())
        low, high = seen.histogram_low, seen.histogram_high
    elif isinstance(observer, MovingAverageMinMaxObserver):
        if not len(seen.batch_low):
            raise ValueError("these statistics hold no ranges of batches: calibrate again")
        low, high = moving_average_range(
            seen.batch_low, seen.batch_high, observer.averaging_constant
        )
    elif isinstance(observer, MinMaxObserver):
        low, high = seen.low, seen.high
    else:
        raise ValueError(f"no statistics can fill a {type(observer).__name__}")
    observer.min_val, observer.max_val = torch.tensor(low), torch.tensor(high)


def signature(observer: ObserverBase) -> tuple[Any, ...]:
    """What decides the scale that an observer finds, beside what it sees."""
    parameters = ("quant_min", "quant_max", "averaging_constant", "method", "percentile")
    return (
        type(observer),
        observer.dtype,
        *(getattr(observer, name, None) for name in parameters),
    )


def _scale(
    observer: UniformQuantizationObserverBase, low: float, high: float
) -> tuple[Tensor, Tensor]:
    ends = torch.tensor(np.array([low, high], dtype=np.float32))
    scale, zero_point = observer._calculate_qparams(ends[0], ends[1])
    return scale, zero_point
