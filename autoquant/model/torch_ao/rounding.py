"""What a scheme does to one tensor: reference numerics, op by op."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.ao.quantization import FixedQParamsObserver, PerChannelMinMaxObserver, QConfig

from autoquant.core.precision import Mode, Scheme
from autoquant.core.sites import OpKind, Site
from autoquant.model.numerics import fake_quantize_weight
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


class SchemeRounding:
    """Rounds the tensors of a site as one of its schemes does.

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

    def weight(self, site: Site, scheme: Scheme, weight: Tensor) -> Tensor:
        """Round a weight; shape as given."""
        if scheme is Scheme.BF16:
            return weight.to(torch.bfloat16).to(torch.float32)
        qconfig = self._qconfig(site, scheme)
        if qconfig is None or not site.kind.is_weighted:
            return weight
        if scheme is Scheme.FP16:
            return weight.to(torch.float16).to(torch.float32)
        return round_weight(weight, qconfig)

    def input(self, site: Site, scheme: Scheme, tensor: str, value: Tensor) -> Tensor:
        """Round an input; `tensor` is the name of the node that gives it."""
        if scheme is Scheme.INT8_DYNAMIC and site.kind in (OpKind.LINEAR, OpKind.LSTM, OpKind.GRU):
            return _round_dynamically(value)
        return self._activation(site, scheme, tensor, value, at_output=False)

    def output(self, site: Site, scheme: Scheme, tensor: str, value: Tensor) -> Tensor:
        """Round the output; `tensor` is the name of the node that gives it."""
        return self._activation(site, scheme, tensor, value, at_output=True)

    def _activation(
        self, site: Site, scheme: Scheme, tensor: str, value: Tensor, *, at_output: bool
    ) -> Tensor:
        leader = leading_kind(site, self._sites)
        if scheme.mode is not Mode.STATIC or keeps_float_activations(
            scheme, leader, self._settings
        ):
            return value
        if scheme is Scheme.BF16:
            return value.to(torch.bfloat16).to(torch.float32)
        if scheme is Scheme.FP16:
            return value.to(torch.float16).to(torch.float32)
        qconfig = self._qconfig(site, scheme)
        if qconfig is None:
            return value
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
        return torch.fake_quantize_per_tensor_affine(
            value,
            scale.reshape(()).float(),
            zero_point.reshape(()).int(),
            observer.quant_min,
            observer.quant_max,
        )

    def _qconfig(self, site: Site, scheme: Scheme) -> QConfig | None:
        return qconfig_for(site, scheme, self._settings, leading_kind(site, self._sites))


def _round_dynamically(value: Tensor) -> Tensor:
    """Round to 7 bits at the scale of this very batch, as torch's dynamic kernels do on x86."""
    low, high = min(float(value.min()), 0.0), max(float(value.max()), 0.0)
    scale = max((high - low) / 127.0, torch.finfo(torch.float32).eps)
    zero_point = min(max(round(-low / scale), 0), 127)
    return torch.fake_quantize_per_tensor_affine(value, scale, zero_point, 0, 127)
