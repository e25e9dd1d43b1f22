"""Ways out of small networks, made once for each."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from autoquant.backends.protocol import settle_range
from autoquant.backends.torch_cpu.engines import saturates
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.statistics import ObserverName
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import Capture, capture
from autoquant.torch_ao.way_out import WayOut
from tests.networks import images, seeded


def rows(count: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def tokens(count: int) -> Tensor:
    return torch.randint(0, 50, (count, 6), generator=torch.Generator().manual_seed(0))


def pictures(count: int) -> Tensor:
    return images(count, size=32)


@cache
def captured(network: type[nn.Module], batches: tuple[Tensor, ...]) -> Capture:
    return capture(seeded(network), (batches[0],), how="export")


@cache
def way_out(
    network: type[nn.Module],
    batches: tuple[Tensor, ...],
    engine: str = "x86",
    observer: ObserverName = ObserverName.MINMAX,
) -> WayOut:
    found = captured(network, batches)
    statistics = calibrate(found, [(batch,) for batch in batches])
    asked = BuildSettings(capture="export", options={"engine": engine}, observer=observer)
    build = settle_range(asked, lambda: saturates(engine))
    return WayOut(seeded(network), found, statistics, build, (batches[0][:2],))


def uniform(found: Capture, scheme: Scheme) -> Plan:
    return Plan.of({site.name: scheme for site in found.sites})
