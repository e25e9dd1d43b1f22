"""Kinds of models that strangers bring, each as the least network that has it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoquant.model.graph.capture import capture


@dataclass
class Reading:
    score: Tensor
    features: tuple[Tensor, Tensor]


class GivesDataclass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, rows: Tensor) -> Reading:
        features = self.linear(rows)
        return Reading(features.sum(1), (features, features.relu()))


def test_outputs_in_a_dataclass_that_nobody_registered_are_captured() -> None:
    model, rows = GivesDataclass().eval(), torch.randn(3, 4)
    given = capture(model, (rows,), how="export").graph(rows)
    assert isinstance(given, Reading)
    assert torch.equal(given.features[1], model(rows).features[1])


class ReadsNumbers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.register_buffer("steps", torch.tensor([2, 1]))

    def forward(self, rows: Tensor) -> Tensor:
        for step in self.steps.tolist():
            rows = self.linear(rows) * step / self.scale.item()
        return rows


def test_numbers_that_a_forward_reads_from_its_parameters_are_captured() -> None:
    model, rows = ReadsNumbers().eval(), torch.randn(3, 4)
    captured = capture(model, (rows,), how="export")
    assert torch.equal(captured.graph(rows), model(rows))
    assert captured.weights is not None
    assert all(isinstance(item, Tensor) for item in captured.weights().values())


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, rows: Tensor) -> Tensor:
        found = self.linear(rows)
        return torch.einsum("bi,bj,bk->bijk", found, rows, found)


def test_a_product_of_three_tensors_leaves_the_number_of_samples_open() -> None:
    """torch asks opt_einsum for an order, where that is installed."""
    model = Outer().eval()
    captured = capture(model, (torch.randn(3, 4),), how="export")
    assert captured.dynamic == ((0,),)
    other = torch.randn(5, 4)
    assert torch.equal(captured.graph(other), model(other))


def test_torch_compile_knows_python_after_a_capture() -> None:
    """It reads Python's functions when it is imported; capture replaces one of them meanwhile."""
    code = (
        "import torch; from autoquant.model.graph.capture import capture\n"
        "capture(torch.nn.Linear(4, 4).eval(), (torch.randn(2, 4),))\n"
        "def twice(x): return x * len((1, 2))\n"
        "torch.compile(twice, backend='eager', fullgraph=True)(torch.ones(2))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
