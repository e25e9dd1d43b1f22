"""Averages on torch keep the grid of what they average where that costs them few bits alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoquant.analysis.diagnosis.grids import read_grids
from autoquant.analysis.diagnosis.kernels import check_kernels
from autoquant.backends.torch_cpu.engines import using_engine
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.model.capture import capture
from tests.networks import images, seeded
from tests.unit.analysis.pairs import ENGINE, build


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


@pytest.mark.parametrize(("peak", "is_integer"), [(1.0, True), (100.0, False)])
def test_an_average_runs_in_float_where_its_grid_would_be_far_too_wide(
    peak: float, is_integer: bool
) -> None:
    model, x = seeded(Pooled), inputs(peak)
    sites = capture(model, (x,)).sites
    built = build(model, x, Plan.of({site.name: Scheme.INT8 for site in sites}))
    with using_engine(ENGINE):
        written = read_grids(built.model.graph, (x,)).written
    assert ("mean" in written) == is_integer


def test_an_average_of_large_pixels_loses_no_more_than_the_pixels_do() -> None:
    model, x = seeded(Pooled), inputs(100.0)
    sites = capture(model, (x,)).sites
    built = build(model, x, Plan.of({site.name: Scheme.INT8 for site in sites}))
    with using_engine(ENGINE), torch.no_grad():
        found, expected = built.model(x).double(), model(x).double()
    noise = (found - expected).square().sum() / expected.square().sum()
    assert -10 * torch.log10(noise) > 10  # on the grid of the pixels it is 1


def test_a_linear_layer_that_rounds_its_floats_itself_is_compared_on_its_own_grid() -> None:
    model, x = seeded(Pooled), inputs(1.0)
    sites = capture(model, (x,)).sites
    built = build(model, x, Plan.of({site.name: Scheme.INT8 for site in sites}), engine="x86")
    with using_engine("x86"):
        checks = check_kernels(built.plan, [(x,)])
    assert "head" in {check.site for check in checks}
    assert all(check.is_right for check in checks)
