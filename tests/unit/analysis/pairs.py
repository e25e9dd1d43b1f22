"""Plans built by torch's own kernels, for the tests of debugging steps."""

from __future__ import annotations

from torch import Tensor, nn

from autoquant.analysis.diagnosis.kernels import BuiltPlan
from autoquant.backends.torch_cpu.backend import TorchCpuBackend, engine_settings
from autoquant.core.plan import Plan
from autoquant.core.statistics import ObserverName
from autoquant.model.calibration import calibrate
from autoquant.model.capture import capture
from autoquant.model.torch_ao.observers import ScaleCache
from autoquant.model.torch_ao.rounding import SchemeRounding

ENGINE = "onednn"


def build(model: nn.Module, inputs: Tensor, plan: Plan | None = None, seed: int = 0) -> BuiltPlan:
    """A plan of a model, calibrated on `inputs`; None: a random one."""
    from tests.spaces import full_space, random_plan

    captured = capture(model, (inputs,))
    statistics = calibrate(captured, [(inputs,)])
    settings = engine_settings(ENGINE, ObserverName.HISTOGRAM)
    backend = TorchCpuBackend(captured, statistics, ENGINE, settings, (inputs,))
    plan = plan or random_plan(full_space(captured, backend), seed)
    sites = {site.name: site for site in captured.sites}
    rounding = SchemeRounding(sites, settings, ScaleCache(statistics))
    module = backend.build(plan).module
    return BuiltPlan(module, captured, plan, rounding)
