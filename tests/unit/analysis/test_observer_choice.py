"""`mix`: the observer of a site follows from what its rounding error does to the outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoquant.analysis.observer_choice import CANDIDATES, choose_observers
from autoquant.backends.torch_cpu.backend import engine_settings
from autoquant.core.precision import Scheme
from autoquant.core.statistics import CalibrationStatistics, ObserverName
from autoquant.model.batches import Batch
from autoquant.model.calibration import calibrate
from autoquant.model.capture import Capture, capture
from autoquant.model.ranges.grid import Grid
from autoquant.model.torch_ao.observers import ScaleCache
from autoquant.model.torch_ao.rounding import SchemeRounding
from tests.networks import MixedNet, images, seeded

pytestmark = pytest.mark.filterwarnings("ignore")
SETTINGS = engine_settings("fbgemm", ObserverName.MIX, reduce_range=False)


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
    captured = capture(model.eval(), batches[0].inputs)
    return captured, calibrate(captured, [batch.inputs for batch in batches])


def highest(captured: Capture, statistics: CalibrationStatistics, observer: ObserverName) -> float:
    """The upper end of the features' grid."""
    sites = {site.name: site for site in captured.sites}
    settings = engine_settings("fbgemm", observer, reduce_range=False)
    rounding = SchemeRounding(sites, settings, ScaleCache(statistics))
    found = rounding.output_format(sites["features"], Scheme.INT8, "features")
    assert isinstance(found, Grid)
    return found.highest


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


def test_every_site_that_int8_rounds_has_an_observer_and_the_model_stays() -> None:
    model = seeded(MixedNet)
    before = {name: item.clone() for name, item in model.state_dict().items()}
    batches = [Batch((images(8, seed),)) for seed in range(2)]
    captured, statistics = calibrated(model, batches)
    chosen = choose_observers(captured, statistics, SETTINGS, batches)
    assert set(chosen) == {site.name for site in captured.sites}
    assert ObserverName.MIX not in chosen.values()
    assert all(item.grad is None for item in captured.graph.parameters())
    assert all(torch.equal(before[name], item) for name, item in model.state_dict().items())


def test_tensors_that_share_a_scale_share_an_observer() -> None:
    batches = [Batch((images(8, seed),)) for seed in range(2)]
    captured, statistics = calibrated(seeded(MixedNet), batches)
    chosen = choose_observers(captured, statistics, SETTINGS, batches)
    writers = {item.node: item.site for item in captured.addresses}
    shared = [key.split("+") for key in statistics.tensors if "+" in key]
    assert shared
    for tensors in shared:
        sites = {writers[name] for name in tensors if writers.get(name)}
        assert len({chosen[site] for site in sites}) == 1
