"""The torch CPU backend: a plan, converted for one engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoquant.backends.protocol import Executable
from autoquant.backends.torch_cpu.engines import has_fp16_linear, saturates, using_engine
from autoquant.backends.torch_cpu.packing import pack_for
from autoquant.backends.torch_cpu.readback import Execution, observe_execution
from autoquant.backends.torch_cpu.support import support_of
from autoquant.core.kernels import Kernels
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.ranges import RangeRules
from autoquant.core.sites import Site
from autoquant.core.statistics import CalibrationStatistics, ObserverName
from autoquant.errors import BackendError
from autoquant.model.capture import Capture
from autoquant.model.torch_ao.conversion import (
    FLOAT_NODE,
    Conversion,
    convert,
    prepare,
    quiet_torch,
)
from autoquant.model.torch_ao.memory_format import take_channels_last
from autoquant.model.torch_ao.observers import ScaleCache
from autoquant.model.torch_ao.qconfig import (
    QuantizationSettings,
    build_qconfig_mapping,
    keeps_float_activations,
    leading_kind,
)

_READBACK_SAMPLES = 2

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
        engine: A torch quantized engine.
        observer: How int8 ranges are found.
        reduce_range: None: only where the engine's kernels saturate on this CPU.
        ranges: What differs from site to site; None: nothing.
    """
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
    """

    def __init__(
        self,
        captured: Capture,
        statistics: CalibrationStatistics,
        engine: str,
        settings: QuantizationSettings,
        example_inputs: tuple[Tensor, ...],
        kernels: Kernels | None = None,
    ) -> None:
        self.name = f"torch/{engine}"
        self._captured = captured
        self._engine = engine
        self._settings = settings
        self._kernels = kernels or Kernels()
        self._example = tuple(item[:_READBACK_SAMPLES] for item in example_inputs)
        placeholders = (n.name for n in captured.graph.graph.nodes if n.op == "placeholder")
        self._dimensions = {
            name: item.ndim for name, item in zip(placeholders, example_inputs, strict=True)
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
        mapping = build_qconfig_mapping(self._captured.addresses, self._sites, plan, self._settings)
        captured = self._captured
        with using_engine(self._engine):
            try:
                prepared = prepare(captured.traced, mapping, self._example)
                converted = convert(prepared, self._cache, self._conversion(plan))
                pack_for(converted, self._kernels.of(plan), self._roots)
                take_channels_last(converted, self._dimensions)
                with quiet_torch(), torch.no_grad():
                    runs = observe_execution(converted, self._roots, self._example, FLOAT_NODE)
            except (RuntimeError, ValueError, AssertionError, NotImplementedError) as error:
                raise BackendError(
                    f"{self.name} refuses plan {plan.digest}: {_first_line(error)}",
                    hint="pin the op that it names to fp32 in the search space",
                ) from error
        return Executable(module=converted, executed=self._compare(plan, runs))

    def run(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        """Run a built module, or the float model, with this engine's kernels."""
        with using_engine(self._engine), quiet_torch(), torch.no_grad():
            return module(*inputs)

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
            scheme, support = self.expected(site, planned)
            wanted = f"{scheme.value} {support.value}"
            honoured = site in runs and runs[site].honours(scheme, support)
            executed[site] = wanted if honoured else str(runs.get(site, "nothing"))
            if not honoured:
                wrong.append(f"{site} is planned as {wanted} but runs {executed[site]}")
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise BackendError(
                f"{self.name} substituted precisions silently: {wrong[0]}{more}",
                hint="pin this op to a scheme that `autoquant backends` lists as native",
            )
        return executed

    def _conversion(self, plan: Plan) -> Conversion:
        emulated: list[str] = []
        bfloat16: list[tuple[str, ...]] = []
        for site, groups in self._captured.members.items():
            scheme = plan[site]
            if scheme is Scheme.BF16:
                bfloat16.extend(groups)
            elif self.support(self._sites[site], scheme) is Support.EMULATED:
                emulated.extend(group[0] for group in groups)
        return Conversion(
            emulated=frozenset(emulated),
            bfloat16=tuple(bfloat16),
            no_tensors=self._captured.no_tensors,
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
