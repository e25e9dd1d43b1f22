"""Values that a forward reads and no input decides are given to torch.export; others are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autoquant.errors import ModelError
from autoquant.model.graph.capture import capture

Forward = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, computed: Forward) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.register_buffer("ready", torch.tensor(True))
        self.computed = computed

    def forward(self, rows: Tensor) -> Tensor:
        return self.computed(self, rows)


def by_a_parameter(net: Net, rows: Tensor) -> Tensor:
    return net.linear(rows) / float(net.scale)


def after_a_flag(net: Net, rows: Tensor) -> Tensor:
    return net.linear(rows) if net.ready else rows


def after_a_check(net: Net, rows: Tensor) -> Tensor:
    found = net.linear(rows)
    if torch.isnan(found).any():
        raise FloatingPointError("not a number")
    return found


def after_an_assertion(net: Net, rows: Tensor) -> Tensor:
    assert (rows.abs() < 1e6).all(), f"too large: {rows.max()}"
    return net.linear(rows)


def by_a_distribution(net: Net, rows: Tensor) -> Tensor:
    """Its `log_prob` checks what it is given."""
    return torch.distributions.Normal(0.0, net.scale).log_prob(net.linear(rows))


def by_a_sign(net: Net, rows: Tensor) -> Tensor:
    return net.linear(rows) if rows.sum() > 0 else -net.linear(rows)


def by_what_is_found(net: Net, rows: Tensor) -> Tensor:
    """Its other branch fails on the example, where nothing is found; it is no check."""
    found = net.linear(rows)
    return found + found[(rows > 100).nonzero()[0, 0]] if (rows > 100).any() else found


def by_a_value(net: Net, rows: Tensor) -> Tensor:
    return net.linear(rows) * float(rows.max())


def by_a_size(net: Net, rows: Tensor) -> Tensor:
    return net.linear(rows) * float(torch.arange(len(rows)).sum())


SETTLED = (by_a_parameter, after_a_flag, after_a_check, after_an_assertion, by_a_distribution)
OPEN = (by_a_sign, by_what_is_found, by_a_value, by_a_size)


def rows(count: int) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("forward", SETTLED, ids=lambda item: item.__name__)
def test_a_model_that_reads_settled_values_is_captured_whole(forward: Forward) -> None:
    model = Net(forward).eval()
    graph = capture(model, (rows(3),), how="export").graph
    for count in (3, 5):
        with torch.no_grad():
            assert torch.equal(graph(rows(count)), model(rows(count)))


@pytest.mark.parametrize("forward", OPEN, ids=lambda item: item.__name__)
def test_a_value_that_an_input_decides_is_never_settled(forward: Forward) -> None:
    with pytest.raises(ModelError, match="cannot capture"):
        capture(Net(forward).eval(), (rows(3),), how="export")
