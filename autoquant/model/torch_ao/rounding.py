"""What a scheme does to one tensor: reference numerics, op by op."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.ao.quantization import (
    FixedQParamsObserver,
    ObserverBase,
    PerChannelMinMaxObserver,
    QConfig,
)

from autoquant.core.precision import Mode, Scheme
from autoquant.core.sites import OpKind, Site
from autoquant.model.numerics import fake_quantize_weight
from autoquant.model.ranges.grid import Grid
from autoquant.model.torch_ao.observers import ScaleCache
from autoquant.model.torch_ao.qconfig import (
    QuantizationSettings,
    activation_observer,
    keeps_float_activations,
    leading_kind,
    qconfig_for,
)


def round_weight(weight: Tensor, qconfig: QConfig) -> Tensor:
    """Round a weight as its QConfig's observer says.

    The observer runs here, because torch's reference modules keep no scale for int16 weights.
    """
    observer = qconfig.weight()
    if observer.dtype is torch.float16:
        return weight.to(torch.float16).to(torch.float32)
    if observer.dtype is torch.float32:
        return weight
    return round_on_its_grid(weight, observer)


def round_on_its_grid(weight: Tensor, observer: Any) -> Tensor:
    """Round a weight to the grid that a fresh observer finds for it; the observer is used up."""
    observer(weight)
    scale, zero_point = observer.calculate_qparams()
    per_channel = isinstance(observer, PerChannelMinMaxObserver)
    return fake_quantize_weight(
        weight,
        scale,
        zero_point,
        axis=observer.ch_axis if per_channel else None,
        low=observer.quant_min,
        high=observer.quant_max,
    )


@dataclass(frozen=True, slots=True)
class DynamicGrid:
    """Round to 7 bits at the scale of this very batch, as torch's dynamic kernels do on x86."""

    def __call__(self, value: Tensor) -> Tensor:
        """Round each element; shape as given."""
        low, high = min(float(value.min()), 0.0), max(float(value.max()), 0.0)
        scale = max((high - low) / 127.0, torch.finfo(torch.float32).eps)
        zero_point = min(max(round(-low / scale), 0), 127)
        return Grid(scale, zero_point, 0, 127)(value)


@dataclass(frozen=True, slots=True)
class Cast:
    """Round to a narrower float and back."""

    dtype: torch.dtype

    def __call__(self, value: Tensor) -> Tensor:
        """Round each element; shape as given."""
        return value.to(self.dtype).to(torch.float32)


@dataclass(frozen=True, slots=True)
class WeightGrid:
    """Round to the integer grid that a weight's own observer finds.

    Equal values round alike: the observer's class, its dtype and its limits decide.
    """

    observer: type[ObserverBase]
    dtype: torch.dtype
    low: int
    high: int
    qconfig: QConfig = field(compare=False)

    @property
    def is_per_channel(self) -> bool:
        """Whether each output channel has a scale of its own."""
        return issubclass(self.observer, PerChannelMinMaxObserver)

    def __call__(self, weight: Tensor) -> Tensor:
        """Round each element; shape as given."""
        return round_weight(weight, self.qconfig)


Format = Grid | DynamicGrid | Cast | WeightGrid
"""How a tensor is rounded; equal formats round equally."""


class SchemeRounding:
    """Tells how the tensors of a site are rounded under each of its schemes, and rounds them.

    Args:
        sites: By name.
        settings: What the target decides.
        cache: Scales by tensor.
    """

    def __init__(
        self, sites: Mapping[str, Site], settings: QuantizationSettings, cache: ScaleCache
    ) -> None:
        self._sites = sites
        self._settings = settings
        self._cache = cache
        self._known: dict[tuple[str, Scheme, str, bool], Format | None] = {}

    def weight_format(self, site: Site, scheme: Scheme) -> Format | None:
        """How the scheme rounds the site's weights; None: not at all."""
        if scheme is Scheme.BF16:
            return Cast(torch.bfloat16)
        qconfig = self._qconfig(site, scheme)
        if qconfig is None or not site.kind.is_weighted:
            return None
        observer = qconfig.weight()
        if scheme is Scheme.FP16 or observer.dtype is torch.float16:
            return Cast(torch.float16)
        if observer.dtype is torch.float32:
            return None
        return WeightGrid(
            type(observer), observer.dtype, observer.quant_min, observer.quant_max, qconfig
        )

    def input_format(self, site: Site, scheme: Scheme, tensor: str) -> Format | None:
        """How an input is rounded; `tensor` is the name of the node that gives it."""
        return self._remembered(site, scheme, tensor, at_output=False)

    def output_format(self, site: Site, scheme: Scheme, tensor: str) -> Format | None:
        """How the output is rounded; `tensor` is the name of the node that gives it."""
        return self._remembered(site, scheme, tensor, at_output=True)

    def weight(self, site: Site, scheme: Scheme, weight: Tensor) -> Tensor:
        """Round a weight; shape as given."""
        rounding = self.weight_format(site, scheme)
        return weight if rounding is None else rounding(weight)

    def input(self, site: Site, scheme: Scheme, tensor: str, value: Tensor) -> Tensor:
        """Round an input; `tensor` is the name of the node that gives it."""
        rounding = self.input_format(site, scheme, tensor)
        return value if rounding is None else rounding(value)

    def output(self, site: Site, scheme: Scheme, tensor: str, value: Tensor) -> Tensor:
        """Round the output; `tensor` is the name of the node that gives it."""
        rounding = self.output_format(site, scheme, tensor)
        return value if rounding is None else rounding(value)

    def _remembered(
        self, site: Site, scheme: Scheme, tensor: str, *, at_output: bool
    ) -> Format | None:
        key = (site.name, scheme, tensor, at_output)
        if key not in self._known:
            self._known[key] = self._activation(site, scheme, tensor, at_output=at_output)
        return self._known[key]

    def _activation(
        self, site: Site, scheme: Scheme, tensor: str, *, at_output: bool
    ) -> Format | None:
        if scheme is Scheme.INT8_DYNAMIC and not at_output:
            dynamic = site.kind in (OpKind.LINEAR, OpKind.LSTM, OpKind.GRU)
            return DynamicGrid() if dynamic else None
        leader = leading_kind(site, self._sites)
        if scheme.mode is not Mode.STATIC or keeps_float_activations(
            scheme, leader, self._settings
        ):
            return None
        if scheme is Scheme.BF16:
            return Cast(torch.bfloat16)
        if scheme is Scheme.FP16:
            return Cast(torch.float16)
        qconfig = self._qconfig(site, scheme)
        if qconfig is None:
            return None
        observer = qconfig.activation()
        if isinstance(observer, FixedQParamsObserver) and not at_output:
            observer = activation_observer(
                replace(site, output_range=None), scheme, self._settings
            )()
        if isinstance(observer, FixedQParamsObserver):
            scale, zero_point = observer.scale, observer.zero_point
        else:
            together = self._cache.sharing(tensor) if at_output else [tensor]
            scale, zero_point = self._cache.scale(observer, together)
        return Grid(
            scale=float(scale.reshape(()).float()),
            zero_point=int(zero_point.reshape(())),
            low=observer.quant_min,
            high=observer.quant_max,
        )

    def _qconfig(self, site: Site, scheme: Scheme) -> QConfig | None:
        return qconfig_for(site, scheme, self._settings, leading_kind(site, self._sites))
