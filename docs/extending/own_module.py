"""A module with a kernel of its own: a squared ReLU and a linear layer, in int8 as a whole."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import autoquant as aq
from autoquant.model.graph.custom_module import Observed
from autoquant.model.numerics.weight_grids import WeightGrid


class SquaredLinear(nn.Module):
    """relu(x)^2 times a matrix (So et al., "Primer", NeurIPS 2021, section 4)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Give (..., outputs) of (..., inputs)."""
        found: Tensor = self.linear(x.relu().square())
        return found


class SquaredLinearInt8(nn.Module):
    """The same on integers: the activation is a table of 256 entries, the product one of bytes."""

    def __init__(self, module: nn.Module, observed: Observed) -> None:
        super().__init__()
        weight, grid = module.linear.weight.detach(), WeightGrid(0, -127, 127)
        scale = grid.scale(weight)
        self.reads = observed.reads
        levels = (torch.arange(256) - self.reads.zero_point) * self.reads.scale
        squares = levels.relu().square()
        step = squares.max().clamp_min(1e-12) / 127
        self.register_buffer("table", (squares / step).round().to(torch.int8))
        self.register_buffer("weight", grid.codes(weight, scale).to(torch.int8).t())
        self.register_buffer("scale", scale * step)
        self.register_buffer("bias", module.linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Give (..., outputs) of (..., inputs)."""
        levels = (x / self.reads.scale).round() + self.reads.zero_point
        squares = self.table[levels.clamp(0, 255).long()]
        product = torch._int_mm(squares.flatten(0, -2), self.weight)
        return (product * self.scale + self.bias).unflatten(0, x.shape[:-1])


SquaredLinear.autoquant = aq.CustomModule(int8=SquaredLinearInt8)
