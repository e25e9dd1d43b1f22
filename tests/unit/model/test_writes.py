"""Writes in place are told apart from views: a program is traced again only where it must be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import Dim
from torch.nn import functional

from autoquant.model.data.calling import Calling
from autoquant.model.graph.exporting import export_program
from autoquant.model.graph.functional import functional_graph
from autoquant.model.graph.writes import find_writes

Forward = Callable[[nn.Module, Tensor], Tensor]


def over_a_residual(net: nn.Module, x: Tensor) -> Tensor:
    y = net.first(x).relu_()
    return torch.relu_(y + net.second(y))


def over_dropout(net: nn.Module, x: Tensor) -> Tensor:
    """In eval mode dropout hands on what it reads: the write shows in both."""
    y = net.first(x)
    functional.dropout(y, 0.5, net.training).relu_()
    return net.second(y)


def over_an_input(net: nn.Module, x: Tensor) -> Tensor:
    y = net.first(x)
    x.mul_(2)
    return y + net.second(x)


def over_a_sum(net: nn.Module, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    for layer in (net.first, net.second):
        y += layer(x)
    return y.masked_fill_(y > 1, 1.0)


def to_a_power(net: nn.Module, x: Tensor) -> Tensor:
    """`pow_.Scalar` takes what `pow.Tensor_Scalar` does, and not what `pow.Scalar` does."""
    return net.second(net.first(x).pow_(2))


def over_a_view_read_last(net: nn.Module, x: Tensor) -> Tensor:
    return net.second(net.first(x).view(-1, 2, 4).relu_().flatten(1))


def under_a_view(net: nn.Module, x: Tensor) -> Tensor:
    y = net.first(x)
    view = y.view(-1, 2, 4)
    y.relu_()
    return net.second(view.flatten(1))


def into_a_view(net: nn.Module, x: Tensor) -> Tensor:
    y = net.first(x)
    y[:, :4].mul_(2)
    y[:, 0] = 0
    return net.second(y)


def into_one_of_two(net: nn.Module, x: Tensor) -> Tensor:
    y = net.first(x)
    one, other = y.chunk(2, 1)
    one.add_(other)
    return net.second(y)


def of_another_type(net: nn.Module, x: Tensor) -> Tensor:
    """Added in place, a float is rounded to what it is added to; by itself it would not be."""
    half = net.first(x).half()
    half += net.second(x)
    return half.float()


def of_a_number(net: nn.Module, x: Tensor) -> Tensor:
    steps = torch.tensor([2.0, 3.0])
    return net.first(x) * x.new_full((1,), steps[1])


def by_row(net: nn.Module, x: Tensor) -> Tensor:
    return torch.vmap(lambda row: net.second(net.first(row).relu_()))(x)


def by_a_count(net: nn.Module, x: Tensor) -> Tensor:
    return net.first(x) / x.numel()


PURE = (over_a_residual, over_dropout, over_an_input, over_a_sum, to_a_power, over_a_view_read_last)
AGAIN = (
    under_a_view,
    into_a_view,
    into_one_of_two,
    of_another_type,
    of_a_number,
    by_row,
    by_a_count,
)


class Net(nn.Module):
    def __init__(self, forward: Forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.computed = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.computed(self, x)


def rows(count: int) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("forward", PURE + AGAIN, ids=lambda item: item.__name__)
def test_a_graph_is_the_model_and_writes_nothing(forward: Forward) -> None:
    model = Net(forward).eval()
    program, writes, _ = export_program(model, Calling.plain(1), (rows(4),), ((0,),))
    graph = functional_graph(program, writes)
    ops = [node.target for node in graph.graph.nodes if isinstance(node.target, OpOverload)]
    assert ops
    assert not [op for op in ops if op._schema.is_mutable]
    for count in (4, 7):
        given = rows(count)
        with torch.no_grad():
            assert torch.equal(graph(given), model(rows(count)))
        assert torch.equal(given, rows(count))


@pytest.mark.parametrize("forward", PURE + AGAIN, ids=lambda item: item.__name__)
def test_only_what_a_view_or_a_type_shows_is_traced_again(forward: Forward) -> None:
    with torch.no_grad():
        program = torch.export.export(
            Net(forward).eval(), (rows(4),), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False
        )
    assert (find_writes(program) is None) is (forward in AGAIN)


def test_a_write_into_an_input_is_known() -> None:
    for forward in PURE + AGAIN:
        _, writes, _ = export_program(Net(forward).eval(), Calling.plain(1), (rows(4),), ((0,),))
        assert writes.inputs is (forward is over_an_input)
