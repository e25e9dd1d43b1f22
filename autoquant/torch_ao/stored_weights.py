"""The weights of an op in the float model and in a quantized one, batch norms folded."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized import dynamic as nnqd
from torch.ao.quantization import FakeQuantizeBase, disable_observer
from torch.fx import GraphModule, Node

from autoquant.model.graph.tensor_paths import take

Weights = Mapping[str, Tensor]
"""By the parameter's name (`weight`, `weight_ih_l0`)."""


def float_weights(model: GraphModule, node: Node) -> Weights:
    """Weights of a float op: a module's, or the parameter that a function reads second."""
    if node.op == "call_module":
        module = _leading(model.get_submodule(str(node.target)))
        return {
            name: parameter.detach()
            for name, parameter in module.named_parameters(recurse=False)
            if name.startswith("weight")
        }
    stored = _second_argument(model, node)
    return {"weight": stored.detach()} if isinstance(stored, Tensor) and stored.ndim > 1 else {}


def stored_weights(model: GraphModule, node: Node) -> Weights:
    """Weights of the same op in a quantized model, as its kernel uses them.

    Quantized tensors where the kernel keeps them so; rounded floats of fake-quantize and reference
    modules. A batch norm that quantization-aware training keeps beside a convolution is folded.
    """
    if node.op != "call_module":
        stored = _second_argument(model, node)
        packed = getattr(stored, "unpack", None)
        if callable(packed):
            return {"weight": packed()[0]}
        return {"weight": stored.detach()} if isinstance(stored, Tensor) else {}
    return weights_stored_in(model.get_submodule(str(node.target)))


def weights_stored_in(owner: nn.Module) -> Weights:
    """Weights of a quantized module, as its kernel uses them."""
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


def weight_scales(weight: Tensor) -> tuple[Tensor, int] | None:
    """Scales of a quantized weight, and their axis (-1 for one scale); None: it is float."""
    if not weight.is_quantized:
        return None
    if weight.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return torch.tensor([weight.q_scale()], dtype=torch.float64), -1
    return weight.q_per_channel_scales().double(), int(weight.q_per_channel_axis())


def fake_quantize_scales(model: GraphModule, node: Node) -> Tensor | None:
    """Scales of an op's weight fake-quantize, shape (channels,) or (1,); None: it has none."""
    if node.op != "call_module":
        return None
    return fake_scales_of(model.get_submodule(str(node.target)))


def fake_scales_of(module: nn.Module) -> Tensor | None:
    """Scales of a module's weight fake-quantize, shape (channels,) or (1,); None: it has none."""
    rounding = getattr(_leading(module), "weight_fake_quant", None)
    scale = getattr(rounding, "scale", None)
    return scale.detach().double().reshape(-1) if isinstance(scale, Tensor) else None


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
