"""Conversions that the tests keep are handed out for the same graph and sizes, and for no other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from autoquant.model.graph.capture import Capture, capture
from tests.kept_conversions import keeping_litert
from tests.networks import LinearNet, seeded

EXAMPLE = (torch.zeros(4, 16),)


def counting() -> tuple[list[int], Callable[[Capture, tuple[Tensor, ...]], bytes]]:
    """What takes conversions, and the sizes of the batches that were converted for it."""
    sizes: list[int] = []

    def convert(_: Capture, inputs: tuple[Tensor, ...]) -> bytes:
        sizes.append(len(inputs[0]))
        return bytes(sizes)

    return sizes, keeping_litert(convert)


def test_a_graph_is_converted_once_for_each_size() -> None:
    sizes, take = counting()
    first, second = (capture(seeded(LinearNet), EXAMPLE) for _ in range(2))
    assert take(first, EXAMPLE) == take(second, EXAMPLE)
    take(first, (torch.zeros(8, 16),))
    assert sizes == [4, 8]


@pytest.mark.parametrize(
    "change",
    [
        lambda graph: next(iter(graph.parameters())).data.add_(1),
        lambda graph: (graph.graph.erase_node(last_call(graph)), graph.recompile()),
    ],
    ids=["value", "op"],
)
def test_another_graph_is_converted(change: Callable[[torch.fx.GraphModule], object]) -> None:
    sizes, take = counting()
    take(capture(seeded(LinearNet), EXAMPLE), EXAMPLE)
    other = capture(seeded(LinearNet), EXAMPLE)
    change(other.graph)
    take(other, EXAMPLE)
    assert sizes == [4, 4]


def last_call(graph: torch.fx.GraphModule) -> torch.fx.Node:
    """The last op, whose input becomes the output."""
    node = [item for item in graph.graph.nodes if item.op == "call_function"][-1]
    node.replace_all_uses_with(node.args[0])
    return node
