"""What the first frontier costs: CPU seconds in float forwards of the evaluation data, and memory.

    python scripts/bench/first_frontier.py resnet50 --batch 16
    out/zoo-venv/bin/python scripts/bench/first_frontier.py bert --batch 8   # made by zoo_setup

Random weights. The first frontier is written and shown after the uniform plans; the search ends
there. CPU seconds are those of the whole process, so that a busy machine does not count.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lowering_subjects import resnet50
from torch import Tensor, nn
from zoo_models.torchvision_ops import define_torchvision_ops

import autoquant as aq
from autoquant.core.progress import Silent, Standing

Inputs = Callable[[int, int], Tensor]


class Bert(nn.Module):
    """BERT-base: 12 layers, 768 wide; a class for each of two labels."""

    def __init__(self) -> None:
        super().__init__()
        define_torchvision_ops()  # which transformers imports by way of torchvision
        from transformers import BertConfig, BertForSequenceClassification

        self.bert = BertForSequenceClassification(BertConfig())

    def forward(self, tokens: Tensor) -> Tensor:
        """Give logits of shape (batch, 2)."""
        logits: Tensor = self.bert(input_ids=tokens).logits
        return logits


class FirstFrontierError(Exception):
    """The first frontier is there: nothing more is wanted."""


class Stages(Silent):
    """Prints CPU seconds and peak memory with all that is said; ends at the first frontier."""

    def stage(self, name: str, total: int | None) -> Any:
        """Print when a stage begins."""
        print(f"{time.process_time():8.1f} s  {_peak_gib():.2f} GiB  {name}", flush=True)
        return super().stage(name, total)

    def note(self, text: str) -> None:
        """Print what is said, the first line of what int8 loses among it."""
        print(f"{time.process_time():8.1f} s  {_peak_gib():.2f} GiB  {text}", flush=True)

    def standing(self, standing: Standing) -> None:
        """End the search."""
        raise FirstFrontierError(f"{len(standing.rows)} plans stand out of {standing.done}")


def _images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(seed))


def _tokens(count: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 30_000, (count, 128), generator=draw)


def _subject(name: str) -> tuple[nn.Module, Inputs]:
    torch.manual_seed(0)
    if name == "bert":
        return Bert().eval(), _tokens
    return resnet50().model, _images


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Run one search and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=("resnet50", "bert"))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--calibration", type=int, default=128)
    parser.add_argument("--evaluation", type=int, default=256)
    parser.add_argument("--backend", default="onednn")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    model, inputs = _subject(chosen.model)
    data = inputs(chosen.evaluation, 2).split(chosen.batch)
    started = time.process_time()
    with torch.no_grad():
        evaluation = [(batch, model(batch).argmax(1)) for batch in data]
    forward = time.process_time() - started
    before = _peak_gib()
    print(f"one float forward of {chosen.evaluation} samples: {forward:.1f} s, {before:.2f} GiB")
    started = time.process_time()
    told = "where the search ends: nothing is left to gain"
    with tempfile.TemporaryDirectory() as folder:
        try:
            aq.search(
                model,
                calibration=list(inputs(chosen.calibration, 1).split(chosen.batch)),
                evaluation=evaluation,
                backend=chosen.backend,
                batch_size=chosen.batch,
                max_drop=None,
                cache=False,
                output=Path(folder) / "out",
                progress=Stages(),
            )
        except FirstFrontierError as answer:
            told = str(answer)
    found = time.process_time() - started
    print(
        f"{chosen.model}, batch {chosen.batch}, {chosen.backend}: {found:.0f} s to the first "
        f"frontier ({told}), {found / forward:.1f} float forwards; peak {_peak_gib():.2f} GiB"
    )


if __name__ == "__main__":
    main()
