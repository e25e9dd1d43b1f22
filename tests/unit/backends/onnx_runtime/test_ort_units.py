from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from autoquant.backends.onnxruntime.float_graph import FloatGraph, convert_float
from autoquant.backends.onnxruntime.units import Unit, find_units
from autoquant.model.data.calling import Calling
from autoquant.model.graph.capture import Capture, capture
from autoquant.model.graph.exported import export_float


class Net(nn.Module):
    """Clippings that a kernel takes along, and one that it cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.Conv2d(4, 4, 1)
        self.third = nn.Conv2d(4, 4, 1)
        self.clip = nn.ReLU6()
        self.shared = nn.ReLU6()
        self.linear = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.clip(self.second(F.relu(self.first(images))))
        y = self.third(x)
        y = y + self.shared(y)
        return {"map": y, "line": F.relu(self.linear(y))}


@pytest.fixture(scope="module")
def converted() -> tuple[Capture, FloatGraph, tuple[Unit, ...]]:
    images = torch.randn(2, 3, 8, 8)
    model = Net().eval()
    calling, _ = Calling.of(images, model)
    captured = capture(model, (images,), how="export", calling=calling)
    graph = convert_float(captured, export_float(captured, (images,)))
    return captured, graph, find_units(graph, {site.name: site for site in captured.sites})


def test_a_kernel_takes_its_bias_and_a_clipping_that_nothing_else_reads(
    converted: tuple[Capture, FloatGraph, tuple[Unit, ...]],
) -> None:
    _, _, units = converted
    found = {unit.sites: [node.op_type for node in unit.nodes] for unit in units if unit.computes}
    assert found == {
        ("first",): ["Conv", "Relu"],
        ("second", "clip"): ["Conv", "Clip"],
        ("third",): ["Conv"],
        ("shared",): ["Clip"],
        (":add:0",): ["Add"],
        ("linear",): ["MatMul", "Add", "Relu"],
    }


def test_tensors_lead_to_the_statistics_and_names_to_the_model(
    converted: tuple[Capture, FloatGraph, tuple[Unit, ...]],
) -> None:
    captured, graph, units = converted
    assert [item.name for item in graph.inputs] == ["images"]
    assert [declared.name for _, declared in graph.outputs] == ["map", "line"]
    outputs = {unit.sites[0]: graph.tensors[unit.output] for unit in units if unit.computes}
    assert outputs["first"] == captured.members["first"][0][-1]
    assert outputs["linear"] == captured.members["linear"][0][-1]
