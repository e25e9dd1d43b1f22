"""The torch CPU backend: a plan, converted for one engine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from autoquant.backends.protocol import EAGER_FP32, Executable
from autoquant.backends.substitution import refuse_substitution
from autoquant.backends.torch_cpu.engines import has_fp16_linear, saturates, using_engine
from autoquant.backends.torch_cpu.examination import Examination
from autoquant.backends.torch_cpu.packing import pack_for
from autoquant.backends.torch_cpu.profile import Profile, profile_costs
from autoquant.backends.torch_cpu.readback import Execution, observe_execution
from autoquant.backends.torch_cpu.stamps import Clock
from autoquant.backends.torch_cpu.support import support_of
from autoquant.backends.torch_cpu.tensor_types import observe_types
from autoquant.backends.torch_cpu.torchscript import write_torchscript
from autoquant.core.costs import CostTable
from autoquant.core.kernels import Kernels
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.qconfigs import QConfigFacts
from autoquant.core.ranges import RangeRules
from autoquant.core.sites import Site
from autoquant.core.space import SearchSpace
from autoquant.core.statistics import CalibrationStatistics, ObserverName
from autoquant.errors import BackendError
from autoquant.model.capture import Capture
from autoquant.model.torch_ao.conversion import (
    FLOAT_NODE,
    Conversion,
    convert,
    convert_observed,
    prepare,
    quiet_torch,
)
from autoquant.model.torch_ao.memory_format import take_channels_last
from autoquant.model.torch_ao.observers import ScaleCache
from autoquant.model.torch_ao.qconfig import (
    QConfigMapping,
    QuantizationSettings,
    build_qconfig_mapping,
    keeps_float_activations,
    leading_kind,
)
from autoquant.model.torch_ao.qconfig_facts import qconfigs_by_node

_READBACK_SAMPLES = 2
_REFUSALS = (RuntimeError, ValueError, AssertionError, NotImplementedError)

_FUNCTIONAL_SCHEMES = frozenset({Scheme.INT8, Scheme.BF16, Scheme.FP32})
"""What conversion can do to `F.conv2d(x, weight)`: its weight is no module's to round."""


def engine_settings(
    engine: str,
    observer: ObserverName,
    reduce_range: bool | None = None,
    ranges: RangeRules | None = None,
) -> QuantizationSettings:
    """Settings for one engine on this CPU.

    Args:
        engine: A torch quantized engine; empty for another backend, of which only the reference
            numerics are wanted.
        observer: How int8 ranges are found.
        reduce_range: None: only where the engine's kernels saturate on this CPU.
        ranges: What differs from site to site; None: nothing.
    """
    if not engine:
        return QuantizationSettings(observer=observer, ranges=ranges or RangeRules())
    return QuantizationSettings(
        observer=observer,
        reduce_range=saturates(engine) if reduce_range is None else reduce_range,
        native_fp16_linear=has_fp16_linear(engine),
        ranges=ranges or RangeRules(),
    )


def site_support(engine: str, site: Site, scheme: Scheme) -> Support:
    """How an engine runs one scheme of one site."""
    by_function = site.kind.is_weighted and site.function is not None
    if by_function and scheme not in _FUNCTIONAL_SCHEMES:
        return Support.UNSUPPORTED
    return support_of(engine, site.kind, scheme)


