"""A plan as a QConfigMapping: traced, paired, built, converted and compared once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.ao.quantization import QConfigMapping
from torch.fx import GraphModule

from autoquant.core.build import BuildSettings
from autoquant.core.glance import few
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.quiet import no_warnings
from autoquant.core.statistics import CalibrationStatistics
from autoquant.errors import ModelError, PlanError
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.data.trees import copied
from autoquant.model.graph.captured import Capture
from autoquant.torch_ao.agreement import Difference, differences
from autoquant.torch_ao.carried import Carried, Setting, carry
from autoquant.torch_ao.conversion import engines_to_try, using_engine
from autoquant.torch_ao.matching import Matched, match
from autoquant.torch_ao.qconfig import carries
from autoquant.torch_ao.scales import fix_scales
from autoquant.torch_ao.tracing import trace
from autoquant.torch_ao.values import inputs_of

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MappingCoverage:
    """What of a plan a QConfigMapping carries.

    Attributes:
        planned: Sites that the plan does not leave in fp32.
        left: By site of these that torch.ao leaves in fp32, the reason.
        drawn: Sites in fp32 that torch.ao runs in int8, since their neighbours are.
        ranges: Fixed ranges that take effect by `fix_scales` alone, by the site that they are of.
        engine: The torch engine on which every op agreed with its plan within a level.
        faults: By site, how many levels the kernel of the search's own engine is off, where
            another engine's is right.
    """

    planned: int
    left: Mapping[str, str]
    drawn: tuple[str, ...]
    ranges: tuple[str, ...]
    engine: str
    faults: Mapping[str, float]

    @property
    def carried(self) -> int:
        """Sites that run in their scheme."""
        return self.planned - len(self.left)

    @property
    def is_complete(self) -> bool:
        """Whether torch.ao alone gives the whole plan, with the kernels of the search's engine."""
        return not (self.left or self.drawn or self.ranges or self.faults)

    def __str__(self) -> str:
        lines = [f"a QConfigMapping carries {self.carried} of {self.planned} sites"]
        reasons: dict[str, list[str]] = {}
        for site, reason in self.left.items():
            reasons.setdefault(reason, []).append(site)
        lines += [f"{few(sites)} stay in fp32: {reason}" for reason, sites in reasons.items()]
        if self.drawn:
            lines.append(f"{few(self.drawn)} run in int8, as the ops beside them do")
        if self.ranges:
            lines.append(
                f"the fixed range of {few(self.ranges)} takes effect by fix_scales(prepared) alone"
            )
        lines += [
            f"{site}: the kernel that the search's engine has is {levels:.0f} levels off, "
            f"that of {self.engine} is right"
            for site, levels in self.faults.items()
        ]
        return "; ".join(lines)


@dataclass(frozen=True, slots=True, eq=False)
class PlanMapping:
    """A plan in torch.ao's language.

    Attributes:
        mapping: For `prepare_fx`.
        plan: What it carries: the plan, in fp32 where torch cannot follow.
        coverage: What that is.
        converted: What torch makes of it, at the scales of the search.
        way: Made it.
    """

    mapping: QConfigMapping
    plan: Plan
    coverage: MappingCoverage
    converted: GraphModule
    way: WayOut

    def run(self, tensors: Sequence[Tensor]) -> object:
        """Run the converted model on flat tensors."""
        inputs = self.way.inputs(tensors)
        with using_engine(self.coverage.engine), no_warnings(), torch.no_grad():
            return self.converted(*inputs)


