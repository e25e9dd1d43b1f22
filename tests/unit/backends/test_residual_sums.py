"""Sums behind convolutions run within them, where nothing needs what they are written over."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoquant.backends.torch_cpu.engines import POINTWISE, engines_here, using_engine
from tests.networks import images, seeded
from tests.unit.debugging.pairs import Built, all_int8


class Residual(nn.Module):
    """A sum of a shortcut, which is itself convolved where channels change, and two convolutions.

    Args:
        needs_it_later: Whether the shortcut is read again behind the sum.
        is_convolved: Whether the shortcut is computed behind what it is added to.
        factor: Of the shortcut.
    """

    def __init__(
        self, *, needs_it_later: bool = False, is_convolved: bool = False, factor: int = 1
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 1)
        self.shortcut = nn.Conv2d(8, 8, 1) if is_convolved else nn.Identity()
        self.last = nn.Conv2d(8, 4, 1)
        self.needs_it_later, self.factor = needs_it_later, factor

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = self.second(torch.relu(self.first(x)))
        z = torch.relu(torch.add(y, self.shortcut(x), alpha=self.factor))
        if self.needs_it_later:
            z = torch.cat([z, x], 1)[:, :8] + x
        return self.last(z)


def sums_within(built: Built) -> int:
    names = [str(node.target) for node in built.model.graph.graph.nodes]
    return sum("qconv2d_pointwise.binary" in name for name in names)


@pytest.mark.slow
@pytest.mark.skipif(POINTWISE not in engines_here(), reason="needs onednn")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1),
        ({"is_convolved": True}, 1),
        ({"needs_it_later": True}, 0),
        ({"factor": 2}, 0),
    ],
    ids=["shortcut", "convolved shortcut", "shortcut needed later", "scaled shortcut"],
)
def test_a_sum_runs_within_a_convolution_where_its_addend_is_read_no_more(
    options: dict[str, int], expected: int
) -> None:
    model, x = seeded(lambda: Residual(**options)), images(8)
    built = all_int8(model, x, POINTWISE)
    with using_engine(POINTWISE), torch.no_grad():
        outputs, apart = built.model(x), built.model.graph(x)[0]
        error = (outputs - model(x)).square().sum() / model(x).square().sum()
    assert sums_within(built) == expected
    checks = built.checks(x)
    assert {"first", "second", "last"} <= {check.site for check in checks}
    assert all(check.is_right for check in checks)
    assert torch.equal(outputs, apart)
    assert -10 * torch.log10(error) > 30


@pytest.mark.skipif(POINTWISE not in engines_here(), reason="needs onednn")
def test_a_sum_within_a_convolution_loses_no_more_than_one_beside_it() -> None:
    model, x = seeded(Residual), images(64)
    with torch.no_grad():
        expected = model(x)
        errors = [
            float((all_int8(model, x, engine).model(x) - expected).square().sum())
            for engine in (POINTWISE, "onednn")
        ]
    assert errors[0] <= errors[1]


class Activated(nn.Module):
    """A sum behind a relu: no kernel computes relu, then sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return torch.relu(self.body(x)) + x


@pytest.mark.skipif(POINTWISE not in engines_here(), reason="needs onednn")
def test_a_sum_behind_an_activation_stays_outside() -> None:
    model, x = seeded(Activated), images(2)
    built = all_int8(model, x, POINTWISE)
    assert sums_within(built) == 0
    with torch.no_grad():
        noise = (built.model(x) - model(x)).square().mean() / model(x).square().mean()
    assert float(noise) < 1e-2
