"""A model that torch quantized, in whichever way, beside its float model."""

from __future__ import annotations

from torch import Tensor, nn
from torch.fx import GraphModule

from autoquant.comparing.runs import QuantizedModel
from autoquant.errors import ModelError
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.float_model import copy_of
from autoquant.torch_ao.comparison import TorchQuantized
from autoquant.torch_ao.exported import ExportedQuantized, is_exported
from autoquant.torch_ao.modules import ModulesQuantized


def given_model(
    model: nn.Module, captured: Capture, quantized: nn.Module, example: tuple[Tensor, ...]
) -> QuantizedModel:
    """Pair a quantized model with its float model by how torch made it.

    Args:
        model: The float model in eval mode.
        captured: Its exported graph.
        quantized: Of FX graph mode, eager mode, `quantize_dynamic` or `convert_pt2e`.
        example: A few samples, flat.
    """
    try:
        quantized = copy_of(quantized)
    except (TypeError, RuntimeError) as error:
        raise ModelError(
            f"the quantized model cannot be copied: {error}",
            hint="take out of it what copy.deepcopy cannot copy",
        ) from error
    if not isinstance(quantized, GraphModule):
        return ModulesQuantized(model, captured, quantized, example)
    if is_exported(quantized):
        return ExportedQuantized(captured, quantized)
    return TorchQuantized(model, captured, quantized, example)
