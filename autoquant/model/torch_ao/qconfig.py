"""Plan -> QConfigMapping: the edge at which autoquant speaks torch's language."""

from __future__ import annotations

import importlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.ao.quantization import (
    FixedQParamsObserver,
    MinMaxObserver,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
    QConfig,
    QConfigMapping,
    default_dynamic_qconfig,
    float16_dynamic_qconfig,
    float_qparams_weight_only_qconfig,
    per_channel_dynamic_qconfig,
)
from torch.ao.quantization.observer import UniformQuantizationObserverBase

from autoquant.core.plan import Plan
from autoquant.core.precision import Mode, Scheme
from autoquant.core.ranges import FixedRange, RangeRules
from autoquant.core.sites import Address, CallType, OpKind, Site
from autoquant.core.statistics import ObserverName
from autoquant.model.torch_ao.range_observers import fixed_observer, range_observer

__all__ = [
    "QConfig",
    "QConfigMapping",
    "QuantizationSettings",
    "activation_observer",
    "build_qconfig_mapping",
    "keeps_float_activations",
    "leading_kind",
    "qconfig_for",
    "resolve_function",
]

_PER_TENSOR_WEIGHT = frozenset(
    {OpKind.CONV_TRANSPOSE1D, OpKind.CONV_TRANSPOSE2D, OpKind.CONV_TRANSPOSE3D}
)
_INT16_RANGE = {"quant_min": -32768, "quant_max": 32767}


@dataclass(frozen=True, slots=True)
class QuantizationSettings:
    """What a plan leaves open and the target decides.

    Attributes:
        observer: How int8 activation ranges are found.
        ranges: What differs from site to site, and what is known beforehand.
        reduce_range: Seven bits for int8 activations, for CPUs whose kernels saturate.
        native_fp16_linear: Whether the engine has an fp16 linear kernel; else fp16 is emulated.
    """

    observer: ObserverName = ObserverName.HISTOGRAM
    reduce_range: bool = False
    native_fp16_linear: bool = False
    ranges: RangeRules = field(default_factory=RangeRules, repr=False)


def qconfig_for(
    site: Site, scheme: Scheme, settings: QuantizationSettings, leader: OpKind
) -> QConfig | None:
    """Give torch's QConfig for one site, None where torch's FX mode leaves it alone.

    bf16 has no QConfig: it is a cast of the module, not a quantization.

    Args:
        site: Any site.
        scheme: What its plan chose.
        settings: What the target decides.
        leader: Kind of the site that it follows (its own kind where it follows none): after an
            op whose activations stay in float, a following op has nothing to quantize.
    """
    if scheme in (Scheme.FP32, Scheme.BF16):
        return None
    weights_alone = keeps_float_activations(scheme, leader, settings)
    if weights_alone and site.follows is not None:
        return None
    if scheme is Scheme.FP16:
        if weights_alone:
            return float16_dynamic_qconfig
        half = PlaceholderObserver.with_args(dtype=torch.float16)
        return QConfig(activation=half, weight=half)
    if scheme is Scheme.INT8_DYNAMIC:
        recurrent = site.kind in (OpKind.LSTM, OpKind.GRU)
        return default_dynamic_qconfig if recurrent else per_channel_dynamic_qconfig
    if scheme is Scheme.INT8_WEIGHT_ONLY:
        return float_qparams_weight_only_qconfig
    return QConfig(
        activation=activation_observer(site, scheme, settings),
        weight=_weight_observer(site, scheme),
    )


def keeps_float_activations(scheme: Scheme, leader: OpKind, settings: QuantizationSettings) -> bool:
    """Whether the op's neighbours see fp32, as after dynamic and weight-only kernels."""
    if scheme is Scheme.FP16:
        return settings.native_fp16_linear and leader is OpKind.LINEAR
    return scheme.mode is not Mode.STATIC


def leading_kind(site: Site, sites: Mapping[str, Site]) -> OpKind:
    """Kind of the site at the head of the chain that `site` follows."""
    while site.follows is not None:
        site = sites[site.follows]
    return site.kind


def activation_observer(site: Site, scheme: Scheme, settings: QuantizationSettings) -> Any:
    """Give the constructor of the observer of a site's activations under a static integer."""
    if scheme is Scheme.INT16:
        return MinMaxObserver.with_args(
            dtype=torch.int16, qscheme=torch.per_tensor_symmetric, **_INT16_RANGE
        )
    if site.output_range is not None:
        low, high = site.output_range
        scale = (high - low) / 256.0
        return FixedQParamsObserver.with_args(
            scale=scale, zero_point=round(-low / scale), dtype=torch.quint8
        )
    return range_observer(
        settings.ranges.observer(site.name, settings.observer),
        settings.ranges,
        reduce_range=settings.reduce_range,
    )


