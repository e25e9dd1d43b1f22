"""Fake-quantize modules of torch, and scales of a search that round: their grids."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantizeBase, ObserverBase, disable_observer
from torch.fx import GraphModule

from autoquant.errors import ModelError
from autoquant.torch_ao.scales import KnownScale


@dataclass(frozen=True, slots=True)
class FakeGrid:
    """The integer grid that a fake-quantize module rounds to.

    Attributes:
        bits: Of its integers.
        scale: Shape (channels,), or one element.
        zero_point: As `scale`.
        low: Smallest integer.
        high: Largest integer.
    """

    bits: int
    scale: Tensor
    zero_point: Tensor
    low: int
    high: int


def is_fake_quantize(module: nn.Module) -> bool:
    """Whether the module rounds, or watches, the tensor that it is given."""
    return isinstance(module, (FakeQuantizeBase, ObserverBase))


def grid_of(module: nn.Module) -> FakeGrid | None:
    """Where a module rounds to; None: it does not round."""
    if isinstance(module, KnownScale) and module.rounds:
        low, high = module.quant_min, module.quant_max
        return FakeGrid((high - low).bit_length(), module.scale, module.zero_point, low, high)
    if isinstance(module, FakeQuantizeBase) and bool(module.fake_quant_enabled[0]):
        observer: Any = getattr(module, "activation_post_process", module)
        low, high = int(observer.quant_min), int(observer.quant_max)
        return FakeGrid(
            (high - low).bit_length(),
            torch.as_tensor(module.scale).detach().reshape(-1),
            torch.as_tensor(module.zero_point).detach().reshape(-1),
            low,
            high,
        )
    return None


def holds_fake_quantize(model: nn.Module) -> bool:
    """Whether some of its roundings are simulated in float."""
    return any(grid_of(module) is not None for module in model.modules())


def frozen_copy(model: GraphModule) -> GraphModule:
    """A copy in eval mode whose observers no longer follow the data."""
    frozen = copy.deepcopy(model).eval()
    frozen.apply(disable_observer)
    inner = {
        id(part)
        for item in frozen.modules()
        if isinstance(item, FakeQuantizeBase)
        for part in item.children()
    }
    for name, module in frozen.named_modules():
        if isinstance(module, FakeQuantizeBase):
            _check_seen(name, module)
        elif isinstance(module, ObserverBase) and id(module) not in inner and not grid_of(module):
            raise ModelError(
                f"the quantized model still observes at {name}, and computes in float",
                hint="convert it with convert_fx, or prepare it with prepare_qat_fx",
            )
    return frozen


def _check_seen(name: str, module: FakeQuantizeBase) -> None:
    """Refuse a scale that is still the one of an untouched module."""
    low = getattr(getattr(module, "activation_post_process", None), "min_val", None)
    if isinstance(low, Tensor) and (low.numel() == 0 or bool(torch.isinf(low).any())):
        raise ModelError(
            f"the fake-quantize {name} has seen no data",
            hint="run calibration batches through the prepared model first",
        )
