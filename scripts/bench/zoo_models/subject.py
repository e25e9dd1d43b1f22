"""One architecture of the zoo: how to make it, and what it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn

Inputs = Callable[[int, Generator], Any]


@dataclass(frozen=True, slots=True)
class Subject:
    """An architecture.

    Attributes:
        name: As users call it.
        source: The package that defines it; `own`: this folder.
        make: Gives the model; its weights are drawn after `torch.manual_seed`.
        inputs: Gives the inputs of so many samples, as a user would hand them to the model: a
            tensor, a tuple, or a mapping by the names of forward's parameters.
        real: Whether the weights are trained ones that a package carries.
        dynamic: By input, the axes whose size may change; what is not named: the first.
    """

    name: str
    source: str
    make: Callable[[], nn.Module]
    inputs: Inputs
    real: bool = False
    dynamic: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def batch(self, samples: int, seed: int) -> Any:
        """Inputs of so many samples; always the same for a seed."""
        return self.inputs(samples, Generator().manual_seed(seed))

    def model(self) -> nn.Module:
        """The model in eval mode; random weights are such that every layer does something."""
        torch.manual_seed(0)
        model = self.make().eval()
        if not self.real:
            _settle(model, self.batch(4, seed=1))
        return model.requires_grad_(requires_grad=True)


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """Call a model as a user would."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def images(size: int, channels: int = 3) -> Inputs:
    """Square images: smooth shapes with a little noise."""

    def draw(samples: int, generator: Generator) -> Tensor:
        coarse = torch.randn(samples, channels, 8, 8, generator=generator)
        smooth = nn.functional.interpolate(coarse, (size, size), mode="bilinear")
        return smooth + 0.2 * torch.randn(samples, channels, size, size, generator=generator)

    return draw


def tokens(
    length: int, vocabulary: int, *, ids: str = "input_ids", mask: str | None = "attention_mask"
) -> Inputs:
    """Token sequences by name; with a mask, all but the first are padded."""

    def draw(samples: int, generator: Generator) -> dict[str, Tensor]:
        found = {ids: torch.randint(0, vocabulary, (samples, length), generator=generator)}
        if mask is not None:
            kept = torch.randint(length // 2, length + 1, (samples, 1), generator=generator)
            kept[0] = length
            found[mask] = (torch.arange(length) < kept).long()
        return found

    return draw


def noise(*shape: int) -> Inputs:
    """Standard normal numbers of a shape, the samples apart."""

    def draw(samples: int, generator: Generator) -> Tensor:
        return torch.randn(samples, *shape, generator=generator)

    return draw


def named(**parts: Inputs) -> Inputs:
    """Several inputs by name."""

    def draw(samples: int, generator: Generator) -> dict[str, Any]:
        return {name: part(samples, generator) for name, part in parts.items()}

    return draw


def constant(value: object) -> Inputs:
    """The same value for every batch."""
    return lambda samples, generator: value


def _settle(model: nn.Module, inputs: Any) -> None:
    """Make random weights plausible.

    Weights that start as zero (heads, last norms of blocks) are drawn, layer scales of 1e-6 made
    0.1, and batch norms are given the statistics of a batch: else most of an untrained network
    computes nothing that a plan could spoil.
    """
    norms = [module for module in model.modules() if isinstance(module, _BATCH_NORMS)]
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point() or parameter.numel() < 2:
                continue
            largest = parameter.abs().max()
            if largest < 2e-5 and parameter.ndim > 1:
                parameter.normal_(0, max(parameter[0].numel(), 1) ** -0.5)
            elif 0 < largest < 2e-5:
                parameter.fill_(0.1)
        for norm in norms:
            if norm.affine:
                norm.weight.uniform_(0.7, 1.3)
                norm.bias.normal_(0, 0.1)
        _take_statistics(model, norms, inputs)


_BATCH_NORMS = nn.modules.batchnorm._BatchNorm


def _take_statistics(model: nn.Module, norms: Sequence[Any], inputs: Any) -> None:
    """Run a batch; each norm takes the mean and variance of what it reads."""

    def take(norm: Any, args: tuple[Tensor, ...]) -> None:
        axes = [axis for axis in range(args[0].ndim) if axis != 1]
        mean, variance = args[0].mean(axes), args[0].var(axes, correction=0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance + 0.01 * mean.square() + 1e-3)  # few values say little

    hooks = [
        norm.register_forward_pre_hook(take) for norm in norms if norm.running_mean is not None
    ]
    if hooks:
        call(model, inputs)
    for hook in hooks:
        hook.remove()
