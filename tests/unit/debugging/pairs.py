"""Plans built by torch's own kernels, for the tests of debugging steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from torch import Tensor, nn

from autoquant.backends.protocol import BuildRequest, Executable, settle_range
from autoquant.backends.targets import load_target
from autoquant.backends.torch_cpu.engines import POINTWISE, saturates
from autoquant.backends.torch_cpu.graph_backend import TorchGraphBackend
from autoquant.backends.torch_cpu.lowered import LoweredModel
from autoquant.core.build import BuildSettings
from autoquant.core.findings.diagnosis import KernelCheck
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.debugging.diagnosis.kernels import build_handed_out, check_kernels
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.capture import Capture, capture
from autoquant.model.graph.site_nodes import mark_sites
from autoquant.model.numerics.rounding import SchemeRounding

ENGINE = "onednn"


@dataclass(frozen=True, eq=False)
class Built:
    """A plan that torch runs.

    Attributes:
        request: What it was built from.
        plan: What was asked for.
        executable: What was built.
        ranges: Of its tensors.
    """

    request: BuildRequest
    plan: Plan
    executable: Executable
    ranges: TensorRanges

    @property
    def model(self) -> LoweredModel:
        """The module that was built."""
        assert isinstance(self.executable.module, LoweredModel)
        return self.executable.module

    @property
    def captured(self) -> Capture:
        """The float model."""
        return self.request.captured

    def checks(self, *batches: Tensor) -> tuple[KernelCheck, ...]:
        """Its kernels beside their references."""
        marked, target = mark_sites(self.captured), load_target("torch")
        rounding = SchemeRounding(self.ranges, target.integer_writers(self.request.settings))
        built = build_handed_out(target, self.request, marked, self.plan, self.executable)
        return check_kernels(built, rounding, [(batch,) for batch in batches])


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
    request = BuildRequest(model, captured, statistics, settings, (inputs,), (inputs,))
    backend = TorchGraphBackend(request)
    plan = plan or random_plan(full_space(captured, backend), seed)
    ranges = TensorRanges(captured, statistics, settings)
    return Built(request, plan, backend.build(plan), ranges)


def all_int8(model: nn.Module, inputs: Tensor, engine: str = ENGINE) -> Built:
    """The plan that has every site in int8."""
    sites = capture(model, (inputs,)).sites
    return build(model, inputs, Plan.of({site.name: Scheme.INT8 for site in sites}), engine=engine)


@contextmanager
def spoilt(site: str, mistake: Callable[[Any], Any]) -> Iterator[None]:
    """Within, the kernel of a site makes a mistake in whatever torch's backend builds."""
    with pytest.MonkeyPatch.context() as patch:
        right = TorchGraphBackend.build

        def build(backend: TorchGraphBackend, plan: Plan) -> Executable:
            made = right(backend, plan)
            assert isinstance(made.module, LoweredModel)
            is_integer = plan[site] in (Scheme.INT8, Scheme.INT8_DYNAMIC)
            if is_integer and made.module.engine != POINTWISE:  # whose integers are plain tensors
                spoil(made.module, site, mistake)
            return made

        patch.setattr(TorchGraphBackend, "build", build)
        yield


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
    model.graph.recompile()
    model.run_eagerly("a kernel of it is wrong")