class TorchCpuBackend:
    """Builds plans for one torch engine from cached statistics.

    Args:
        captured: The captured model.
        statistics: Of its tensors.
        engine: A torch quantized engine.
        settings: From `engine_settings`.
        example_inputs: One batch.
        kernels: Ops that take another engine's kernel.
        model: The float model as given; None: its traced graph stands for it.
    """

    def __init__(
        self,
        captured: Capture,
        statistics: CalibrationStatistics,
        engine: str,
        settings: QuantizationSettings,
        example_inputs: tuple[Tensor, ...],
        kernels: Kernels | None = None,
        model: nn.Module | None = None,
    ) -> None:
        self.name = f"torch/{engine}"
        self.rival = EAGER_FP32
        self.rival_ms: float | None = None
        self.suffix = ".ts"
        self._captured = captured
        self._model = model or captured.graph
        self._engine = engine
        self._settings = settings
        self._kernels = kernels or Kernels()
        self._example = tuple(item[:_READBACK_SAMPLES] for item in example_inputs)
        placeholders = (n.name for n in captured.graph.graph.nodes if n.op == "placeholder")
        self._dimensions = {  # arguments with a default come after the inputs
            name: item.ndim for name, item in zip(placeholders, example_inputs, strict=False)
        }
        self._cache = ScaleCache(statistics, settings.ranges.fixed_tensors)
        self._sites = {site.name: site for site in captured.sites}
        self._roots = {
            group[0]: site for site, groups in captured.members.items() for group in groups
        }

    def support(self, site: Site, scheme: Scheme) -> Support:
        """How the engine runs one scheme of one site."""
        return site_support(self._engine, site, scheme)

    def build(self, plan: Plan) -> Executable:
        """Prepare, fill the observers from the cache, convert, and read back.

        The built model turns images into channels last as they come in.

        Raises:
            BackendError: The engine refuses an op, or runs something else than planned.
        """
        with self._refusing(f"plan {plan.digest}"):
            prepared = self._prepare(self._mapping(plan))
            converted = self._convert(prepared, plan)
            runs = self._read_back(converted)
        return Executable(module=converted, executed=self._compare(plan, runs))

    def examine(self, plan: Plan) -> Examination:
        """Build a plan and say what runs, whether or not it is what was planned.

        Raises:
            BackendError: The engine refuses an op.
        """
        with self._refusing(f"plan {plan.digest}"):
            prepared = self._prepare(self._mapping(plan))
            qconfigs = qconfigs_by_node(prepared)
            converted = self._convert(prepared, plan)
            return self._examination(converted, qconfigs, dict(plan.assignment))

    def examine_mapping(
        self, mapping: QConfigMapping, batches: Iterable[tuple[Tensor, ...]]
    ) -> Examination:
        """Prepare, calibrate and convert with a mapping of the user's own, and say what runs.

        Args:
            mapping: With any observers.
            batches: Inputs that the observers see.

        Raises:
            BackendError: torch or the engine refuses the mapping.
        """
        with self._refusing("the QConfigMapping"):
            try:
                prepared = self._prepare(mapping)
            except LookupError as error:
                raise BackendError(
                    f"torch refuses the QConfigMapping: {_first_line(error)}",
                    hint="give all types of modules that are fused (Conv2d, ReLU) one QConfig",
                ) from error
            qconfigs = qconfigs_by_node(prepared)
            schemes = {name: self._scheme_of(name, qconfigs) for name in self._sites}
            with quiet_torch(), torch.no_grad():
                for inputs in batches:
                    prepared(*inputs)
            converted = convert_observed(prepared, self._conversion(schemes))
            return self._examination(converted, qconfigs, schemes)

    def run(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        """Run a built module, or the float model, with this engine's kernels."""
        with using_engine(self._engine), quiet_torch(), torch.no_grad():
            return module(*inputs)

    def profile(
        self, space: SearchSpace, inputs: tuple[Tensor, ...], clock: Clock = time.perf_counter
    ) -> Profile:
        """Time a few plans node by node, and fit the cost of every op and boundary to them.

        Raises:
            BackendError: No plan of the space can be built.
        """
        return profile_costs(self._captured, self, space, self._model, inputs, clock=clock)

    def costs(self, space: SearchSpace, inputs: tuple[Tensor, ...], clock: Clock) -> CostTable:
        """What each op and boundary takes, from a profile."""
        return self.profile(space, inputs, clock).table

    def export(self, plan: Plan, path: Path, metadata: Mapping[str, Any]) -> Path:
        """Write a TorchScript file that `torch.jit.load` runs; `autoquant.json` is inside.

        Raises:
            BackendError: The engine refuses the plan, or its model cannot be traced.
            StorageError: The file cannot be written.
        """
        module = self.build(plan).module
        values = {**metadata, "engine": self._engine}
        return write_torchscript(module, self._example, path, self._engine, values, plan.digest)

    def expected(self, site: str, scheme: Scheme) -> tuple[Scheme, Support]:
        """What must really run at a site for its plan to be honoured."""
        chosen = self._sites[site]
        if chosen.follows is not None:
            leader = leading_kind(chosen, self._sites)
            if keeps_float_activations(scheme, leader, self._settings):
                return Scheme.FP32, Support.NATIVE
            if scheme is Scheme.INT16_WEIGHT:
                return Scheme.INT8, Support.NATIVE
        return scheme, self.support(chosen, scheme)

    def _compare(self, plan: Plan, runs: Mapping[str, Execution]) -> dict[str, str]:
        """Describe what runs, and refuse a plan that the engine did not follow."""
        executed: dict[str, str] = {}
        wrong: list[str] = []
        for site, planned in plan.assignment:
            honoured, executed[site] = self._judge(site, planned, runs.get(site))
            if not honoured:
                scheme, support = self.expected(site, planned)
                wanted = f"{scheme.value} {support.value}"
                wrong.append(f"{site} is planned as {wanted} but runs {executed[site]}")
        refuse_substitution(self.name, wrong)
        return executed

    def _mapping(self, plan: Plan) -> QConfigMapping:
        return build_qconfig_mapping(self._captured.addresses, self._sites, plan, self._settings)

    def _prepare(self, mapping: QConfigMapping) -> GraphModule:
        return prepare(self._captured.traced, mapping, self._example)

    def _convert(self, prepared: GraphModule, plan: Plan) -> GraphModule:
        converted = convert(prepared, self._cache, self._conversion(dict(plan.assignment)))
        pack_for(converted, self._kernels.of(plan), self._roots)
        return converted

    def _read_back(self, converted: GraphModule) -> dict[str, Execution]:
        """Turn a converted model to channels last, in place, and see what its sites run."""
        take_channels_last(converted, self._dimensions)
        with quiet_torch(), torch.no_grad():
            return observe_execution(converted, self._roots, self._example, FLOAT_NODE)

    def _examination(
        self,
        converted: GraphModule,
        qconfigs: Mapping[str, QConfigFacts | None],
        schemes: Mapping[str, Scheme | None],
    ) -> Examination:
        runs = self._read_back(converted)
        with quiet_torch(), torch.no_grad():
            types = observe_types(converted, self._example, FLOAT_NODE)
        executed, honoured = {}, {}
        for site, scheme in schemes.items():
            honoured[site], executed[site] = self._judge(site, scheme, runs.get(site))
        return Examination(converted, qconfigs, schemes, executed, honoured, types)

    def _judge(self, site: str, planned: Scheme | None, run: Execution | None) -> tuple[bool, str]:
        """Whether what runs is what was planned, and what it is in words."""
        if planned is None or run is None:
            return False, "nothing" if run is None else str(run)
        scheme, support = self.expected(site, planned)
        if run.honours(scheme, support):
            return True, f"{scheme.value} {support.value}"
        return False, str(run)

    def _scheme_of(self, site: str, qconfigs: Mapping[str, QConfigFacts | None]) -> Scheme | None:
        """The scheme that a QConfig means for a site."""
        chosen = self._sites[site]
        facts = qconfigs.get(chosen.node)
        return Scheme.FP32 if facts is None else facts.scheme(is_weighted=chosen.kind.is_weighted)

    @contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        """Use the engine, and turn what it and torch raise into a refusal."""
        with using_engine(self._engine):
            try:
                yield
            except _REFUSALS as error:
                raise BackendError(
                    f"{self.name} refuses {what}: {_first_line(error)}",
                    hint="pin the op that it names to fp32 in the search space",
                ) from error

    def _conversion(self, schemes: Mapping[str, Scheme | None]) -> Conversion:
        emulated: list[str] = []
        bfloat16: list[tuple[str, ...]] = []
        for site, groups in self._captured.members.items():
            scheme = schemes[site]
            if scheme is Scheme.BF16:
                bfloat16.extend(groups)
            elif scheme is not None and self.support(self._sites[site], scheme) is Support.EMULATED:
                emulated.extend(group[0] for group in groups)
        return Conversion(
            emulated=frozenset(emulated),
            bfloat16=tuple(bfloat16),
            no_tensors=self._captured.no_tensors,
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
