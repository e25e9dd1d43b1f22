"""Plan -> model, module by module: torch's eager-mode modules at the scales of the cache."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao.nn.quantized import DeQuantize, Quantize
from torch.ao.quantization import QConfig
from torch.ao.quantization.quantization_mappings import (
    get_default_dynamic_quant_module_mappings,
    get_default_static_quant_module_mappings,
)
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from autoquant.core.plan import Plan
from autoquant.core.precision import Mode, Scheme
from autoquant.core.sites import OpKind, Site
from autoquant.core.statistics import CalibrationStatistics
from autoquant.model.captured import Capture
from autoquant.model.torch_ao.conversion import quiet_torch
from autoquant.model.torch_ao.float_linears import FullRangeDynamicLinear, static_linear
from autoquant.model.torch_ao.observers import KnownScale, ScaleCache
from autoquant.model.torch_ao.qconfig import (
    QuantizationSettings,
    activation_observer,
    qconfig_for,
)


class Bfloat16Module(nn.Module):
    """A module that computes in bf16 between fp32 neighbours.

    Args:
        module: In float32; it is copied.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        """Cast in, compute, cast out."""
        found: Tensor = self.module(x.to(torch.bfloat16))
        return found.to(torch.float32)


class ContiguousEmbedding(nn.Module):
    """torch's quantized embedding, for indices of any strides: its kernel refuses some.

    Args:
        module: From `torch.ao.nn.quantized.Embedding`.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, indices: Tensor) -> Tensor:
        """Look rows up."""
        found: Tensor = self.module(indices.contiguous())
        return found


class ModuleBuilder:
    """Builds the modules of plans; each is built once for a site and a scheme.

    A static int8 module is `nn.Sequential(Quantize, quantized module, DeQuantize)`: what torch's
    eager mode makes of a `QuantWrapper` around the module; a linear layer gives floats directly
    where the engine has a kernel for it. The others are torch's dynamic and weight-only modules
    (dynamic ones with all 8 bits, unless the engine saturates), and for bf16 a cast.

    Args:
        model: The float model; never changed.
        captured: Its sites.
        statistics: Of its tensors.
        settings: What the target decides.
    """

    def __init__(
        self,
        model: nn.Module,
        captured: Capture,
        statistics: CalibrationStatistics,
        settings: QuantizationSettings,
    ) -> None:
        self._captured = captured
        self._settings = settings
        self._cache = ScaleCache(statistics, settings.ranges.fixed_tensors)
        self._model = _folded(model, captured.traced.folded)
        self._known: dict[tuple[str, Scheme], nn.Module] = {}

    def build(self, plan: Plan) -> tuple[nn.Module, Mapping[str, nn.Module]]:
        """Give the model with its sites replaced, and the module of each site that is one.

        Weights that stay in float are shared with the float model. To be called with the engine
        in use for which weights are to be packed.

        Raises:
            ValueError: Calibration did not see a tensor that the plan quantizes.
        """
        built = copy_sharing(self._model)
        schemes = dict(plan.assignment)
        modules: dict[str, nn.Module] = {}
        for site in self._captured.sites:
            if site.function is not None or not site.kind.is_weighted:
                continue
            scheme = schemes[site.name]
            old = built.get_submodule(site.module)
            new = old if scheme is Scheme.FP32 else self._module(site, scheme)
            modules[site.name] = new
            if new is not old:
                _replace(built, old, new)
        return built, modules

    def _module(self, site: Site, scheme: Scheme) -> nn.Module:
        known = self._known.get((site.name, scheme))
        if known is None:
            with quiet_torch(), torch.no_grad():
                known = self._make(self._model.get_submodule(site.module), site, scheme)
            self._known[site.name, scheme] = known
        return known

    def _make(self, module: nn.Module, site: Site, scheme: Scheme) -> nn.Module:
        if scheme is Scheme.BF16:
            return Bfloat16Module(module)
        observed = copy.copy(module)
        observed._modules = dict(module._modules)
        observed.qconfig = qconfig_for(site, scheme, self._settings, site.kind)  # type: ignore[assignment]
        if scheme.mode is Mode.STATIC and scheme is not Scheme.FP16:
            return self._make_static(observed, site)
        if scheme is Scheme.INT8_WEIGHT_ONLY:
            made = _converted(observed, get_default_static_quant_module_mappings())
            return ContiguousEmbedding(made) if site.kind is OpKind.EMBEDDING else made
        full_range = scheme is Scheme.INT8_DYNAMIC and not self._settings.reduce_range
        if type(module) is nn.Linear and full_range:
            return _converted(observed, {nn.Linear: FullRangeDynamicLinear})
        return _converted(observed, get_default_dynamic_quant_module_mappings())

    def _make_static(self, observed: nn.Module, site: Site) -> nn.Module:
        observed.activation_post_process = self._range(site, self._captured.writes(site.name))
        read = self._range(site, self._captured.reads(site.name))
        scale, zero_point = float(read.scale), int(read.zero_point)
        if type(observed) is nn.Linear:
            linear = static_linear(observed, scale, zero_point)
            if linear is not None:
                return linear.eval()
        made = _converted(observed, get_default_static_quant_module_mappings())
        return nn.Sequential(Quantize(scale, zero_point, torch.quint8), made, DeQuantize()).eval()

    def _range(self, site: Site, tensors: tuple[str, ...]) -> KnownScale:
        observer = activation_observer(site, Scheme.INT8, self._settings)()
        return KnownScale(observer, *self._cache.scale(observer, tensors))


def _converted(observed: nn.Module, mappings: Mapping[Any, Any]) -> nn.Module:
    made: nn.Module = mappings[type(observed)].from_float(observed)
    return made.eval()


def qconfigs_by_module(
    sites: Iterable[Site], plan: Plan, settings: QuantizationSettings
) -> dict[str, QConfig | None]:
    """Give torch's QConfig of each weighted module, by path: for `module.qconfig` in eager mode.

    Args:
        sites: Of the model.
        plan: One scheme for every site.
        settings: What the target decides.

    Returns:
        None where torch leaves the module in float, and for bf16, which is a cast.
    """
    schemes = dict(plan.assignment)
    return {
        site.module: qconfig_for(site, schemes[site.name], settings, site.kind)
        for site in sites
        if site.function is None and site.kind.is_weighted
    }


def copy_sharing(model: nn.Module) -> nn.Module:
    """Copy a model's modules; parameters and buffers are shared."""
    shared = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