def _weight_observer(site: Site, scheme: Scheme) -> Any:
    if site.kind is OpKind.NORM:
        return PlaceholderObserver
    wide = scheme is Scheme.INT16_WEIGHT
    limits: dict[str, Any] = dict(_INT16_RANGE) if wide else {}
    dtype = torch.int16 if wide else torch.qint8
    if site.kind in _PER_TENSOR_WEIGHT:
        return MinMaxObserver.with_args(dtype=dtype, qscheme=torch.per_tensor_symmetric, **limits)
    return PerChannelMinMaxObserver.with_args(
        dtype=dtype, qscheme=torch.per_channel_symmetric, **limits
    )


def build_qconfig_mapping(
    addresses: Iterable[Address],
    sites: Mapping[str, Site],
    plan: Plan,
    settings: QuantizationSettings,
) -> QConfigMapping:
    """Build the QConfigMapping that makes `prepare_fx` follow a plan.

    Every call of the graph gets an entry of its own, so that nothing is inherited from an
    enclosing module. Method calls cannot be addressed one by one in torch: those of one module
    are quantized only when all of them take the same scheme.

    Args:
        addresses: Of the captured graph.
        sites: By name.
        plan: One scheme for every site.
        settings: What the target decides.
    """
    mapping = QConfigMapping().set_global(None)
    methods: dict[tuple[str, str], list[tuple[str, Scheme] | None]] = defaultdict(list)

    def qconfig_of(site: str | None) -> QConfig | None:
        if site is None:
            return None
        chosen = sites[site]
        qconfig = qconfig_for(chosen, plan[site], settings, leading_kind(chosen, sites))
        return _with_fixed_range(qconfig, settings.ranges.fixed_at(site), plan)

    for address in addresses:
        if address.call is CallType.METHOD:
            # torch looks a method up by its module's path, or in the root module by its own name
            owner = (address.scope, "") if address.scope else ("", address.target)
            methods[owner].append((address.site, plan[address.site]) if address.site else None)
        elif address.call is CallType.MODULE:
            mapping.set_module_name(address.scope, qconfig_of(address.site))
        else:
            mapping.set_module_name_object_type_order(
                address.scope,
                resolve_function(address.target),
                address.index,
                qconfig_of(address.site),
            )
    for (scope, method), choices in methods.items():
        qconfig = qconfig_of(_common_site(choices))
        if scope:
            mapping.set_module_name(scope, qconfig)
        else:
            mapping.set_object_type(method, qconfig)
    return mapping


def _with_fixed_range(
    qconfig: QConfig | None, fixed: FixedRange | None, plan: Plan
) -> QConfig | None:
    """Give a site its fixed range where torch would apply it to nothing else.

    torch has one observer for what a site writes and what it reads as float: where it reads
    float, that tensor would get the range too.
    """
    if qconfig is None or fixed is None or not carries(fixed, plan):
        return qconfig
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's about its own reduce_range
        observer = qconfig.activation()
    if not isinstance(observer, UniformQuantizationObserverBase):
        return qconfig
    return QConfig(activation=fixed_observer(observer, fixed), weight=qconfig.weight)


def carries(fixed: FixedRange, plan: Plan) -> bool:
    """Whether a QConfigMapping can carry a fixed range: an op's, which reads no float tensor."""
    scheme = plan.schemes.get(fixed.name)
    return scheme is not None and all(
        name is not None
        and plan[name].mode is Mode.STATIC
        and plan[name].activation is scheme.activation
        for name in fixed.reads
    )


def _common_site(choices: list[tuple[str, Scheme] | None]) -> str | None:
    """A site that stands for all method calls of one module, None when their schemes differ."""
    first = choices[0]
    if first is None or any(item is None or item[1] is not first[1] for item in choices):
        return None
    return first[0]


def resolve_function(name: str) -> Callable[..., Any]:
    """Find the function of a qualified name (`torch.nn.functional.relu`, `_operator.add`).

    Raises:
        ValueError: There is none.
    """
    package, *path = name.split(".") if "." in name else ("builtins", name)
    try:
        found: Any = importlib.import_module(package)
        for part in path:
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"no function {name!r}") from error
    function: Callable[..., Any] = found
    return function
