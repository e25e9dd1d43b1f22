"""The torch CPU backend: a plan, lowered to the kernels of one engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from autoquant.backends.examination import Examination
from autoquant.backends.protocol import Backend, BuildRequest, Executable, settle_range
from autoquant.backends.timing import Clock
from autoquant.backends.torch_cpu.engines import building, saturates, using_engine
from autoquant.backends.torch_cpu.kernel_readback import Execution, Reading, read_back
from autoquant.backends.torch_cpu.kernel_table import KernelTable
from autoquant.backends.torch_cpu.lowered import LoweredModel
from autoquant.backends.torch_cpu.lowering import LoweredGraph, Lowering
from autoquant.backends.torch_cpu.op_types import read_types
from autoquant.backends.torch_cpu.options import engine_of, kernels_in
from autoquant.backends.torch_cpu.packed_weights import PackedWeight
from autoquant.backends.torch_cpu.profile import Profile, profile_costs
from autoquant.backends.torch_cpu.support import site_support
from autoquant.backends.torch_cpu.timed_sizes import TimedSizes
from autoquant.backends.torch_cpu.torchscript import write_lowered
from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.quiet import no_warnings
from autoquant.core.readback import Ran, refuse_substitution
from autoquant.core.sites import FOLLOWING_KINDS, Site
from autoquant.core.space import SearchSpace
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.data.number_outputs import without_sources

_READBACK_SAMPLES = 2
_REFUSALS = (RuntimeError, ValueError, NotImplementedError)
"""What torch raises where a kernel does not take what a plan asks of it, or there is none."""


class TorchGraphBackend(Backend):
    """Builds plans of an exported graph for one engine from cached statistics."""

    suffix = ".ts"

    def __init__(self, request: BuildRequest) -> None:
        engine = engine_of(request.settings)
        settings = settle_range(request.settings, lambda: saturates(engine))
        self._kernels = kernels_in(settings)
        self.name = f"torch/{'+'.join(self._kernels.counts()) or engine}"
        self._engine = engine
        self._is_reduced = settings.ranges.is_reduced
        self._captured = request.captured
        self._rival = request.captured.calling.flatten(without_sources(request.model))
        self._example = request.few_samples(_READBACK_SAMPLES)
        self._timed = request.timed
        self._used: set[PackedWeight] = set()
        self._sites = request.captured.by_name
        self._owners = request.captured.site_of
        grids = TensorRanges(request.captured, request.statistics, settings)
        sizes = TimedSizes(request.captured.graph, request.timed)
        table = KernelTable(engine, sizes)
        self._lowering = Lowering(request.captured, grids, table)

    def support(self, site: Site, scheme: Scheme) -> Support:
        """How the engine runs one scheme of one site: by its kind, and by its ops' arguments."""
        found = site_support(self._engine, site, scheme)
        if found is Support.UNSUPPORTED or site.name not in self._sites:
            return found
        known = self._lowering.supports(site.name, scheme, self._engine)
        return found if known else Support.UNSUPPORTED

    def build(self, plan: Plan) -> Executable:
        """Lower a plan, run the example through it, and read back.

        The built model turns images into channels last as they come in, and is frozen
        TorchScript where every op of the graph can be.
        """
        lowered, reading = self._lower(plan)
        executed = self._read(lowered, reading)
        refuse_substitution(self.name, plan, executed, self._accepts)
        module = LoweredModel.of(lowered, self._engine)
        self._check_frozen(module, reading)
        return Executable(module, executed)

    def run(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        """Run a built module, or the float model, with this engine's kernels."""
        with using_engine(self._engine), no_warnings(), torch.no_grad():
            return module(*inputs)

    def examine(self, plan: Plan) -> Examination:
        """Build a plan and say what runs, whether or not it is what was planned."""
        lowered, reading = self._lower(plan)
        executed = self._read(lowered, reading)
        honoured = {
            site: executed[site].scheme in self._accepts(site, planned)
            for site, planned in plan.assignment
        }
        types = read_types(lowered.module, reading)
        schemes = dict(plan.assignment)
        return Examination({}, schemes, executed, honoured, types)

    def profile(self, space: SearchSpace, inputs: tuple[Tensor, ...], clock: Clock) -> Profile:
        """Time a few plans node by node, and fit the cost of every op and boundary to them."""
        return profile_costs(self._captured, self, space, self._rival, inputs, clock)

    def costs(self, space: SearchSpace, inputs: tuple[Tensor, ...], clock: Clock) -> CostTable:
        """What each op and boundary takes, from a profile."""
        return self.profile(space, inputs, clock).table

    def export(self, plan: Plan, path: Path, metadata: Mapping[str, Any]) -> Path:
        """Write a TorchScript file that `torch.jit.load` runs; `autoquant.json` is inside."""
        module = self.build(plan).module
        values = {
            **metadata,
            "engine": self._engine,
            "reduce_range": self._is_reduced,
        }
        return write_lowered(module, path, values, self._captured.calling.names)

    def _lower(self, plan: Plan) -> tuple[LoweredGraph, Reading]:
        with building(plan, self.name, self._engine, _REFUSALS):
            lowered = self._lowering.lower(plan.schemes, self._kernels.of(plan))
            self._use_first(lowered.module)
            return lowered, read_back(lowered.module, self._owners, self._example)

    def _use_first(self, module: GraphModule) -> None:
        """Let the first call of every packed weight be one of the size that is timed.

        A packed weight may keep what its first call made of it, and then be slower on other sizes
        for good (onednn: 30 us a call).
        """
        packs = {item for item in module.children() if isinstance(item, PackedWeight)}
        packs = {item for item in packs if item.keeps_first_call}
        if packs - self._used:
            with torch.no_grad():
                module(*self._timed)
        self._used |= packs

    def _read(self, lowered: LoweredGraph, reading: Reading) -> dict[str, Ran]:
        """By site, what runs."""
        hosts = {site: host for host, held in lowered.fused.items() for site in held}
        return {
            site: reading.executions.get(hosts.get(site, site), Execution()).ran(scheme, support)
            for site, (scheme, support) in lowered.runs.items()
        }

    def _accepts(self, site: str, planned: Scheme) -> frozenset[Scheme]:
        """What may run for a plan: a site that follows its neighbours, in float or in int8."""
        if self._sites[site].kind in FOLLOWING_KINDS:
            return frozenset({planned, Scheme.FP32, Scheme.INT8})
        return frozenset({planned})

    def _check_frozen(self, module: LoweredModel, reading: Reading) -> None:
        """Refuse TorchScript that gives something else than the graph that it was written from."""
        if module.frozen is None:
            return
        found = self.run(module.frozen, self._example)
        for mine, theirs in zip(found, reading.outputs, strict=True):
            if isinstance(mine, Tensor) and not torch.allclose(
                mine, theirs, rtol=1e-3, atol=1e-5, equal_nan=True
            ):
                module.run_eagerly("frozen TorchScript gives other values")
                return
