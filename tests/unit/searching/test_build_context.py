"""What a finished search builds its plans from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import autoquant as aq

pytestmark = pytest.mark.filterwarnings("ignore")


class TimeFirst(nn.Module):
    """Frames of shape (time, samples, channels), and perhaps a weight for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)

    def forward(self, frames: Tensor, channels: Tensor | None = None) -> Tensor:
        return self.linear(frames if channels is None else frames * channels).mean(0)


CASES = {
    "cut": ((torch.randn(5, 32, 16),), [(5, 16, 16)]),
    "whole": ((torch.randn(5, 32, 16), torch.rand(16)), [(5, 32, 16), (16,)]),
}
"""What no axis of samples can be found in is not cut, and what stands beside it neither."""


@pytest.mark.parametrize(("inputs", "timed"), CASES.values(), ids=CASES.keys())
def test_what_is_built_again_is_made_for_the_size_that_was_timed(
    tmp_path: Path, inputs: tuple[Tensor, ...], timed: list[tuple[int, ...]]
) -> None:
    torch.manual_seed(0)
    model = TimeFirst().eval()
    result = aq.search(
        model,
        calibration=[(inputs, None)],
        evaluation=[(inputs, torch.arange(32) % 3)],
        dynamic={"frames": [1]},
        batch_size=16,
        effort="quick",
        backend={"engine": "onednn", "pairs": 3},
        output=tmp_path / "out",
        progress=False,
    )
    for found in (result, aq.load_result(tmp_path / "out")):
        assert [tuple(item.shape) for item in found.context.timed] == timed
        built = found.candidates[0].quantize(model)
        torch.testing.assert_close(built(*inputs), model(*inputs))


class Named(nn.Module):
    """A module's name may hold whatever holds no dot."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("a,b", nn.Linear(16, 16))
        self.last = nn.Linear(16, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.last(self.get_submodule("a,b")(rows))


def test_a_module_with_a_comma_in_its_name_is_kept_whole_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = torch.randn(32, 16)
    aq.search(
        Named().eval(),
        calibration=[(rows, None)],
        evaluation=[(rows, torch.arange(32) % 3)],
        leaf_modules=["a,b"],
        effort="quick",
        backend={"engine": "onednn", "pairs": 3},
        output=tmp_path / "out",
        progress=False,
    )
    assert aq.load_result(tmp_path / "out").context.leaf_modules == ("a,b",)
