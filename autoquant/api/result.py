"""What a search gives back: the frontier, and from each point a mapping and a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from autoquant.backends.protocol import Backend, BuildRequest
from autoquant.backends.targets import load_target
from autoquant.backends.torch_cpu.backend import engine_settings
from autoquant.core.build import BuildSettings
from autoquant.core.measurement import Candidate, Failure, Measurements
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import SensitivityTable
from autoquant.core.sites import Address, Site
from autoquant.core.statistics import CalibrationStatistics
from autoquant.errors import ModelError, PlanError
from autoquant.model.batches import Batch, repeat_to
from autoquant.model.calling import Calling
from autoquant.model.capture import Capture, capture
from autoquant.model.float_model import check_float_model
from autoquant.model.torch_ao.eager_modules import qconfigs_by_module
from autoquant.model.torch_ao.observers import ScaleCache, fill_observers
from autoquant.model.torch_ao.qconfig import (
    QuantizationSettings,
    build_qconfig_mapping,
    carries,
)
from autoquant.model.weights_digest import weights_digest
from autoquant.record.findings import Findings
from autoquant.record.frame import candidates_frame
from autoquant.record.plots.pareto import pareto_figure
from autoquant.record.table import CandidateTable, candidate_table

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from autoquant.model.torch_ao.qconfig import QConfig, QConfigMapping


@dataclass(frozen=True, slots=True, eq=False)
class BuildContext:
    """What it takes to build a plan again.

    Attributes:
        sites: Of the model.
        addresses: How a QConfigMapping reaches each call of its graph.
        leaf_modules: Paths that were not traced into.
        statistics: Of its tensors.
        build: What decides how plans are built.
        example: A few input samples.
        calling: How the model takes them.
        dynamic: By tensor, the axes whose size may change.
        latency_batch: Samples of the latency measurement.
        weights: Digest of the model's weights; empty where an older version searched.
    """

    sites: tuple[Site, ...]
    addresses: tuple[Address, ...]
    leaf_modules: tuple[str, ...]
    statistics: CalibrationStatistics
    build: BuildSettings
    example: tuple[Tensor, ...]
    calling: Calling
    dynamic: tuple[tuple[int, ...], ...]
    latency_batch: int = 1
    weights: str = ""

    @property
    def quantization(self) -> QuantizationSettings:
        """What decides a QConfig beside its plan."""
        build = self.build
        return engine_settings(build.engine, build.observer, build.reduce_range, build.ranges)


class ResultCandidate:
    """A candidate that can be built again.

    Attributes:
        candidate: The values: plan, measurements, origin.
    """

    def __init__(self, candidate: Candidate, context: BuildContext) -> None:
        self.candidate = candidate
        self._context = context

    @property
    def number(self) -> int:
        """Its number in the search."""
        return self.candidate.number

    @property
    def plan(self) -> Plan:
        """The scheme of every site."""
        return self.candidate.plan

    @property
    def digest(self) -> str:
        """The plan's digest."""
        return self.candidate.digest

    @property
    def origin(self) -> str:
        """Where it came from."""
        return self.candidate.origin

    @property
    def example(self) -> tuple[Tensor, ...]:
        """A few input samples of the search."""
        return self._context.example

    @property
    def measurements(self) -> Measurements:
        """All measurements by name."""
        return self.candidate.measurements

    @property
    def failure(self) -> Failure | None:
        """Why it failed, None for a success."""
        return self.candidate.failure

    @property
    def stopped(self) -> str | None:
        """Why it was not measured to the end, None where it was."""
        return self.candidate.stopped

    @property
    def executed(self) -> Mapping[str, str]:
        """What each site really ran, as read back from the engine."""
        return self.candidate.executed

    def value(self, name: str) -> float:
        """Value of a measurement (`accuracy`, `accuracy_drop`, `sqnr_db`, `speedup`...).

        Raises:
            KeyError: There is no such measurement; the message lists those that are.
        """
        return self.candidate.value(name)

    def qconfig_mapping(self) -> QConfigMapping:
        """Give the plan as torch's QConfigMapping, for `prepare_fx` and `convert_fx`.

        Plans with int16 or fp16 sites need `backend_config=aq.backend_config()` in both calls.
        bf16 is a cast and no quantization: torch's mapping cannot carry it, such sites are left
        in fp32 with a warning; `quantize` casts them. torch has one observer for what a site
        writes and what it reads as float: a fixed range that would reach both is left to
        `fix_scales`, with a warning.

        Raises:
            PlanError: The plan has int16 weights, whose scales torch's reference modules drop; or
                the model was not captured by torch.fx.
        """
        context = self._context
        if context.build.capture != "fx":
            raise PlanError(
                f"a QConfigMapping is for torch.fx, and model.capture is {context.build.capture}",
                hint="use module_qconfigs(), or quantize(model)",
            )
        wide = [name for name, item in self.plan.assignment if item is Scheme.INT16_WEIGHT]
        if wide:
            raise PlanError(
                f"site {wide[0]!r} has int16 weights, whose scale torch's convert drops",
                hint="use quantize(model), which keeps it",
            )
        casts = [name for name, item in self.plan.assignment if item is Scheme.BF16]
        if casts:
            warnings.warn(
                f"{len(casts)} bf16 sites stay fp32 in a QConfigMapping ({casts[0]}...); "
                "quantize(model) casts them",
                stacklevel=2,
            )
        fixed = context.build.ranges.fixed
        left = [item.name for item in fixed if not carries(item, self.plan)]
        if left:
            warnings.warn(
                f"a QConfigMapping cannot carry the fixed range of {', '.join(left)}; after "
                "prepare_fx call fix_scales(prepared), or use quantize(model)",
                stacklevel=2,
            )
        sites = {site.name: site for site in context.sites}
        return build_qconfig_mapping(context.addresses, sites, self.plan, context.quantization)

    def module_qconfigs(self) -> dict[str, QConfig | None]:
        """Give the plan as torch's QConfig of each module, by path, for its eager mode.

        None leaves a module in float. bf16 is a cast, which no QConfig carries; `quantize` makes
        it. Ops that a forward calls by function have no module, and are left out.
        """
        context = self._context
        return qconfigs_by_module(context.sites, self.plan, context.quantization)

    def to_quantizer(self) -> Any:
        """Give the plan as a quantizer for torchao's `prepare_pt2e`.

        It takes int8 and int8_dynamic at the modules that PT2E can address; a warning names the
        sites that stay in fp32.

        Raises:
            BackendError: The extra `inductor` is not installed.
        """
        load_target("inductor")
        from autoquant.backends.inductor.quantizer import to_quantizer

        return to_quantizer(self.plan, self._context.sites)

    def fix_scales(self, prepared: GraphModule) -> None:
        """Give the observers of a model that torch prepared the scales of the search, in place.

        It needs no calibration then: `convert_fx` may follow. All fixed ranges are honoured.

        Args:
            prepared: From `prepare_fx` with this candidate's `qconfig_mapping()`.

        Raises:
            ValueError: It has tensors that the search did not calibrate.
        """
        ranges = self._context.build.ranges
        fill_observers(prepared, ScaleCache(self._context.statistics, ranges.fixed_tensors))

    def quantize(self, model: nn.Module, *, other_weights: bool = False) -> nn.Module:
        """Build the plan on a model: converted, ready to run, without calibrating again.

        The packed weights carry their engine, except qnnpack's: for that one set
        `torch.backends.quantized.engine = "qnnpack"` before running.

        Args:
            model: The float model that was searched; it is not changed.
            other_weights: Take a model with other weights than those that were searched, at the
                scales of the search: for one that was trained a little further.

        Raises:
            ModelError: It is no float module, cannot be captured, or has other weights.
            PlanError: It has other sites than the one that was searched.
            BackendError: The engine refuses the plan on this machine.
        """
        backend = self.open_backend(model, other_weights=other_weights)
        return self._context.calling.nest(backend.build(self.plan).module)

    def open_backend(self, model: nn.Module, *, other_weights: bool = False) -> Backend:
        """Open the backend of the search on a model, to build, run and export plans.

        Args:
            model: The float model that was searched; it is not changed.
            other_weights: As for `quantize`.

        Raises:
            ModelError: It is no float module, cannot be captured, or has other weights.
            PlanError: It has other sites than the one that was searched.
            BackendError: The backend's extra is not installed here.
        """
        context = self._context
        checked = check_float_model(model, context.leaf_modules)
        captured = capture(
            checked,
            context.example,
            context.leaf_modules,
            context.build.capture,
            calling=context.calling,
            dynamic=context.dynamic,
        )
        _check_same_sites(context.sites, captured.sites)
        if not other_weights:
            _check_same_weights(context.weights, checked)
        request = BuildRequest(
            model=checked,
            captured=captured,
            statistics=context.statistics,
            settings=context.build,
            example=context.example,
            timed=repeat_to(Batch(context.example), context.latency_batch).inputs,
        )
        return load_target(context.build.backend).open_backend(request)

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={self.measurements[name].value:.4g}"
            for name in ("accuracy", "accuracy_drop", "sqnr_db", "speedup")
            if name in self.measurements
        )
        return f"<candidate {self.number} ({self.origin}): {shown}, {self.plan.counts()}>"


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """Everything that a search found.

    Attributes:
        findings: The values: candidates, frontier, sensitivity, environment.
        context: What it takes to build a plan again.
        folder: The result folder.
    """

    findings: Findings
    context: BuildContext
    folder: Path

    @property
    def frontier(self) -> Sequence[ResultCandidate]:
        """The candidates worth choosing between, fastest (or smallest) first."""
        return tuple(ResultCandidate(item, self.context) for item in self.findings.frontier)

    @property
    def candidates(self) -> Sequence[ResultCandidate]:
        """Everything that was tried, by number."""
        return tuple(ResultCandidate(item, self.context) for item in self.findings.candidates)

    @property
    def baseline(self) -> Measurements:
        """Measurements of the float model."""
        return self.findings.frontier.baseline

    @property
    def sensitivity(self) -> SensitivityTable | None:
        """The sensitivity table."""
        return self.findings.sensitivity

    @property
    def hypervolume(self) -> float:
        """Hypervolume of what was found, in the objectives' losses."""
        return self.findings.frontier.hypervolume

    def __iter__(self) -> Iterator[ResultCandidate]:
        return iter(self.frontier)

    def best(self, max_drop: float | None = None) -> ResultCandidate:
        """The cheapest frontier member within an accuracy drop.

        Args:
            max_drop: Largest allowed drop, in the metric's unit; None: the job's own limit.

        Raises:
            PlanError: No member is within it (says how near the nearest comes), or there is none.
        """
        limit = self.findings.facts.max_drop if max_drop is None else max_drop
        if not self.frontier:
            raise PlanError(
                "the frontier is empty: no candidate keeps the job's constraints",
                hint="loosen constraints, widen the search space, or search for longer",
            )
        for member in self.frontier:
            if limit is None or member.value("accuracy_drop") <= limit:
                return member
        nearest = min(item.value("accuracy_drop") for item in self.frontier)
        raise PlanError(
            f"no frontier member drops at most {limit}; the least drop is {nearest:.4g}",
            hint="allow a larger drop, widen the search space, or search for longer",
        )

    def table(self) -> CandidateTable:
        """The frontier as a table."""
        return candidate_table(
            self.findings.frontier.members, self.baseline, self.findings.facts.rival
        )

    def to_dataframe(self) -> pd.DataFrame:
        """All candidates as a data frame; see docs/result-folder.md for its columns."""
        return candidates_frame(self.findings.candidates)

    def plot(self) -> go.Figure:
        """The Pareto plot."""
        return pareto_figure(self.findings)


