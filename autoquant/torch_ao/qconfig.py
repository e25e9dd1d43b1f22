"""Scheme -> QConfig: the edge at which autoquant speaks torch.ao's language."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.ao.quantization import (
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
    QConfig,
    QConfigMapping,
    default_dynamic_qconfig,
    float16_dynamic_qconfig,
    float_qparams_weight_only_qconfig,
    per_channel_dynamic_qconfig,
)

from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import BY_GROUP, Mode, Scheme
from autoquant.core.ranges import FixedRange, ObserverName
from autoquant.core.sites import RECURRENT, TRANSPOSED, OpKind, Site
from autoquant.model.calibration.ranges.density import Density
from autoquant.model.calibration.ranges.find import FROM_HISTOGRAM
from autoquant.model.calibration.ranges.grid import Grid, affine_grid, defined_grid, symmetric_grid
from autoquant.model.numerics.weight_grids import INT8_LEVELS

__all__ = [
    "NO_QCONFIG",
    "QConfig",
    "QConfigMapping",
    "RangeObserver",
    "carries",
    "qconfig_for",
    "qconfigs_by_module",
]

_INT16_LEVELS = {"quant_min": -32768, "quant_max": 32767}

NO_QCONFIG: Mapping[Scheme, str] = {
    Scheme.BF16: "bf16 is a cast, which no QConfig carries",
    Scheme.INT8_WEIGHT_ONLY_BF16: "torch.ao has no int8 weights of linear layers in float",
    Scheme.INT16_WEIGHT: "torch.ao's convert drops the scales of int16 weights",
    **dict.fromkeys(BY_GROUP, "torch.ao's observers know no groups of weights"),
}
"""Schemes that no QConfig says, and why."""


def qconfig_for(site: Site, scheme: Scheme, plan: Plan, settings: BuildSettings) -> QConfig | None:
    """Give torch's QConfig for one site; None where the scheme has none."""
    if scheme is Scheme.FP32 or scheme in NO_QCONFIG or site.kind is OpKind.CUSTOM:
        return None
    if scheme is Scheme.FP16:
        if site.kind in RECURRENT:
            return float16_dynamic_qconfig
        half = PlaceholderObserver.with_args(dtype=torch.float16)
        return QConfig(activation=half, weight=half)
    if scheme is Scheme.INT8_DYNAMIC:
        recurrent = site.kind in RECURRENT
        return default_dynamic_qconfig if recurrent else per_channel_dynamic_qconfig
    if scheme is Scheme.INT8_WEIGHT_ONLY:
        return float_qparams_weight_only_qconfig
    if scheme not in (Scheme.INT8, Scheme.INT16):
        raise ValueError(f"{scheme.value} has no QConfig")
    return QConfig(
        activation=_activation_observer(site, scheme, plan, settings),
        weight=_weight_observer(site, scheme, settings.ranges.weight_bits or 8),
    )


def qconfigs_by_module(
    sites: Iterable[Site], plan: Plan, settings: BuildSettings
) -> dict[str, QConfig | None]:
    """Give torch's QConfig of each weighted module, by path: for `module.qconfig` in eager mode.

    Returns:
        None where torch leaves the module in float, and for bf16, which is a cast.
    """
    return {
        site.module: _eager_qconfig(site, plan, settings)
        for site in sites
        if site.function is None and site.kind.is_weighted
    }


def _eager_qconfig(site: Site, plan: Plan, settings: BuildSettings) -> QConfig | None:
    """Eager mode has no static fp16, and dynamic fp16 of linear and recurrent layers alone."""
    scheme = plan[site.name]
    if scheme is Scheme.FP16:
        is_dynamic = site.kind is OpKind.LINEAR or site.kind in RECURRENT
        return float16_dynamic_qconfig if is_dynamic else None
    return qconfig_for(site, scheme, plan, settings)


def carries(fixed: FixedRange, plan: Plan) -> bool:
    """Whether a QConfigMapping can carry a fixed range: an op's, which reads no float tensor.

    torch has one observer for what a site writes and what it reads as float: where it reads
    float, that tensor would get the range too.
    """
    scheme = plan.schemes.get(fixed.name)
    return scheme is not None and all(
        name is not None
        and plan[name].mode is Mode.STATIC
        and plan[name].activation is scheme.activation
        for name in fixed.reads
    )


class RangeObserver(HistogramObserver):
    """An observer of torch's kind that finds its range from the histogram by another method.

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
        ends = torch.tensor(np.array([low, high], dtype=np.float32))
        scale, zero_point = self._calculate_qparams(ends[0], ends[1])
        return scale, zero_point


def _activation_observer(site: Site, scheme: Scheme, plan: Plan, settings: BuildSettings) -> Any:
    """The constructor of the observer of a site's activations under a static integer."""
    fixed = settings.ranges.fixed_at(site.name)
    is_carried = fixed is not None and carries(fixed, plan)
    if scheme is Scheme.INT16:
        if fixed is not None and is_carried:
            return _fixed(symmetric_grid((fixed.low, fixed.high)), torch.int16)
        return MinMaxObserver.with_args(
            dtype=torch.int16, qscheme=torch.per_tensor_symmetric, **_INT16_LEVELS
        )
    if site.output_range is not None:
        return _fixed(defined_grid(site.output_range), torch.quint8)
    if fixed is not None and is_carried:
        return _fixed(affine_grid((fixed.low, fixed.high)))
    return _range_observer(site, settings)


def _range_observer(site: Site, settings: BuildSettings) -> Any:
    rules = settings.ranges
    observer = rules.observer(site.name, settings.observer)
    dtype = torch.quint8
    if observer is ObserverName.HISTOGRAM:
        return HistogramObserver.with_args(dtype=dtype)
    if observer is ObserverName.MINMAX:
        return MinMaxObserver.with_args(dtype=dtype)
    if observer is ObserverName.MOVING_AVERAGE:
        return MovingAverageMinMaxObserver.with_args(
            averaging_constant=rules.averaging, dtype=dtype
        )
    return RangeObserver.with_args(method=observer, percentile=rules.percentile, dtype=dtype)


def _fixed(grid: Grid, dtype: torch.dtype = torch.quint8) -> Any:
    symmetric = dtype is torch.int16
    return FixedQParamsObserver.with_args(
        scale=grid.scale,
        zero_point=grid.zero_point,
        dtype=dtype,
        qscheme=torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine,
        quant_min=grid.low,
        quant_max=grid.high,
    )


def _weight_observer(site: Site, scheme: Scheme, bits: int) -> Any:
    if site.kind is OpKind.NORM:
        return PlaceholderObserver
    if site.kind is OpKind.ACTIVATION:  # a PReLU's slope
        return MinMaxObserver.with_args(dtype=torch.quint8, qscheme=torch.per_tensor_affine)
    low, high = INT8_LEVELS[bits if scheme is Scheme.INT8 else 8]
    limits = {"dtype": torch.qint8, "quant_min": low, "quant_max": high}
    if site.kind in TRANSPOSED:
        return MinMaxObserver.with_args(qscheme=torch.per_tensor_symmetric, **limits)
    return PerChannelMinMaxObserver.with_args(qscheme=torch.per_channel_symmetric, **limits)
