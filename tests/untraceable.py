"""Small networks that torch.fx cannot trace, as encoders of Hugging Face are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """One head over tokens, with a mask of the lowest float."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        scores = torch.matmul(self.query(hidden), self.key(hidden).transpose(1, 2)) + mask
        weights = torch.softmax(scores, -1)
        return self.norm(hidden + self.output(torch.matmul(weights, self.value(hidden))))


class TokenNet(nn.Module):
    """Assigns an item and branches on a shape: torch.fx refuses both."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, width)
        self.position = nn.Embedding(100, width)
        self.blocks = nn.ModuleList(Attention(width) for _ in range(2))
        self.dropout = nn.Dropout(0.1)
        self.grow = nn.Linear(width, 2 * width)
        self.shrink = nn.Linear(2 * width, width)
        self.unused = nn.Linear(width, width)
        self.head = nn.Linear(width, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens) + self.position(torch.arange(tokens.shape[1]))
        hidden[:, 0] = hidden[:, 0] * 0.5
        if hidden.shape[1] > 100:
            raise ValueError("too many tokens")
        lowest = torch.finfo(hidden.dtype).min
        mask = torch.zeros_like(tokens, dtype=hidden.dtype).masked_fill(tokens == 0, lowest)
        for block in self.blocks:
            hidden = block(hidden, mask[:, None, :])
        self.unused(hidden)
        hidden = self.dropout(self.shrink(F.relu(self.grow(hidden))))
        return self.head(hidden.mean(1))


class PictureNet(nn.Module):
    """A batch norm to fold, a linear layer that is called twice, and an item assignment."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.twice = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = F.relu(self.bn(self.conv(x))).mean((2, 3))
        features[:, 0] = 0.0
        return self.head(self.twice(self.twice(features)))


def tokens(count: int, seed: int = 0, length: int = 8) -> Tensor:
    """Random ids, shape (count, length); some rows end in padding of id 0."""
    draw = torch.Generator().manual_seed(seed)
    found = torch.randint(1, 50, (count, length), generator=draw)
    found[::2, length - 2 :] = 0
    return found
