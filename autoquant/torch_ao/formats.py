"""In which format a model that torch quantized keeps a tensor, and what its ops are called."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from autoquant.core.findings.layers import TensorFormat
from autoquant.torch_ao.fake_quantize import FakeGrid, grid_of

_HOMES = ("quantized.dynamic", "quantized.reference", "quantized", "qat")


def format_of(value: Tensor, rounding: nn.Module | None) -> TensorFormat:
    """The format of an op's output."""
    grid = grid_of(rounding) if rounding is not None else None
    if value.is_quantized:
        scale, zero_point = float(value.q_scale()), int(value.q_zero_point())
        limits = torch.iinfo(value.dtype)
        low, high = ((limit - zero_point) * scale for limit in (limits.min, limits.max))
        return TensorFormat(_name(value.dtype), scale, zero_point, low, high, 1)
    if grid is not None:
        return _of_grid(grid)
    return TensorFormat(_name(value.dtype))


def type_of(model: GraphModule, names: tuple[str, ...]) -> str:
    """Class or function of an op: `ConvReLU2d (quantized)`, `add + relu`."""
    nodes = {node.name: node for node in model.graph.nodes if node.name in names}
    return " + ".join(_type_of(model, nodes[name]) for name in names)


def _type_of(model: GraphModule, node: Node) -> str:
    if node.op == "placeholder":
        return "input"
    if node.op != "call_module":
        return node.target if isinstance(node.target, str) else _function(node.target)
    return class_name(model.get_submodule(str(node.target)))


def class_name(module: nn.Module) -> str:
    """Class of a module, with where it runs: `ConvReLU2d (quantized)`."""
    if type(module) is nn.Sequential:
        module = module[0]
    package = type(module).__module__
    home = next((item for item in _HOMES if f".{item}." in f"{package}."), None)
    return f"{type(module).__name__} ({home})" if home else type(module).__name__


def _function(target: object) -> str:
    """`quantized.add_relu` of an op of torch's library, `add` of a function."""
    name = str(target)
    plain = getattr(target, "__name__", name)
    return name.removesuffix(".default") if name.startswith("quantized.") else plain


def _of_grid(grid: FakeGrid) -> TensorFormat:
    """The format of a fake-quantized tensor: as wide as its integers are."""
    dtype = f"int{grid.bits}" if grid.low < 0 else f"uint{grid.bits}"
    count = grid.scale.numel()
    scale = float(grid.scale.max())
    if count > 1:
        return TensorFormat(dtype, scale, scale_count=count)
    zero_point = int(grid.zero_point.reshape(-1)[0])
    low, high = ((limit - zero_point) * scale for limit in (grid.low, grid.high))
    return TensorFormat(dtype, scale, zero_point, low, high, 1)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
