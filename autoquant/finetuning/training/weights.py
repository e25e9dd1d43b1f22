"""What is trained: a float model's parameters, and the constants of its graph that follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule
from torch.nn.modules.batchnorm import _BatchNorm

from autoquant.core.findings.finetuning import BatchNorm
from autoquant.errors import ModelError
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.float_model import copy_of, named_tensors

_SAME = 1e-4
"""Largest difference, over the largest value, of a constant before and after it is folded."""


class TrainableWeights:
    """A copy of a float model whose parameters are trained.

    The captured graph computes with constants that follow from the parameters: batch norms folded
    into the layers before them on their running statistics, y = (w x + b - mean) gamma /
    sqrt(var + eps) + beta (Jacob et al., CVPR 2018, eq. 14, without batch statistics), normed
    weights, tables. `constants` computes them again, so that rounding sees the weights that an
    engine stores.

    Attributes:
        model: The copy, in eval mode. Its parameters are trained in place.

    Args:
        model: The float model; it is not changed.
        captured: Of it.
        batch_norm: `folded` rewrites the copy first, to the same function: gamma becomes
            sqrt(var + eps), and stays so. `trained` lets running statistics `follow` batches.

    Raises:
        ModelError: It was captured without a graph; or a batch norm cannot be folded by a rewrite.
    """

    def __init__(self, model: nn.Module, captured: Capture, batch_norm: BatchNorm) -> None:
        if captured.weights is None:
            raise ModelError(
                "fine-tuning needs the model's graph, and it was captured module by module",
                hint="the notices of `autoquant check` say why torch.export cannot capture it",
            )
        self.model = copy_of(model).eval()
        self._call = captured.calling.call
        self._following = tuple(
            module
            for module in self.model.modules()
            if batch_norm is BatchNorm.TRAINED
            and isinstance(module, _BatchNorm)
            and module.running_mean is not None
        )
        self._program = captured.weights
        self._read = {
            str(node.target)
            for graph in (captured.graph, captured.weights)
            for node in graph.graph.nodes
            if node.op == "get_attr"
        }
        for parameter in self.model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        if batch_norm is BatchNorm.FOLDED:
            self._fold(captured)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters to train, by name: those that the graph reads."""
        used = {id(item) for name, item in named_tensors(self.model).items() if name in self._read}
        return {
            name: item
            for name, item in self.model.named_parameters()
            if item.requires_grad and id(item) in used
        }

    def statistics(self) -> dict[str, Tensor]:
        """Running statistics that follow the training batches, by name; those of the model."""
        return {
            f"{path}.{name}": buffer
            for path, module in self.model.named_modules()
            if module in self._following
            for name, buffer in module.named_buffers(recurse=False)
        }

    def follow(self, inputs: tuple[Tensor, ...]) -> None:
        """Take a batch into the running statistics, by a forward of the float model."""
        if not self._following:
            return
        for module in self._following:
            module.train()
        try:
            with torch.no_grad():
                self._call(self.model, inputs)
        finally:
            for module in self._following:
                module.eval()

    def constants(self) -> dict[str, Tensor]:
        """The graph's constants by path; gradients reach the model's parameters."""
        held = {
            name: item for name, item in named_tensors(self.model).items() if name in self._read
        }
        return {**held, **_compute(self._program, held)}

    def _fold(self, captured: Capture) -> None:
        """Rewrite every folded batch norm; the graph's constants must not notice."""
        with torch.no_grad():
            before = {name: item.clone() for name, item in self.constants().items()}
            for path, norm in captured.folded.items():
                layer = self.model.get_submodule(path)
                _fold_in_place(layer, self.model.get_submodule(norm), path)
                for name, value in _compute(self._program, named_tensors(self.model)).items():
                    if not _is_close(before[name], value):
                        raise _cannot_fold(path, "it is called without this batch norm too")


def _compute(program: GraphModule, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own = named_tensors(program)
    given = {name: item for name, item in held.items() if name in own}
    found: dict[str, Tensor] = functional_call(program, given, (), tie_weights=False)
    return found


def _fold_in_place(layer: Any, norm: Any, path: str) -> None:
    """Make a norm the identity up to a shift, in place: the layer takes its scale over."""
    if norm.weight is None or norm.bias is None:
        return
    own = dict(layer.named_parameters(recurse=False))
    if "weight" not in own or hasattr(layer, "parametrizations"):
        raise _cannot_fold(path, "its weight is computed from other parameters")
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    centred = -norm.running_mean if layer.bias is None else layer.bias - norm.running_mean
    bias = centred * scale + norm.bias
    layer.weight.copy_(layer.weight * _along_outputs(layer, scale))
    norm.weight.copy_(torch.sqrt(norm.running_var + norm.eps))
    norm.bias.copy_(bias - centred)
    norm.weight.requires_grad_(False)
    if layer.bias is not None:
        layer.bias.requires_grad_(False)  # the norm's bias does the same


def _along_outputs(layer: Any, scale: Tensor) -> Tensor:
    """One factor for each output channel, to multiply a weight with."""
    ones = [1] * (layer.weight.ndim - 2)
    if not getattr(layer, "transposed", False):
        return scale.reshape(-1, 1, *ones)
    groups = int(layer.groups)
    by_group = scale.reshape(groups, 1, -1, *ones)
    shape = (groups, layer.weight.shape[0] // groups, *by_group.shape[2:])
    return by_group.expand(shape).reshape(layer.weight.shape[0], *by_group.shape[2:])


def _is_close(before: Tensor, after: Tensor) -> bool:
    if before.shape != after.shape:
        return False
    if not before.is_floating_point() or not before.numel():
        return True
    limit = _SAME * float(before.abs().max().clamp_min(1e-12))
    return float((before - after).abs().max()) <= limit


def _cannot_fold(path: str, why: str) -> ModelError:
    return ModelError(
        f"batch_norm: folded cannot be expressed at {path}: {why}",
        hint="set batch_norm: frozen, which trains the same function",
    )