class WayOut:
    """Makes the QConfigMappings of the plans of one model.

    Raises:
        ModelError: torch.fx cannot trace the model; names the line.
        PlanError: Its graph holds no ops, since it was captured module by module.
    """

    def __init__(
        self,
        model: nn.Module,
        captured: Capture,
        statistics: CalibrationStatistics,
        build: BuildSettings,
        example: tuple[Tensor, ...],
    ) -> None:
        if captured.how != "export":
            raise PlanError(
                "a QConfigMapping is made from the graph of torch.export, and the model was "
                f"captured by model.capture: {captured.how}",
                hint="use module_qconfigs(), or quantize(model)",
            )
        self.model = model
        self._captured = captured
        traced = trace(model, captured.leaf_modules)
        inputs = self.inputs(example)
        self.setting = Setting(
            model=model,
            captured=captured,
            matched=match(model, captured, traced, example, inputs),
            ranges=TensorRanges(captured, statistics, build),
            build=build,
            inputs=inputs,
            engine="",
        )

    @property
    def matched(self) -> Matched:
        """Sites and tensors beside the calls of torch.fx."""
        return self.setting.matched

    @property
    def ranges(self) -> TensorRanges:
        """Grids by tensor of the exported graph."""
        return self.setting.ranges

    def inputs(self, tensors: Sequence[Tensor]) -> tuple[object, ...]:
        """Flat tensors as the placeholders of torch.fx's graph take them, copied."""
        return inputs_of(self.model, self._captured, copied(tensors))

    def of(self, plan: Plan) -> PlanMapping:
        """Build the mapping of a plan, convert with it once, and compare op by op.

        An op that no engine's kernel computes rightly is left in fp32.

        Raises:
            PlanError: An op in fp32 computes something else than its plan, or torch cannot run
                the mapping; names the first such op.
        """
        left: dict[str, str] = {}
        while True:
            found, wrong = self._agreed(plan, left)
            if found is not None:
                _LOG.info("%s", found.coverage)
                return found
            first = wrong[0]
            if any(item.site in left or plan[item.site] is Scheme.FP32 for item in wrong):
                raise _disagreement(plan, first)
            left |= {
                item.site: f"torch.ao's kernels compute something else ({item.error:.0f} levels "
                "off)"
                for item in wrong
            }

    def _agreed(
        self, plan: Plan, left: Mapping[str, str]
    ) -> tuple[PlanMapping | None, Sequence[Difference]]:
        """The mapping on the first engine that agrees, or what differs on the last."""
        faults: dict[str, float] = {}
        wrong: list[Difference] = []
        for engine in engines_to_try(str(self.setting.build.options.get("engine"))):
            setting = replace(self.setting, engine=engine)
            carried = carry(plan, setting, left)
            found = [item for item in differences(carried, setting) if not item.is_rounding]
            if not found:
                return self._mapping(plan, carried, engine, faults), ()
            faults = faults or {item.site: item.error for item in found}
            if not wrong or len(found) < len(wrong):
                wrong = found
        return None, wrong

    def fix_scales(self, prepared: GraphModule) -> None:
        """Give the observers of what torch prepared the scales of the search, in place."""
        if self.setting.build.equalisation and not self._has_same_weights(prepared):
            raise ModelError(
                "torch prepared another model than these scales are of: the search rescaled "
                "channels",
                hint="prepare candidate.float_model()",
            )
        fix_scales(prepared, self.matched, self.ranges)

    def _has_same_weights(self, prepared: GraphModule) -> bool:
        own = dict(self.matched.traced.fused.named_parameters())
        return all(
            torch.allclose(item, own[name], rtol=1e-4, atol=0.0)
            for name, item in prepared.named_parameters()
            if name in own and own[name].shape == item.shape
        )

    def _mapping(
        self, plan: Plan, carried: Carried, engine: str, faults: Mapping[str, float]
    ) -> PlanMapping:
        fixed = self.setting.build.ranges.fixed
        planned = [name for name, scheme in plan.assignment if scheme is not Scheme.FP32]
        coverage = MappingCoverage(
            planned=len(planned),
            left=dict(carried.left),
            drawn=carried.drawn,
            ranges=tuple(item.name for item in fixed if not carries(item, carried.plan)),
            engine=engine,
            faults=dict(faults),
        )
        return PlanMapping(carried.mapping, carried.plan, coverage, carried.converted, self)


def _disagreement(plan: Plan, first: Difference) -> PlanError:
    return PlanError(
        f"torch.ao's conversion of plan {plan.digest} computes something else at {first.site!r} "
        f"({plan[first.site].value}): off by {first.error:.3g}, where rounding explains "
        f"{first.limit:.3g}",
        hint="pin this op to fp32 in the search space, or use quantize(model), which needs no "
        "torch.ao",
    )
