"""The weights that torch keeps of a quantized model, batch norms folded."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized import dynamic as nnqd
from torch.ao.quantization import FakeQuantizeBase, disable_observer
from torch.fx import GraphModule, Node

from autoquant.comparing.runs import StoredWeight
from autoquant.core.findings.layers import TensorFormat
from autoquant.model.graph.tensor_paths import take

Weights = Mapping[str, Tensor]
"""By the parameter's name (`weight`, `weight_ih_l0`)."""


def stored_at(
    model: GraphModule, node: Node, name: str, types: tuple[str, str]
) -> StoredWeight | None:
    """What the kernel of an op uses of the weight of a name; None: it has none."""
    if node.op == "call_module":
        return stored_in(model.get_submodule(str(node.target)), name, types)
    stored = _second_argument(model, node)
    packed = getattr(stored, "unpack", None)
    return stored_as(packed()[0] if callable(packed) else stored, types)


def stored_in(module: nn.Module, name: str, types: tuple[str, str]) -> StoredWeight | None:
    """What the kernel of a module uses of the weight of a name, or of its only one."""
    stored = weights_stored_in(module)
    weight = stored.get(name) if len(stored) > 1 else next(iter(stored.values()), None)
    scale = getattr(getattr(_leading(module), "weight_fake_quant", None), "scale", None)
    rounded_by = scale.detach().double().reshape(-1) if isinstance(scale, Tensor) else None
    return stored_as(weight, types, rounded_by)


def stored_as(
    weight: object, types: tuple[str, str], rounded_by: Tensor | None = None
) -> StoredWeight | None:
    """A weight with the scales that it has, or that a fake-quantize rounded it by."""
    if not isinstance(weight, Tensor):
        return None
    steps, axis, name = rounded_by, 0, str(weight.dtype).removeprefix("torch.")
    if weight.is_quantized:
        if weight.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            steps = torch.tensor([weight.q_scale()], dtype=torch.float64)
        else:
            steps, axis = weight.q_per_channel_scales().double(), int(weight.q_per_channel_axis())
    elif steps is not None:
        name = "qint8"
    form = TensorFormat(name)
    if steps is not None:
        form = TensorFormat(name, float(steps.max()), scale_count=len(steps))
    values = weight.dequantize() if weight.is_quantized else weight.float()
    return StoredWeight(values.detach(), form, types, steps, axis)


def weights_stored_in(owner: nn.Module) -> Weights:
    """Weights of a quantized module, as its kernel uses them.

    Quantized tensors where the kernel keeps them so; rounded floats of fake-quantize and reference
    modules. A batch norm that quantization-aware training keeps beside a convolution is folded.
    """
    module: Any = _leading(owner)
    if isinstance(module, nnqd.modules.rnn.RNNBase):
        return dict(module.get_weight())
    if hasattr(module, "weight_fake_quant"):
        return {"weight": _fake_quantized(module)}
    if hasattr(module, "get_weight"):  # a reference module
        return {"weight": module.get_weight().detach()}
    weight = getattr(module, "weight", None)
    if callable(weight):
        weight = weight()
    if isinstance(weight, Tensor):
        return {"weight": weight.detach()}
    return {
        name: parameter.detach()
        for name, parameter in module.named_parameters(recurse=False)
        if name.startswith("weight")
    }


def _leading(module: nn.Module) -> nn.Module:
    """The module that owns the weight: the first of a fused float pair, or itself.

    Fused modules of quantization-aware training are sequences by class alone.
    """
    is_pair = isinstance(module, nn.Sequential) and not hasattr(module, "weight")
    return module[0] if is_pair else module  # type: ignore[index]


def _fake_quantized(module: Any) -> Tensor:
    """The weight of a module in quantization-aware training, folded and rounded."""
    weight: Tensor = module.weight.detach()
    norm = getattr(module, "bn", None)
    if norm is not None:
        factor = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
        weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    rounding = module.weight_fake_quant
    if isinstance(rounding, FakeQuantizeBase):
        rounding = copy.deepcopy(rounding)
        rounding.apply(disable_observer)
    rounded: Tensor = rounding(weight)
    return rounded.detach()


def _second_argument(model: GraphModule, node: Node) -> object:
    """What a function reads as its weight: an attribute of the model, perhaps through rounding."""
    source: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
    while isinstance(source, Node) and source.op != "get_attr" and source.all_input_nodes:
        source = source.all_input_nodes[0]
    if not isinstance(source, Node) or source.op != "get_attr":
        return None
    found: object = take(model, str(source.target))
    return found
