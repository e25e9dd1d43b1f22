"""Averages on torch lie on a grid that costs them a bit at most, or are computed in float."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node

from autoquant.backends.torch_cpu.engines import engines_here, using_engine
from autoquant.model.graph.built_graph import FLOAT_NODE
from tests.networks import images, seeded
from tests.unit.debugging.pairs import ENGINE, Built, all_int8


class Pooled(nn.Module):
    """Averages over images of which single pixels are large."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def inputs(peak: float) -> Tensor:
    """Images with little contrast, of which one pixel is larger."""
    x = 1.0 + 0.05 * images(32)
    x[:, :, 0, 0] *= peak
    return x


class PooledTokens(nn.Module):
    """Averages over sequences, for which torch has no pool that takes a divisor."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.embed(x.flatten(2).transpose(1, 2))).mean(1))


@pytest.mark.slow
@pytest.mark.parametrize("peak", [1.0, 100.0])
@pytest.mark.parametrize("engine", engines_here())
def test_an_average_over_an_image_runs_in_integers_that_cost_it_a_bit_at_most(
    engine: str, peak: float
) -> None:
    model, x = seeded(Pooled), inputs(peak)
    built = all_int8(model, x, engine)
    mean = result_of(built, "mean", x)
    assert mean.dtype in (torch.quint8, torch.uint8)
    if mean.is_quantized:
        assert mean.q_scale() <= 2.0 * built.ranges.int8_grid("mean").scale
    assert all(check.is_right for check in built.checks(x))


def result_of(built: Built, name: str, x: Tensor) -> Tensor:
    """What the kernels of a float node give, as the plan runs."""

    class Kept(Interpreter):
        def run_node(self, n: Node) -> object:
            value = super().run_node(n)
            if n.meta.get(FLOAT_NODE) == name:
                kept.append(value)
            return value

    kept: list[Any] = []
    with using_engine(built.model.engine), torch.no_grad():
        Kept(built.model.graph).run(x)
    found: Tensor = kept[-1]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("peak", "is_integer"), [(1.0, True), (100.0, False)])
def test_an_average_over_tokens_runs_in_float_where_its_grid_would_be_far_too_wide(
    peak: float, is_integer: bool
) -> None:
    model, x = seeded(PooledTokens), inputs(peak)
    assert result_of(all_int8(model, x), "mean", x).is_quantized == is_integer


def test_an_average_of_large_pixels_loses_no_more_than_the_pixels_do() -> None:
    model, x = seeded(Pooled), inputs(100.0)
    built = all_int8(model, x)
    with using_engine(ENGINE), torch.no_grad():
        found, expected = built.model(x).double(), model(x).double()
    noise = (found - expected).square().sum() / expected.square().sum()
    assert -10 * torch.log10(noise) > 10  # on the grid of the pixels it is 1


class PooledWhole(Pooled):
    """An average over images, and one over all that there is."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x))
        return self.head(y.mean((2, 3))) + y.mean()


@pytest.mark.parametrize("engine", engines_here())
def test_an_average_over_all_axes_runs(engine: str) -> None:
    model, x = seeded(PooledWhole), inputs(1.0)
    built = all_int8(model, x, engine)
    with using_engine(engine), torch.no_grad():
        torch.testing.assert_close(built.model(x), model(x), rtol=0.05, atol=0.05)


def test_a_linear_layer_that_rounds_its_floats_itself_is_compared_on_its_own_grid() -> None:
    model, x = seeded(Pooled), inputs(1.0)
    built = all_int8(model, x, "x86")
    checks = built.checks(x)
    assert "head" in {check.site for check in checks}
    assert all(check.is_right for check in checks)
