"""A mask of large finite numbers is no activation: what adds it is no site, and has no range."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autoquant.core.sites import OpKind
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import capture

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
PADDED = (torch.arange(6) < torch.arange(1, 9)[:, None]).float()
WHOLE = torch.ones(8, 6)


class Masked(nn.Module):
    """Scores, a mask in them, and a softmax."""

    def __init__(self, hide: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.scores, self.out = nn.Linear(6, 6), nn.Linear(6, 2)
        self.hide = hide

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Score, hide, and mix."""
        out: Tensor = self.out(self.hide(self.scores(x), mask).softmax(-1) * x)
        return out


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "times-low": lambda scores, mask: scores + (1.0 - mask) * -1e4,
    "less-times-high": lambda scores, mask: scores * mask - (1.0 - mask) * 1e9,
    "times-lowest": lambda scores, mask: scores + (1.0 - mask) * torch.finfo(torch.float32).min,
    "filled": lambda scores, mask: scores.masked_fill(mask == 0, -1e4),
    "where": lambda scores, mask: scores + torch.where(mask == 0, -1e9, 0.0),
    "seen-twice": lambda scores, mask: scores * 2 + ((1.0 - mask) * -1e4).view(-1, 6) + 0.5,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("first", [PADDED, WHOLE], ids=["padded", "whole"])
def test_what_adds_a_mask_is_no_site_and_has_no_range(form: str, first: Tensor) -> None:
    found = capture(Masked(FORMS[form]).eval(), (X, first), how="export")
    seen = calibrate(found, [(X, first), (X, PADDED)]).tensors
    assert not [site.name for site in found.sites if site.kind is OpKind.ADD]
    assert {"scores", "out"} <= {site.name for site in found.sites}
    assert max(-min(item.low for item in seen.values()), 0) < 100


@pytest.mark.parametrize("size", [-1e4, -1e9])
def test_a_mask_that_is_an_input_is_no_activation(size: float) -> None:
    mask = (1 - PADDED) * size
    found = capture(Masked(torch.add).eval(), (X, mask), how="export")
    assert not [site.name for site in found.sites if site.kind is OpKind.ADD]
    assert all(item.low > -100 for item in calibrate(found, [(X, mask)]).tensors.values())


def test_an_added_mask_that_the_first_batch_does_not_show_is_observed_in_full() -> None:
    found = capture(Masked(torch.add).eval(), (X, 0 * X), how="export")
    seen = calibrate(found, [(X, 0 * X), (X, (1 - PADDED) * -1e4)]).tensors
    assert min(item.low for item in seen.values()) < -9e3


def test_large_activations_are_sites() -> None:
    found = capture(Masked(lambda scores, x: scores + x * 2e4).eval(), (X, X), how="export")
    assert [site.name for site in found.sites if site.kind is OpKind.ADD]
    assert any(item.low < -1e4 for item in calibrate(found, [(X, X)]).tensors.values())
