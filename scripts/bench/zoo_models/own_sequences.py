"""Networks for text, speech and series that people write themselves."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from zoo_models.subject import Subject, noise


class CausalBlock(nn.Module):
    """nanoGPT's block: attention to the past with one linear for its three parts, then an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.parts = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.heads = heads

    def forward(self, features: Tensor) -> Tensor:
        """Give features of the same shape."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.parts(self.norm1(features)).chunk(3, -1)
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        features = features + self.project(mixed.transpose(1, 2).flatten(2))
        changed: Tensor = features + self.mlp(self.norm2(features))
        return changed


class NanoGpt(nn.Module):
    """A small GPT whose head shares the weights of the embedding."""

    def __init__(self, vocabulary: int = 256, width: int = 128, layers: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(128, width)
        self.blocks = nn.Sequential(*(CausalBlock(width, 4) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Give logits of shape (batch, time, vocabulary)."""
        places = torch.arange(ids.shape[1], device=ids.device)
        features = self.blocks(self.embed(ids) + self.places(places))
        logits: Tensor = self.head(self.norm(features))
        return logits


class Conformer(nn.Module):
    """A block of speech recognition: half MLPs around attention and a gated convolution."""

    def __init__(self, width: int = 144, heads: int = 4) -> None:
        super().__init__()
        self.before, self.after = self._mlp(width), self._mlp(width)
        self.norm = nn.LayerNorm(width)
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)
        self.gate = nn.Sequential(nn.Conv1d(width, 2 * width, 1), nn.GLU(1))
        self.convolve = nn.Sequential(
            nn.Conv1d(width, width, 15, padding=7, groups=width),
            nn.BatchNorm1d(width),
            nn.SiLU(),
            nn.Conv1d(width, width, 1),
        )
        self.last = nn.LayerNorm(width)

    @staticmethod
    def _mlp(width: int) -> nn.Module:
        return nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Give frames of the same shape (batch, time, width)."""
        frames = frames + 0.5 * self.before(frames)
        normed = self.norm(frames)
        frames = frames + self.attend(normed, normed, normed, need_weights=False)[0]
        frames = frames + self.convolve(self.gate(frames.transpose(1, 2))).transpose(1, 2)
        changed: Tensor = self.last(frames + 0.5 * self.after(frames))
        return changed


class Forecaster(nn.Module):
    """A recurrent network and a head that reads its last state.

    Args:
        kind: `nn.LSTM` or `nn.GRU`.
    """

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.recur = kind(8, 64, num_layers=2, batch_first=True)
        self.head = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 12))

    def forward(self, series: Tensor) -> Tensor:
        """Give the next 12 values of series of shape (batch, time, 8)."""
        states, _ = self.recur(series)
        forecast: Tensor = self.head(states[:, -1])
        return forecast


class TasNetLike(nn.Module):
    """Separates two voices: a learned filter bank, dilated convolutions with PReLU, masks."""

    def __init__(self, width: int = 64, hidden: int = 128) -> None:
        super().__init__()
        self.encode = nn.Conv1d(1, width, 16, stride=8, bias=False)
        self.norm = nn.GroupNorm(1, width)
        self.blocks = nn.ModuleList(self._block(width, hidden, 2**power) for power in range(4))
        self.masks = nn.Conv1d(width, 2 * width, 1)
        self.decode = nn.ConvTranspose1d(width, 1, 16, stride=8, bias=False)

    @staticmethod
    def _block(width: int, hidden: int, dilation: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv1d(width, hidden, 1),
            nn.PReLU(),
            nn.GroupNorm(1, hidden),
            nn.Conv1d(hidden, hidden, 3, padding=dilation, dilation=dilation, groups=hidden),
            nn.PReLU(),
            nn.GroupNorm(1, hidden),
            nn.Conv1d(hidden, width, 1),
        )

    def forward(self, sound: Tensor) -> Tensor:
        """Give two sounds of shape (batch, 2, samples) for one of shape (batch, 1, samples)."""
        coded = self.encode(sound).relu()
        features = self.norm(coded)
        for block in self.blocks:
            features = features + block(features)
        masks = self.masks(features).unflatten(1, (2, -1)).sigmoid()
        voices = (masks * coded[:, None]).flatten(0, 1)
        separated: Tensor = self.decode(voices).reshape(sound.shape[0], 2, -1)
        return separated


class SinusoidEncoder(nn.Module):
    """torch's own encoder layers under sinusoidal positions that forward computes."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.project = nn.Linear(16, width)
        layer = nn.TransformerEncoderLayer(width, 4, 128, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, frames: Tensor) -> Tensor:
        """Give logits of shape (batch, 10) for frames of shape (batch, time, 16)."""
        features = self.project(frames)
        half = features.shape[-1] // 2
        rates = torch.exp(torch.arange(half) * (-math.log(10000.0) / half))
        angles = torch.arange(features.shape[1])[:, None] * rates
        features = features + torch.cat([angles.sin(), angles.cos()], -1)
        logits: Tensor = self.head(self.encoder(features).mean(1))
        return logits


def _bytes(samples: int, generator: Generator) -> Tensor:
    return torch.randint(0, 256, (samples, 48), generator=generator)


OWN_SEQUENCES = (
    Subject("nanoGPT", "own", NanoGpt, _bytes, dynamic={"ids": [0, 1]}),
    Subject("Conformer block", "own", Conformer, noise(40, 144)),
    Subject("LSTM forecaster", "own", lambda: Forecaster(nn.LSTM), noise(24, 8)),
    Subject("GRU forecaster", "own", lambda: Forecaster(nn.GRU), noise(24, 8)),
    Subject("TasNet-like", "own", TasNetLike, noise(1, 1600)),
    Subject("nn.TransformerEncoder", "own", SinusoidEncoder, noise(20, 16)),
)
