"""Plans built by torch's own kernels, for the tests of debugging steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from autoquant.backends.protocol import BuildRequest, settle_range
from autoquant.backends.torch_cpu.engines import saturates
from autoquant.backends.torch_cpu.graph_backend import TorchGraphBackend
from autoquant.backends.torch_cpu.lowered import LoweredModel
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.statistics import CalibrationStatistics
from autoquant.debugging.diagnosis.kernels import BuiltPlan
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.built_graph import HOLDS
from autoquant.model.graph.capture import Capture, capture
from autoquant.model.graph.site_nodes import mark_sites
from autoquant.model.numerics.rounding import SchemeRounding

ENGINE = "onednn"


@dataclass(frozen=True, eq=False)
class Built:
    """A plan that torch runs.

    Attributes:
        captured: The float model.
        plan: As diagnosis looks at it.
        model: What was built.
        statistics: Of the float model.
        ranges: Of its tensors.
    """

    captured: Capture
    plan: BuiltPlan
    model: LoweredModel
    statistics: CalibrationStatistics
    ranges: TensorRanges


def build(
    model: nn.Module,
    inputs: Tensor,
    plan: Plan | None = None,
    seed: int = 0,
    engine: str = ENGINE,
) -> Built:
    """A plan of a model, calibrated on `inputs`; None: a random one."""
    from tests.spaces import full_space, random_plan

    captured = capture(model, (inputs,))
    statistics = calibrate(captured, [(inputs,)])
    settings = settle_range(BuildSettings(options={"engine": engine}), lambda: saturates(engine))
    backend = TorchGraphBackend(
        BuildRequest(model, captured, statistics, settings, (inputs,), (inputs,))
    )
    plan = plan or random_plan(full_space(captured, backend), seed)
    ranges = TensorRanges(captured, statistics, settings)
    executable = backend.build(plan)
    lowered, plan = executable.module, executable.runs(plan)
    assert executable.shown is not None
    assert isinstance(lowered, LoweredModel)
    marked, rounding = mark_sites(captured), SchemeRounding(ranges)
    seen = BuiltPlan(executable.shown, marked, plan, rounding)
    return Built(captured, seen, lowered, statistics, ranges)


def all_int8(model: nn.Module, inputs: Tensor, engine: str = ENGINE) -> Built:
    """The plan that has every site in int8."""
    sites = capture(model, (inputs,)).sites
    return build(model, inputs, Plan.of({site.name: Scheme.INT8 for site in sites}), engine=engine)


def spoil(model: LoweredModel, site: str, mistake: Callable[[Any], Any]) -> None:
    """Let the kernel of a site make a mistake, in place; it takes and gives what the kernel gives.

    Args:
        model: A lowered plan.
        site: Its path, of a module that is called once.
        mistake: What the kernel's output goes through.
    """
    graph = model.graph.graph
    path = site.replace(".", "_")  # a recurrent layer has one packed weight for each layer of it
    targets = {f"{path}.packed", f"{path}_0.packed"}
    (packed,) = [item for item in graph.nodes if item.target in targets]
    (node,) = packed.users
    with graph.inserting_after(node):
        wrong = graph.call_function(mistake, (node,))
    node.replace_all_uses_with(wrong, delete_user_cb=lambda user: user is not wrong)
    wrong.meta.update(node.meta)
    node.meta.pop(HOLDS)
    model.graph.recompile()
    model.run_eagerly("a kernel of it is wrong")