def _check_same_sites(searched: Sequence[Site], found: Sequence[Site]) -> None:
    before = {(site.name, site.kind) for site in searched}
    now = {(site.name, site.kind) for site in found}
    if before != now:
        different = sorted(name for name, _ in before ^ now)
        raise PlanError(
            f"the model has other sites than the one that was searched: {different[0]!r}"
            + (f" and {len(different) - 1} more" if len(different) > 1 else ""),
            hint="give the same model, with the same module names",
        )


def _check_same_weights(searched: str, model: nn.Module) -> None:
    """Refuse another checkpoint: scales, accuracy and speed-up would all be another model's."""
    found = weights_digest(model)
    if searched and found != searched:
        raise ModelError(
            f"the model's weights (digest {found}) are not those that were searched ({searched}): "
            "its scales and its numbers are those of another checkpoint",
            hint="load the checkpoint of the search, or search again; other_weights=True (on the "
            "command line --other-weights) takes it as it is, for a model that was trained a "
            "little further",
        )


def keep_example(captured: Capture, batch: Batch, samples: int = 2) -> tuple[Tensor, ...]:
    """A few samples to capture with again; all where the model takes one number of them alone."""
    kept = batch.head(samples) if any(captured.dynamic) else batch
    return tuple(item.detach().clone() for item in kept.inputs)


def example_arrays(example: tuple[Tensor, ...]) -> dict[str, Any]:
    """An example as arrays by position, for a file."""
    return {str(index): item.cpu().numpy() for index, item in enumerate(example)}


def example_from(arrays: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Read back what `example_arrays` gave."""
    return tuple(torch.from_numpy(arrays[str(index)]) for index in range(len(arrays)))
