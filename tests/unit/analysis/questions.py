"""Questions about small networks, for the tests of sensitivity."""

from __future__ import annotations

from torch import Tensor, nn

from autoquant.analysis.trials import Question
from autoquant.backends.torch_cpu.backend import TorchCpuBackend, engine_settings
from autoquant.core.statistics import ObserverName
from autoquant.model.batches import Batch
from autoquant.model.calibration import calibrate
from autoquant.model.capture import capture
from autoquant.model.torch_ao.observers import ScaleCache
from autoquant.model.torch_ao.rounding import SchemeRounding
from tests.spaces import full_space

ENGINE = "fbgemm"


def ask(model: nn.Module, inputs: Tensor, batch_size: int = 32) -> Question:
    """Every scheme at every site, on all inputs, which calibrate as well."""
    captured = capture(model, (inputs[:batch_size],))
    statistics = calibrate(captured, [(part,) for part in inputs.split(batch_size)])
    settings = engine_settings(ENGINE, ObserverName.HISTOGRAM)
    backend = TorchCpuBackend(captured, statistics, ENGINE, settings, (inputs[:batch_size],))
    sites = {site.name: site for site in captured.sites}
    return Question(
        captured=captured,
        space=full_space(captured, backend),
        rounding=SchemeRounding(sites, settings, ScaleCache(statistics)),
        batches=tuple(Batch((part,)) for part in inputs.split(batch_size)),
        samples=len(inputs),
    )
