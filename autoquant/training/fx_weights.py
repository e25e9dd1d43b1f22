"""What is trained: a float model's parameters, as the parameters of its fused graph."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoquant.core.finetuning import BatchNorm
from autoquant.model.float_graph import FloatGraph

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a parameter of the graph comes from: a parameter of the model, or a folded layer's."""

    path: str
    leaf: str
    norm: str | None


class FxWeights:
    """A copy of a float model whose parameters are trained.

    The fused graph computes with batch norms folded into the layers before them, on their running
    statistics: y = (w x + b - mean) gamma / sqrt(var + eps) + beta (Jacob et al., CVPR 2018, eq.
    14, without batch statistics). `graph_parameters` gives the graph's parameters as functions of
    the model's, so that rounding sees the weights that an engine stores.

    Attributes:
        model: The copy, in eval mode. Its parameters are trained in place.

    Args:
        model: The float model; it is not changed.
        traced: Its fused graph.
        batch_norm: `folded` rewrites the copy first, to the same function: gamma becomes
            sqrt(var + eps), and stays so.
    """

    def __init__(self, model: nn.Module, traced: FloatGraph, batch_norm: BatchNorm) -> None:
        self.model = copy.deepcopy(model).eval()
        self._folded = traced.folded
        names = dict(self.model.named_parameters(remove_duplicate=False))
        self._sources = {
            name: self._source(name, names)
            for name, _ in traced.module.named_parameters(remove_duplicate=False)
        }
        for parameter in self.model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        if batch_norm is BatchNorm.FOLDED:
            for path, norm in self._folded.items():
                _fold_in_place(self.model.get_submodule(path), self.model.get_submodule(norm))

    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters to train, by name: those that the graph reads."""
        named = dict(self.model.named_parameters())
        used = {id(item) for source in self._sources.values() for item in self._reads(source)}
        return {
            name: item for name, item in named.items() if item.requires_grad and id(item) in used
        }

    def graph_parameters(self) -> dict[str, Tensor]:
        """The fused graph's parameters, by name; gradients reach the model's."""
        return {name: self._compute(source) for name, source in self._sources.items()}

    def _source(self, name: str, known: dict[str, nn.Parameter]) -> _Source:
        path, _, leaf = name.rpartition(".")
        for candidate in (path, path.removesuffix(".0")):  # a fused layer is the first of several
            if candidate in self._folded:
                return _Source(candidate, leaf, self._folded[candidate])
            if f"{candidate}.{leaf}".lstrip(".") in known:
                return _Source(candidate, leaf, None)
        raise ValueError(f"the model has no parameter for {name!r} of its graph")

    def _reads(self, source: _Source) -> Iterator[nn.Parameter]:
        layer = self.model.get_submodule(source.path)
        if source.norm is None:
            yield getattr(layer, source.leaf)
        else:
            yield from layer.parameters(recurse=False)
            yield from self.model.get_submodule(source.norm).parameters(recurse=False)

    def _compute(self, source: _Source) -> Tensor:
        layer: Any = self.model.get_submodule(source.path)
        if source.norm is None:
            parameter: Tensor = getattr(layer, source.leaf)
            return parameter
        norm = self.model.get_submodule(source.norm)
        return folded_weight(layer, norm) if source.leaf == "weight" else folded_bias(layer, norm)


def folded_weight(layer: Any, norm: Any) -> Tensor:
    """The layer's weight with the norm's scale in it, shape as the weight's."""
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = norm.weight * scale
    weight: Tensor = layer.weight * _along_outputs(layer, scale)
    return weight


def folded_bias(layer: Any, norm: Any) -> Tensor:
    """The layer's bias after the norm, shape (channels,)."""
    shifted = -norm.running_mean if layer.bias is None else layer.bias - norm.running_mean
    bias: Tensor = shifted * torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        bias = bias * norm.weight
    return bias if norm.bias is None else bias + norm.bias


def _fold_in_place(layer: Any, norm: Any) -> None:
    """Make a norm the identity up to a shift, in place: the layer takes its scale over."""
    if norm.weight is None or norm.bias is None:
        return
    with torch.no_grad():
        weight, bias = folded_weight(layer, norm), folded_bias(layer, norm)
        norm.weight.copy_(torch.sqrt(norm.running_var + norm.eps))
        layer.weight.copy_(weight)
        shift = norm.running_mean if layer.bias is None else norm.running_mean - layer.bias
        norm.bias.copy_(bias + shift)
    norm.weight.requires_grad_(False)
    if layer.bias is not None:
        layer.bias.requires_grad_(False)  # the norm's bias does the same


def _along_outputs(layer: Any, scale: Tensor) -> Tensor:
    """One factor for each output channel, to multiply a weight with."""
    ones = [1] * (layer.weight.ndim - 2)
    shape = (1, -1, *ones) if isinstance(layer, _TRANSPOSED) else (-1, 1, *ones)
    return scale.reshape(shape)
