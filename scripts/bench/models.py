"""Models for benchmarks, and the same functions with outlier channels inside."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

OUTLIER_SCALE = 64.0


class TinyEncoder(nn.Module):
    """A transformer encoder over sequences of vectors, written so that torch.fx can trace it.

    Args:
        width: Features of a token.
        heads: Attention heads.
        layers: Encoder layers.
        classes: Outputs.
    """

    def __init__(self, width: int = 64, heads: int = 4, layers: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.embed = nn.Linear(16, width)
        self.layers = nn.Sequential(*(EncoderLayer(width, heads) for _ in range(layers)))
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Give logits of shape (batch, classes) for tokens of shape (batch, length, 16)."""
        features: Tensor = self.layers(self.embed(tokens))
        logits: Tensor = self.head(features.mean(1))
        return logits


class EncoderLayer(nn.Module):
    """Attention and a feed-forward network, each after a layer norm and around a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.act = nn.ReLU()
        self.down = nn.Linear(4 * width, width)
        self.heads, self.depth = heads, width // heads

    def forward(self, tokens: Tensor) -> Tensor:
        """Give features of the shape of `tokens`."""
        tokens = tokens + self.project(self._attend(self.norm1(tokens)))
        features: Tensor = self.down(self.act(self.up(self.norm2(tokens))))
        return tokens + features

    def _attend(self, tokens: Tensor) -> Tensor:
        query, key, value = (
            part(tokens).unflatten(-1, (self.heads, self.depth)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = torch.matmul(query, key.transpose(2, 3)) * self.depth**-0.5
        mixed = torch.matmul(torch.softmax(scores, -1), value)
        return mixed.transpose(1, 2).flatten(2)


class DeepNet(nn.Module):
    """Many narrow convolutions, each around a shortcut.

    Args:
        depth: Convolutions; each with its add makes two sites.
        width: Channels.
    """

    def __init__(self, depth: int, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(ShortcutLayer(width) for _ in range(depth)))
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Give outputs of shape (batch, 10) for images of shape (batch, width, height, width)."""
        outputs: Tensor = self.head(self.layers(images).mean((2, 3)))
        return outputs


class ShortcutLayer(nn.Module):
    """A convolution and a relu around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Give images of the same shape."""
        changes: Tensor = torch.relu(self.conv(images))
        return images + 0.1 * changes


def tiny_encoder(steps: int = 60) -> nn.Module:
    """A `TinyEncoder` after a short training on synthetic sequences; always the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = TinyEncoder()
        optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
        for step in range(steps):
            tokens, targets = sequences(64, seed=step + 1000)
            loss = nn.functional.cross_entropy(network(tokens), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def sequences(count: int, seed: int, length: int = 32) -> tuple[Tensor, Tensor]:
    """Noisy sequences of one of ten patterns, and which one each holds.

    Returns:
        Tokens of shape (count, length, 16), targets of shape (count,).
    """
    draw = torch.Generator().manual_seed(seed)
    patterns = torch.randn(10, 4, 16, generator=torch.Generator().manual_seed(7))
    targets = torch.randint(0, 10, (count,), generator=draw)
    tokens = torch.randn(count, length, 16, generator=draw)
    start = torch.randint(0, length - 4, (count,), generator=draw)
    rows = torch.arange(count)
    for offset in range(4):
        tokens[rows, start + offset] += 2 * patterns[targets, offset]
    return tokens, targets


def scale_channels(
    writers: Sequence[nn.Module], readers: Sequence[nn.Module], count: int = 2
) -> None:
    """Scale the largest channels of a tensor by 64 and undo it in the weights that read it.

    In place. Between writers and readers there may be nothing but what commutes with a positive
    factor (a relu, a pool, an add of writers), so that the network's outputs stay as they are.

    Args:
        writers: Modules with weight and bias, one row for each channel; the first chooses.
        readers: All modules that read the tensor.
        count: How many channels.
    """
    first: Any = writers[0]
    with torch.no_grad():
        largest = first.weight.abs().reshape(len(first.weight), -1).sum(1)
        channels = largest.topk(count).indices
        module: Any
        for module in writers:
            module.weight[channels] *= OUTLIER_SCALE
            module.bias[channels] *= OUTLIER_SCALE
        for module in readers:
            module.weight[:, channels] /= OUTLIER_SCALE


def _with_outliers(model: nn.Module, tensors: Sequence[tuple[str, str]]) -> nn.Module:
    """A copy with outlier channels in some tensors, given as paths of writers and readers."""
    model = copy.deepcopy(model)
    for writers, readers in tensors:
        scale_channels(
            [model.get_submodule(path) for path in writers.split()],
            [model.get_submodule(path) for path in readers.split()],
        )
    return model


def outlier_resnet20(model: nn.Module) -> nn.Module:
    """The same function with outlier channels in one block of each stage."""
    blocks = ("layer1.1", "layer2.1", "layer3.1")
    return _with_outliers(model, [(f"{block}.bn1", f"{block}.conv2") for block in blocks])


def outlier_encoder(model: nn.Module) -> nn.Module:
    """The same function with outlier channels in a feed-forward network and in attention."""
    return _with_outliers(
        model,
        [("layers.1.up", "layers.1.down"), ("layers.2.value", "layers.2.project")],
    )


def outlier_digits(model: nn.Module) -> nn.Module:
    """The same function with outlier channels in the last shortcut and in a gate.

    A hard-swish does not commute with a factor; these tensors pass none.
    """
    return _with_outliers(
        model,
        [
            ("blocks.1.project.1 blocks.2.project.1", "blocks.2.expand.0 head"),
            ("blocks.2.excite.gate.1", "blocks.2.excite.gate.3"),
        ],
    )
