"""Small models of every kind that people bring, each with inputs for two sizes of batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.fx_networks import ResidualBlock


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(True)
        )
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.layers = nn.Sequential(ResidualBlock(8, 8, 1), ResidualBlock(8, 16, 2))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(self.pool(self.stem(x)))
        return self.fc(torch.flatten(self.avgpool(y), 1))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, 4, 1)
        self.fc2 = nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = F.hardsigmoid(self.fc2(F.relu(self.fc1(self.pool(x)))))
        return x * scale


class MobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish()
        )
        self.expand = nn.Sequential(
            nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(16, 16, 5, 1, 2, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6()
        )
        self.squeeze = SqueezeExcite(16)
        self.project = nn.Sequential(nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.project(self.squeeze(self.depthwise(self.expand(x)))) + x
        return self.head(y.mean((2, 3)))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
        self.embedding = nn.Embedding(50, 16)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 4)

    def forward(self, tokens: Tensor, padding: Tensor) -> dict[str, Tensor]:
        y = self.encoder(self.embedding(tokens), src_key_padding_mask=padding)
        return {"logits": self.head(y), "pooled": y.mean(1)}


def bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    return BertModel(config)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=60, n_positions=32, n_embd=16, n_layer=2, n_head=2, use_cache=False
    )
    return GPT2LMHeadModel(config)


class WindowBlock(nn.Module):
    """Attention within windows of an image, as Swin has it: rolled, masked and with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.bias = nn.Parameter(torch.randn(2, 16, 16))
        self.proj = nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        y = torch.roll(self.norm(x), (-2, -2), (1, 2))
        y = y.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = self.qkv(y).reshape(-1, 16, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        attention = ((q * 8**-0.5) @ k.transpose(-2, -1) + self.bias).softmax(-1)
        y = self.proj((attention @ v).transpose(1, 2).reshape(-1, 16, c))
        y = y.view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        x = x + torch.roll(y, (2, 2), (1, 2))
        x = x + self.mlp(x)
        return self.head(x.mean((1, 2)))


class ConvNeXtBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.depthwise = nn.Conv2d(16, 16, 7, padding=3, groups=16)
        self.norm = nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 64), nn.Linear(64, 16)
        self.gamma = nn.Parameter(torch.full((16,), 0.5))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(F.gelu(self.up(y)))
        x = x + y.permute(0, 3, 1, 2)
        return self.head(x.mean([-2, -1]))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.down(x))
        y = F.relu(self.middle(F.max_pool2d(first, 4)))
        y = F.interpolate(self.up(y), scale_factor=2, mode="bilinear", align_corners=False)
        return self.out(torch.cat([first, y], 1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(6, 8, batch_first=True, bidirectional=True)
        self.second = nn.GRU(16, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.first(x)
        y, _ = self.second(y)
        return self.head(y[:, -1])


class Recommender(nn.Module):
    """Two inputs by name, one of them of no rank at all, and outputs that are no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(20, 8)
        self.dense = nn.Linear(4, 8)
        self.top = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 6))

    def forward(self, items: Tensor, features: Tensor, temperature: Tensor) -> dict[str, Any]:
        looked_up = self.items(items).mean(1)
        scores = self.top(torch.cat([looked_up, self.dense(features)], 1)) / temperature
        best = torch.topk(scores, 2)
        return {
            "scores": scores,
            "best": (best.values, best.indices),
            "class": scores.argmax(1),
            "name": "recommender",
            "version": 3,
            "aux": None,
        }


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.message, self.update = nn.Linear(8, 8), nn.Linear(16, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        messages = F.relu(self.message(nodes[edges[0]]))
        total = torch.zeros_like(nodes).index_add(0, edges[1], messages)
        return self.head(F.relu(self.update(torch.cat([nodes, total], 1))))


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 8, 3, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        x.clamp_(0.1, 0.9)
        y = self.conv(x)
        y.mul_(0.5)
        y.relu_()
        y[:, 0] = 0.0
        return self.second(y).flatten(1)


class Replicating(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, padding_mode="replicate")
        self.act = nn.PReLU(8)
        self.second = nn.Conv2d(8, 4, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.act(self.conv(x)))


class Normed(nn.Module):
    """`Linear`, `BatchNorm1d`, `ReLU`, and a head behind a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Sorting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sort(self.linear(x), dim=1).values)


@dataclass(frozen=True)
class Kind:
    """A model and batches of it: the first is the example, the second has other sizes."""

    make: Callable[[], nn.Module]
    batches: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
    dynamic: tuple[tuple[int, ...], ...]
    names: tuple[str, ...] = ("x",)


def _images(count: int) -> tuple[Tensor, ...]:
    return (torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(count)),)


def _rows(count: int, *shape: int) -> tuple[Tensor, ...]:
    return (torch.randn(count, *shape, generator=torch.Generator().manual_seed(count)),)


def _tokens(count: int, length: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(count)
    tokens = torch.randint(0, 50, (count, length), generator=draw)
    mask = torch.ones(count, length, dtype=torch.int64)
    mask[0, -2:] = 0
    return tokens, mask


def _padded(count: int, length: int) -> tuple[Tensor, Tensor]:
    tokens, mask = _tokens(count, length)
    return tokens, mask == 0


def _baskets(count: int) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(count)
    items = torch.randint(0, 20, (count, 3), generator=draw)
    return items, torch.randn(count, 4, generator=draw), torch.tensor(1.5)


def _network(nodes: int, edges: int) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(nodes)
    return torch.randn(nodes, 8, generator=draw), torch.randint(
        0, nodes, (2, edges), generator=draw
    )


_PICTURES = (_images(4), _images(3))
_FIRST = ((0,),)
_TEXT = ((0, 1), (0, 1))

KINDS = {
    "resnet": Kind(ResNet, _PICTURES, _FIRST),
    "mobilenet": Kind(MobileNet, _PICTURES, _FIRST),
    "windows": Kind(WindowBlock, _PICTURES, _FIRST),
    "convnext": Kind(ConvNeXtBlock, _PICTURES, _FIRST),
    "unet": Kind(UNet, _PICTURES, _FIRST),
    "in place": Kind(InPlace, _PICTURES, _FIRST),
    "replicate": Kind(Replicating, _PICTURES, _FIRST),
    "normed": Kind(Normed, (_rows(8, 8), _rows(5, 8)), _FIRST),
    "recurrent": Kind(Recurrent, (_rows(4, 5, 6), _rows(3, 5, 6)), _FIRST),
    "sort": Kind(Sorting, (_rows(8, 8), _rows(5, 8)), _FIRST),
    "encoder": Kind(Encoder, (_padded(4, 8), _padded(3, 6)), _TEXT, ("tokens", "padding")),
    "bert": Kind(bert, (_tokens(4, 8), _tokens(3, 6)), _TEXT, ("input_ids", "attention_mask")),
    "gpt2": Kind(gpt2, (_tokens(4, 8), _tokens(3, 6)), _TEXT, ("input_ids", "attention_mask")),
    "recommender": Kind(
        Recommender,
        (_baskets(4), _baskets(3)),
        ((0,), (0,), ()),
        ("items", "features", "temperature"),
    ),
    "graph": Kind(Graph, (_network(6, 10), _network(5, 7)), ((0,), (1,)), ("nodes", "edges")),
}


def build(name: str) -> nn.Module:
    """A model in eval mode, its batch norms with statistics that matter."""
    torch.manual_seed(0)
    model = KINDS[name].make()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()
