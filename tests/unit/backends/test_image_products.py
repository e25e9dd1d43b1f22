"""Products of images with a number for each channel, and the integers between two families."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoquant.backends.torch_cpu.engines import engines_here, using_engine
from tests.networks import images, seeded
from tests.unit.debugging.pairs import all_int8


class Gated(nn.Module):
    """Scales each channel of an image, and convolves it again."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 32, 3, padding=1)
        self.gate = nn.Conv2d(32, 32, 1)
        self.after = nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.before(x))
        gate = torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        return self.after(gate * y)


class GatedByRows(Gated):
    """The gate comes from a linear layer: an image of one pixel, of strides that say nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.before(x))
        gate = torch.sigmoid(self.rows(y.mean((2, 3))))
        return self.after(y * gate[:, :, None, None])


@pytest.mark.slow
@pytest.mark.parametrize("engine", engines_here())
@pytest.mark.parametrize("network", [Gated, GatedByRows])
@pytest.mark.parametrize("size", [6, 16], ids=["few pixels", "many pixels"])
def test_scaled_channels_are_right_at_every_batch_size(
    engine: str, size: int, network: type[nn.Module]
) -> None:
    model, x = seeded(network), images(8, size=size)
    built = all_int8(model, x, engine)
    with using_engine(engine), torch.no_grad():
        whole = built.model(x)
        single = torch.cat([built.model(item) for item in x.split(1)])
    checks = built.checks(x)
    assert {"before", "after"} < {check.site for check in checks}
    assert all(check.is_right for check in checks)
    assert torch.equal(whole, single)
