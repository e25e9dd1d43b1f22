"""A small vision transformer and a text encoder, with data, as job files name them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.networks import images

Samples = list[tuple[dict[str, Tensor], Tensor]]


class Attention(nn.Module):
    """Self-attention of four heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, count, width = x.shape
        parts = self.qkv(x).reshape(batch, count, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).reshape(batch, count, width))


class Layer(nn.Module):
    """A transformer layer that normalizes first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width)
        self.norm2 = nn.LayerNorm(width)
        self.grow = nn.Linear(width, 2 * width)
        self.shrink = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.shrink(F.gelu(self.grow(self.norm2(x))))


class VisionTransformer(nn.Module):
    """Patches of 4 x 4 pixels, a class token, two layers, a head."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.5)
        self.places = nn.Parameter(torch.randn(1, 17, width) * 0.5)
        self.layers = nn.Sequential(Layer(width), Layer(width))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        whole = torch.cat([self.token.expand(len(x), -1, -1), patches], 1)
        hidden = self.layers(whole + self.places)
        return self.head(self.norm(hidden[:, 0]))


class TextEncoder(nn.Module):
    """Padded token sequences of any length, two layers, pooled over what is no padding."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.words = nn.Embedding(60, width)
        self.places = nn.Embedding(32, width)
        self.layers = nn.ModuleList([Layer(width), Layer(width)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        hidden = self.words(input_ids) + self.places(places)
        mask = attention_mask[:, None, None, :].bool()
        for layer in self.layers:
            hidden = layer(hidden, mask)
        weight = attention_mask[..., None].float()
        pooled = (self.norm(hidden) * weight).sum(1) / weight.sum(1)
        return {"logits": self.head(pooled), "embedding": pooled}


def vision_model() -> nn.Module:
    """The vision transformer, in eval mode, with fixed random weights."""
    torch.manual_seed(0)
    return VisionTransformer().eval()


def vision_data(seed: int, count: int = 96) -> list[tuple[Tensor, Tensor]]:
    """Images and the labels that the model itself gives."""
    inputs = images(count, seed)
    with torch.no_grad():
        targets = vision_model()(inputs).argmax(1)
    return list(zip(inputs.split(32), targets.split(32), strict=True))


def text_model() -> nn.Module:
    """The text encoder, in eval mode, with fixed random weights."""
    torch.manual_seed(0)
    return TextEncoder().eval()


def loud_text_model() -> nn.Module:
    """The same function, with two channels of the stream in each attention 512 times as large."""
    model = text_model()
    with torch.no_grad():
        for layer in model.layers:
            attention, width = layer.attention, layer.attention.out.in_features
            for channel in (3, 11):
                attention.qkv.weight[2 * width + channel] *= 512.0
                attention.qkv.bias[2 * width + channel] *= 512.0
                attention.out.weight[:, channel] /= 512.0
    return model


def text_data(seed: int, lengths: tuple[int, ...] = (6, 11, 9, 14)) -> Samples:
    """Padded batches of several lengths as mappings, and the labels that the model gives."""
    draw, model = torch.Generator().manual_seed(seed), text_model()
    found = []
    for length in lengths:
        ids = torch.randint(0, 60, (32, length), generator=draw)
        mask = (torch.arange(length) < torch.randint(3, length + 1, (32, 1), generator=draw)).long()
        inputs = {"input_ids": ids, "attention_mask": mask}
        with torch.no_grad():
            found.append((inputs, model(**inputs)["logits"].argmax(1)))
    return found


class MacroF1:
    """F1 over four classes and the whole data set, in the interface of torchmetrics."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was taken in."""
        self.counts = torch.zeros(3, 4)

    def update(self, outputs: dict[str, Tensor], targets: Tensor) -> None:
        """Take in one batch."""
        best = outputs["logits"].argmax(1)
        for name in range(4):
            hits = (best == name) & (targets == name)
            counts = [hits.sum(), (best == name).sum(), (targets == name).sum()]
            self.counts[:, name] += torch.stack(counts)

    def compute(self) -> Tensor:
        """Give the mean of the classes that occur."""
        right, found, given = self.counts
        return (2 * right / (found + given).clamp_min(1))[given > 0].mean()


def text_loss(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    """Cross-entropy of the logits."""
    return F.cross_entropy(outputs["logits"], targets)


def job_of(kind: str, folder: str) -> dict[str, Any]:
    """A job for every command: `vision` or `text`."""
    here = __name__
    data = f"{here}:{kind}_data"
    return {
        "name": kind,
        "model": {"entry": f"{here}:{kind}_model"},
        "data": {
            "calibration": {"entry": data, "arguments": {"seed": 1}},
            "evaluation": {"entry": data, "arguments": {"seed": 2}},
            "heldout": {"entry": data, "arguments": {"seed": 3}},
            "metric": f"{here}:MacroF1" if kind == "text" else "accuracy",
        },
        "backend": {"engine": "onednn", "batch_size": 8, "pairs": 3},
        "space": {"schemes": ["int8", "int16", "fp32"]},
        "sensitivity": {"samples": 32},
        "objectives": ["output_error", "bops"],
        "constraints": {"accuracy_drop": 0.3},
        "budget": {"trials": 2},
        "execution": {"kind": "local"},
        "tracking": {"enabled": False},
        "finetune": {
            "data": {"entry": data, "arguments": {"seed": 4}},
            "loss": f"{here}:text_loss" if kind == "text" else "torch.nn.functional:cross_entropy",
            "float_steps": 8,
            "share": 1.0,
            "checks": 2,
            "learning_rates": [0.001],
        },
        "output": folder,
    }
