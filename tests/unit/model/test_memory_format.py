"""Channels last from the first node on, with the same results."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoquant.model.torch_ao.memory_format import take_channels_last


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.linear = nn.Linear(5, 4)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(x), self.linear(y)


def test_images_are_turned_and_nothing_else_is() -> None:
    model = torch.fx.symbolic_trace(TwoInputs())
    inputs = torch.randn(2, 3, 8, 8), torch.randn(2, 5)
    expected = model(*inputs)
    take_channels_last(model, {"x": 4, "y": 2})
    image, row = model(*inputs)
    assert image.is_contiguous(memory_format=torch.channels_last)
    # another kernel adds up in another order
    torch.testing.assert_close(image, expected[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(row, expected[1])
    turned = [node for node in model.graph.nodes if node.target == "to"]
    assert [node.args[0].name for node in turned] == ["x"]


def test_volumes_are_turned_too() -> None:
    model = torch.fx.symbolic_trace(nn.Sequential(nn.ReLU()))
    take_channels_last(model, {"input": 5, "input_1": 5})
    output = model(torch.randn(1, 2, 4, 4, 4))
    assert output.is_contiguous(memory_format=torch.channels_last_3d)


def test_an_input_that_nobody_reads_is_left_alone() -> None:
    graph = torch.fx.Graph()
    used, _ = graph.placeholder("used"), graph.placeholder("unused")
    graph.output(graph.call_function(torch.relu, (used,)))
    model = torch.fx.GraphModule(nn.Module(), graph)
    take_channels_last(model, {"used": 4, "unused": 4})
    assert sum(node.target == "to" for node in model.graph.nodes) == 1


def test_an_image_of_one_channel_is_turned_though_it_counts_as_both() -> None:
    model = torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(1, 4, 3)))
    take_channels_last(model, {"input": 4, "input_1": 4})
    output = model(torch.randn(2, 1, 8, 8))
    assert output.is_contiguous(memory_format=torch.channels_last)
