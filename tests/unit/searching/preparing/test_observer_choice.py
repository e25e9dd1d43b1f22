"""`mix`: the observer of a site follows from what its rounding error does to the outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoquant.core.build import BuildSettings
from autoquant.core.statistics import CalibrationStatistics, ObserverName
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.data.batches import Batch
from autoquant.model.graph.capture import Capture, capture
from autoquant.searching.preparing.ranges import CANDIDATES, choose_observers
from tests.networks import MixedNet, images, seeded

pytestmark = pytest.mark.filterwarnings("ignore")
SETTINGS = BuildSettings(observer=ObserverName.MIX)


class Outlier(nn.Module):
    """Features of which the first is 100 in one sample of 800; the head may read it or not."""

    def __init__(self, weight_of_outlier: float) -> None:
        super().__init__()
        self.features = nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)
        torch.manual_seed(0)
        with torch.no_grad():
            self.features.weight.copy_(torch.eye(16))
            self.features.bias.zero_()
            self.head.weight.normal_()
            self.head.weight[:, 0] *= weight_of_outlier

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.features(x))
        return y


def rare_outliers() -> list[Batch]:
    inputs = torch.randn(800, 16, generator=torch.Generator().manual_seed(1))
    inputs[790, 0] = 100.0
    return [Batch((part,)) for part in inputs.split(50)]


def calibrated(model: nn.Module, batches: list[Batch]) -> tuple[Capture, CalibrationStatistics]:
    captured = capture(model.eval(), batches[0].inputs, how="export")
    return captured, calibrate(captured, [batch.inputs for batch in batches])


def highest(captured: Capture, statistics: CalibrationStatistics, observer: ObserverName) -> float:
    """The upper end of the features' grid."""
    ranges = TensorRanges(captured, statistics, BuildSettings(observer=observer))
    return ranges.int8_grid(captured.writes("features")[0]).highest


def test_an_outlier_that_the_outputs_do_not_see_is_clipped_away() -> None:
    batches = rare_outliers()
    captured, statistics = calibrated(Outlier(0.0), batches)
    chosen = choose_observers(captured, statistics, SETTINGS, batches)
    ends = {item: highest(captured, statistics, item) for item in CANDIDATES}
    assert ends[chosen["features"]] < ends[ObserverName.MINMAX] / 3
    assert ends[chosen["features"]] <= 1.5 * min(ends.values())


def test_an_outlier_that_makes_the_outputs_is_kept() -> None:
    batches = rare_outliers()
    captured, statistics = calibrated(Outlier(10.0), batches)
    chosen = choose_observers(captured, statistics, SETTINGS, batches)
    assert highest(captured, statistics, chosen["features"]) > 90


def test_sites_whose_tensors_int8_rounds_have_an_observer_and_the_model_stays() -> None:
    model = seeded(MixedNet)
    before = {name: item.clone() for name, item in model.state_dict().items()}
    batches = [Batch((images(8, seed),)) for seed in range(2)]
    captured, statistics = calibrated(model, batches)
    chosen = choose_observers(captured, statistics, SETTINGS, batches)
    # nothing in the model reads what the head writes; the pool has the range of what it reads
    assert set(chosen) == {site.name for site in captured.sites} - {"head", "pool"}
    assert ObserverName.MIX not in chosen.values()
    assert all(item.grad is None for item in captured.graph.parameters())
    assert all(torch.equal(before[name], item) for name, item in model.state_dict().items())
