"""Quantized linear layers between float neighbours, without rounding that nobody needs there."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.ao.nn import quantized as nnq
from torch.ao.nn.quantized import dynamic as nnqd


class FloatOutputLinear(nnq.Linear):
    """Static int8 weights and inputs, float output: the output is not rounded to 8 bits.

    One kernel quantizes the input at its fixed scale, multiplies integers and gives floats; torch's
    own module would quantize its output only for the next op to dequantize it. fbgemm has it, and
    x86 where it packs weights for fbgemm.
    """

    input_scale = 1.0
    input_zero_point = 0

    def forward(self, x: Tensor) -> Tensor:
        """Give float outputs for float inputs."""
        found: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x, self.input_scale, self.input_zero_point, self._packed_params._packed_params
        )
        return found

    @property
    def runs_here(self) -> bool:
        """Whether the engine that packed the weights has the kernel."""
        try:
            self.forward(torch.zeros(1, self.in_features))
        except RuntimeError:
            return False
        return True


class FullRangeDynamicLinear(nnqd.Linear):
    """Dynamic int8 with all 8 bits of the input; torch's own module uses 7 on every CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Give float outputs for float inputs."""
        found: Tensor = torch.ops.quantized.linear_dynamic(
            x, self._packed_params._packed_params, reduce_range=False
        )
        return found


def static_linear(observed: nn.Module, scale: float, zero_point: int) -> FloatOutputLinear | None:
    """Make the static layer, if the engine in use has its kernel.

    Args:
        observed: A float layer with its QConfig and activation observer, as `convert` takes it.
        scale: Of the input.
        zero_point: Of the input, unsigned.
    """
    made: FloatOutputLinear = FloatOutputLinear.from_float(observed)  # type: ignore[no-untyped-call]
    made.input_scale, made.input_zero_point = scale, zero_point
    return made if made.runs_here else None