def _folded(model: nn.Module, folded: Mapping[str, str]) -> nn.Module:
    """A copy whose batch norms are folded as the captured graph's are."""
    found = copy_sharing(model).eval()
    for path, norm_path in folded.items():
        layer, norm = found.get_submodule(path), found.get_submodule(norm_path)
        fuse = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
        transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
        fused = fuse(layer, norm, True) if transposed else fuse(layer, norm)  # type: ignore
        _replace(found, layer, fused)
        _replace(found, norm, nn.Identity())
    return found


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` at every path of `old`, in place."""
    paths = [path for path, item in model.named_modules(remove_duplicate=False) if item is old]
    for path in paths:
        model.set_submodule(path, new)


def transposed_convolution_error(dimensions: int) -> float:
    """How far the engine in use is from float in an int8 transposed convolution to more channels.

    Args:
        dimensions: 1, 2 or 3.

    Returns:
        The largest difference, in steps of the output's scale: less than 1 where it is right.
    """
    kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    functions = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(-8, 8, (1, 4, *[4] * dimensions), generator=draw).float()
    weight = torch.randint(-8, 8, (4, 8, *[3] * dimensions), generator=draw).float()
    quantized = get_default_static_quant_module_mappings()[kinds[dimensions - 1]](
        4, 8, 3, bias=False
    )
    with quiet_torch(), torch.no_grad():
        quantized.set_weight_bias(torch.quantize_per_tensor(weight, 1.0, 0, torch.qint8), None)
        expected = functions[dimensions - 1](x, weight)
        quantized.scale, quantized.zero_point = float(expected.abs().max()) / 127, 128
        found = quantized(torch.quantize_per_tensor(x, 1.0, 128, torch.quint8)).dequantize()
        steps = (found - expected).abs().max() / quantized.scale
    return float(steps)
