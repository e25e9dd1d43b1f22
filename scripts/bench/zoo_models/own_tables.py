"""Networks for tables, graphs and what else comes in dicts; outputs in dataclasses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from zoo_models.subject import Subject, named, noise


class Recommender(nn.Module):
    """Bags of what a user saw and bought, and numbers, to the chance of a click."""

    def __init__(self, items: int = 2000, width: int = 32) -> None:
        super().__init__()
        self.seen = nn.EmbeddingBag(items, width, mode="mean")
        self.bought = nn.EmbeddingBag(items, width, mode="sum")
        self.numbers = nn.Sequential(nn.Linear(8, width), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(3 * width + 3, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, user: dict[str, Tensor], numbers: Tensor) -> dict[str, Tensor]:
        """Give `click`, shape (batch, 1)."""
        parts = [self.seen(user["seen"]), self.bought(user["bought"]), self.numbers(numbers)]
        crossed = [
            (a * b).sum(1, keepdim=True) for a, b in zip(parts, parts[1:] + parts[:1], strict=True)
        ]
        return {"click": self.top(torch.cat([*parts, *crossed], 1)).sigmoid()}


class GraphNetwork(nn.Module):
    """Messages along edges, summed at their targets by `index_add`.

    One batch is one graph: nodes, and edges as two rows of node numbers.
    """

    def __init__(self, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.embed = nn.Linear(16, width)
        self.message = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(layers))
        self.update = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(layers))
        self.head = nn.Linear(width, 7)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """Give class scores of shape (nodes, 7)."""
        features = self.embed(nodes).relu()
        source, target = edges
        for message, update in zip(self.message, self.update, strict=True):
            pairs = torch.cat([features[source], features[target]], 1)
            heard = torch.zeros_like(features).index_add(0, target, message(pairs).relu())
            features = features + update(torch.cat([features, heard], 1)).relu()
        scores: Tensor = self.head(features)
        return scores


@dataclass
class Reading:
    """What `TwoTowers` gives."""

    score: Tensor
    features: tuple[Tensor, Tensor]


class TwoTowers(nn.Module):
    """Two inputs by keyword alone, one of them optional; a dataclass out."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 32))
        self.right = nn.Sequential(nn.Linear(24, 64), nn.Hardswish(), nn.Linear(64, 32))

    def forward(
        self, *, query: Tensor, document: Tensor, bias: Tensor | None = None, scale: float = 1.0
    ) -> Reading:
        """Give the score of each pair and both features."""
        left, right = self.left(query), self.right(document)
        score = (left * right).sum(-1) * scale
        return Reading(score if bias is None else score + bias, (left, right))


class Autoencoder(nn.Module):
    """Rows of a table through a narrow middle; weight norm, and one weight used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Linear(32, 64))
        self.middle = nn.Linear(64, 8)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Give the rows again, and the middle."""
        code = self.middle(nn.functional.elu(self.first(rows)))
        back = nn.functional.elu(nn.functional.linear(code, self.middle.weight.t()))
        return nn.functional.linear(back, self.first.weight.t()), code


def _bags(samples: int, generator: Generator) -> dict[str, Tensor]:
    return {
        name: torch.randint(0, 2000, (samples, count), generator=generator)
        for name, count in (("seen", 12), ("bought", 5))
    }


def _graph(samples: int, generator: Generator) -> dict[str, Tensor]:
    nodes = 4 * samples
    return {
        "nodes": torch.randn(nodes, 16, generator=generator),
        "edges": torch.randint(0, nodes, (2, 6 * nodes), generator=generator),
    }


OWN_TABLES = (
    Subject("Recommender", "own", Recommender, named(user=_bags, numbers=noise(8))),
    Subject("Graph network", "own", GraphNetwork, _graph, dynamic={"nodes": [0], "edges": [1]}),
    Subject("Two towers", "own", TwoTowers, named(query=noise(32), document=noise(24))),
    Subject("Autoencoder", "own", Autoencoder, noise(32)),
)
