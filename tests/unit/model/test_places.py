"""Where an op that an engine refuses stands in the model's own code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoquant.model.graph.places import places


class Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x)
        return spectrum.abs() + torch.fft.rfft(x * 2).abs()


@pytest.fixture(scope="module")
def graph() -> torch.fx.Graph:
    program = torch.export.export(Spectrum(), (torch.ones(2, 8),), strict=False)
    return program.run_decompositions({}).graph


def test_an_op_that_is_named_is_found_in_its_lines(graph: torch.fx.Graph) -> None:
    found = places(graph.nodes, "No conversion rule found for operations: aten.fft_rfft.default")
    lines = ("spectrum = torch.fft.rfft(x)", "return spectrum.abs() + torch.fft.rfft(x * 2).abs()")
    first, second = (f"({line})" for line in lines)
    assert found.startswith(f" at {__file__}:")
    assert found.index(first) < found.index(second)


def test_a_node_that_is_named_says_more_than_its_op(graph: torch.fx.Graph) -> None:
    product = next(node for node in graph.nodes if "mul" in node.name)
    found = places(graph.nodes, f"translating node %{product.name} of aten.fft_rfft.default")
    assert found.endswith("(return spectrum.abs() + torch.fft.rfft(x * 2).abs())")
    assert "spectrum = " not in found


def test_where_nothing_is_named_no_place_is(graph: torch.fx.Graph) -> None:
    assert not places(graph.nodes, "out of memory")
