"""What a search gives back: the frontier, and from each point a mapping and a model."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from autoquant.backends.protocol import Backend, BuildRequest
from autoquant.backends.targets import load_target
from autoquant.core.build import BuildSettings
from autoquant.core.glance import Glance, Glanced
from autoquant.core.history import StopReason
from autoquant.core.measurement import Candidate, Failure, Measurements
from autoquant.core.objectives import own_goals
from autoquant.core.plan import Plan
from autoquant.core.readback import ReadBack
from autoquant.core.sensitivity import SensitivityTable
from autoquant.core.sites import Site, check_sites
from autoquant.core.statistics import CalibrationStatistics
from autoquant.errors import JobError, ModelError, PlanError
from autoquant.model.data.batches import Batch, repeat_to
from autoquant.model.data.calling import Calling
from autoquant.model.data.few_samples import few_samples
from autoquant.model.equalisation.rewrite import rescaled
from autoquant.model.graph.capture import Capture, capture
from autoquant.model.graph.float_model import buffers_kept, check_float_model, in_eval_mode
from autoquant.model.weights_digest import weights_digest
from autoquant.results.choices import is_no_faster
from autoquant.results.findings import Findings
from autoquant.results.summary import NO_FASTER, summarize
from autoquant.results.table import CandidateTable, candidate_table
from autoquant.results.wording import counts_text, or_busy

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from autoquant.searching.mapping_latency import MappingLatency
    from autoquant.torch_ao.qconfig import QConfig, QConfigMapping
    from autoquant.torch_ao.way_out import MappingCoverage, PlanMapping, WayOut

_LOGGER = logging.getLogger("autoquant.searching")


@dataclass(frozen=True, slots=True, eq=False)
class BuildContext:
    """What it takes to build a plan again.

    Attributes:
        sites: Of the model.
        leaf_modules: Paths that were not traced into.
        statistics: Of its tensors.
        build: What decides how plans are built.
        example: A few input samples.
        calling: How the model takes them.
        dynamic: By tensor, the axes whose size may change.
        latency_batch: Samples of the latency measurement.
        latency_threads: Threads of the latency measurement.
        weights: Digest of the model's weights; empty where an older version searched.
        load: Gives the model that was searched; None where only its user can.
        ways_out: A model and what torch.fx traced of it, the last one.
    """

    sites: tuple[Site, ...]
    leaf_modules: tuple[str, ...]
    statistics: CalibrationStatistics
    build: BuildSettings
    example: tuple[Tensor, ...]
    calling: Calling
    dynamic: tuple[tuple[int, ...], ...]
    latency_batch: int = 1
    latency_threads: int = 1
    weights: str = ""
    load: Callable[[], nn.Module] | None = None
    ways_out: list[tuple[nn.Module, WayOut]] = field(default_factory=list, repr=False)

    def find_model(self, given: nn.Module | None) -> nn.Module:
        """The model that is given, else the one that was searched.

        Raises:
            PlanError: The search was one from Python, in another process.
            ModelError: Its entry point fails.
        """
        if given is not None:
            return given
        try:
            if self.load is not None:
                return self.load()
        except JobError as error:
            raise PlanError(
                "the search's model is not at hand: it was one in memory",
                hint="give the model as the argument",
            ) from error
        raise PlanError("the search's model is not at hand", hint="give the model as the argument")

    def capture_again(
        self, model: nn.Module, *, other_weights: bool = False
    ) -> tuple[nn.Module, Capture]:
        """Check that a model is the one that was searched, and capture it."""
        given = in_eval_mode(check_float_model(model, self.leaf_modules))
        checked = self._equalised(given)
        with buffers_kept(checked):
            captured = capture(
                checked,
                self.example,
                self.leaf_modules,
                self.build.capture,
                calling=self.calling,
                dynamic=self.dynamic,
            )
        check_sites(
            "the search",
            {site.name: site.kind for site in self.sites},
            captured.sites,
            hint="give the same model, with the same module names",
        )
        if not other_weights:
            self._check_weights(given)
        return checked, captured

    def float_model(self, model: nn.Module) -> nn.Module:
        """The model whose plans are built: the given one, or a copy with rescaled channels.

        Raises:
            ModelError: It is no float module, or not the one that was searched.
        """
        given = check_float_model(model, self.leaf_modules)
        self._check_weights(given)
        return self._equalised(given)

    def is_of(self, model: nn.Module) -> bool:
        """Whether plans are built of this very model, not of a copy with rescaled channels."""
        equalisation = self.build.equalisation
        return not equalisation or weights_digest(model) == equalisation.weights

    def _equalised(self, model: nn.Module) -> nn.Module:
        return model if self.is_of(model) else rescaled(model, self.build.equalisation)

    def _check_weights(self, model: nn.Module) -> None:
        if not (self.build.equalisation and self.is_of(model)):
            _check_same_weights(self.weights, model)

    def open_way_out(self, model: nn.Module) -> WayOut:
        """Trace a model for torch.ao; the last one is remembered."""
        from autoquant.torch_ao.way_out import WayOut

        if self.ways_out and self.ways_out[0][0] is model:
            self._check_weights(model)
            return self.ways_out[0][1]
        checked, captured = self.capture_again(model)
        way = WayOut(checked, captured, self.statistics, self.build, self.example)
        self.ways_out[:] = [(model, way)]
        return way


class ResultCandidate:
    """A candidate that can be built again."""

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
    def metadata(self) -> dict[str, Any]:
        """What an exported file carries: the candidate, and how its latency was timed."""
        return {
            **self.candidate.to_json(),
            "threads": self._context.latency_threads,
            "batch_size": self._context.latency_batch,
        }

    def recipe(self, path: Path) -> str | None:
        """One line of Python that makes `run` of its exported file, as it was timed.

        None where nothing here runs such a file.
        """
        build = self._context.build
        known = load_target(build.backend).recipe
        return None if known is None else known(build, path, self._context.latency_threads)

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
    def executed(self) -> ReadBack:
        """What each site really ran, as read back from the engine."""
        return self.candidate.executed

    def value(self, name: str) -> float:
        """Value of a measurement (`accuracy`, `accuracy_drop`, `sqnr_db`, `speedup`...).

        Raises:
            KeyError: There is no such measurement; the message lists those that are.
        """
        return self.candidate.value(name)

    def qconfig_mapping(self, model: nn.Module | None = None) -> QConfigMapping:
        """Give the plan as torch's QConfigMapping, for `prepare_fx` and `convert_fx`.

        The model is traced by torch.fx, its calls are paired with the sites of the search, and the
        mapping is verified: torch prepares and converts once, and each op must agree with its plan
        within a level. A warning says what the mapping cannot carry (`mapping_coverage` gives it
        as values); these sites are in fp32.

        Plans with int16 or fp16 sites need `backend_config=aq.backend_config()` in both calls, and
        a model with `leaf_modules` the same in torch's PrepareCustomConfig. After `prepare_fx`
        calibrate, or call `fix_scales`.

        Args:
            model: The float model that was searched; None: the one in memory, or what the entry
                point of the search's job gives.

        Raises:
            ModelError: torch.fx cannot trace the model (names the line), or torch's own fusion
                changes it.
            PlanError: An op in fp32 computes something else than its plan (names the first); or
                the model was captured module by module.
        """
        model = self._context.find_model(model)
        found = self.torch_mapping(model)
        if not found.coverage.is_complete:
            warnings.warn(str(found.coverage), stacklevel=2)
        if not self._context.is_of(model):
            warnings.warn(
                "the search rescaled channels, and this mapping is of that model: prepare "
                "candidate.float_model(), not the model as given",
                stacklevel=2,
            )
        return found.mapping

    def float_model(self, model: nn.Module | None = None) -> nn.Module:
        """Give the float model that plans are built of, which is what `prepare_fx` must get.

        Where the search rescaled channels (`model.equalise`), it is a copy of the same class and
        function with other parameters; else the model itself.

        Args:
            model: As for `qconfig_mapping`, which takes either.

        Raises:
            ModelError: It is not the one that was searched.
        """
        return self._context.float_model(self._context.find_model(model))

    def mapping_coverage(self, model: nn.Module | None = None) -> MappingCoverage:
        """Say what of the plan its QConfigMapping carries, and why the rest stays in fp32.

        Args:
            model: As for `qconfig_mapping`.
        """
        return self.torch_mapping(model).coverage

    def mapping_latency(
        self, model: nn.Module | None = None, *, pairs: int = 20, threads: int = 1
    ) -> MappingLatency:
        """Time what torch.ao makes of the mapping beside what `quantize` gives, in turn.

        Args:
            model: As for `qconfig_mapping`.
            pairs: How often the two are timed in turn, at first.
            threads: Of both.
        """
        from autoquant.searching.mapping_latency import time_mapping

        model = self._context.find_model(model)
        backend = self.open_backend(model)
        return time_mapping(
            self.torch_mapping(model),
            backend.build(self.plan).module,
            backend.run,
            repeat_to(Batch(self._context.example), self._context.latency_batch).inputs,
            pairs=pairs,
            threads=threads,
        )

    def torch_mapping(self, model: nn.Module | None = None) -> PlanMapping:
        """Give the plan in torch.ao's hands: mapping, coverage, converted model.

        Args:
            model: As for `qconfig_mapping`.
        """
        way = self._context.open_way_out(self._context.find_model(model))
        return way.of(self.plan)

    def module_qconfigs(self) -> dict[str, QConfig | None]:
        """Give the plan as torch's QConfig of each module, by path, for its eager mode.

        None leaves a module in float. bf16 is a cast, which no QConfig carries; `quantize` makes
        it. Ops that a forward calls by function have no module, and are left out.
        """
        from autoquant.torch_ao.qconfig import qconfigs_by_module

        return qconfigs_by_module(self._context.sites, self.plan, self._context.build)

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

    def fix_scales(self, prepared: GraphModule, model: nn.Module | None = None) -> None:
        """Give the observers of a model that torch prepared the scales of the search, in place.

        It needs no calibration then: `convert_fx` may follow. All fixed ranges are honoured, and
        int16 activations stay rounded after `convert_fx`.

        Args:
            prepared: From `prepare_fx` with this candidate's `qconfig_mapping()`.
            model: As for `qconfig_mapping`.

        Raises:
            ValueError: It has tensors that the search did not calibrate.
        """
        self._context.open_way_out(self._context.find_model(model)).fix_scales(prepared)

    def quantize(
        self, model: nn.Module, *, other_weights: bool = False, reduce_range: bool = False
    ) -> nn.Module:
        """Build the plan on a model: converted, ready to run, without calibrating again.

        The packed weights carry their engine, except qnnpack's: for that one set
        `torch.backends.quantized.engine = "qnnpack"` before running.

        Args:
            model: The float model that was searched; it is not changed.
            other_weights: Take a model with other weights than those that were searched, at the
                scales of the search: for one that was trained a little further.
            reduce_range: Let int8 leave out a bit, for CPUs whose kernels overflow with eight (x86
                without VNNI) where those of the search do not; a warning says where that is so.

        Raises:
            ModelError: It is no float module, cannot be captured, or has other weights.
            PlanError: It has other sites than the one that was searched.
            BackendError: The engine refuses the plan on this machine.
        """
        backend = self.open_backend(model, other_weights=other_weights, reduce_range=reduce_range)
        return self._context.calling.nest(backend.build(self.plan).module)

    def open_backend(
        self, model: nn.Module, *, other_weights: bool = False, reduce_range: bool = False
    ) -> Backend:
        """Open the backend of the search on a model, to build, run and export plans.

        Args:
            model: The float model that was searched; it is not changed.
            other_weights: As for `quantize`.
            reduce_range: As for `quantize`.

        Raises:
            ModelError: It is no float module, cannot be captured, or has other weights.
            PlanError: It has other sites than the one that was searched.
            BackendError: The backend's extra is not installed here.
        """
        context = self._context
        build, target = context.build, load_target(context.build.backend)
        if reduce_range:
            build = build.with_weight_bits(7)
        elif not build.ranges.is_reduced and target.overflows(build):
            warnings.warn(
                f"int8 sums of {build.backend} overflow on this CPU, and the search took all eight "
                "bits: what int8 ops give may be far off; reduce_range=True leaves out a bit",
                stacklevel=3,
            )
        checked, captured = context.capture_again(model, other_weights=other_weights)
        request = BuildRequest(
            model=checked,
            captured=captured,
            statistics=context.statistics,
            settings=build,
            example=context.example,
            timed=repeat_to(Batch(context.example), context.latency_batch).inputs,
        )
        return target.open_backend(request)

    def __repr__(self) -> str:
        return repr(self.candidate)

    def _repr_html_(self) -> str:
        rows = [
            (
                name,
                or_busy(item, f"{item.value:.4g}"),
                "" if item.stderr is None else f"{item.stderr:.2g}",
            )
            for name, item in self.measurements.items()
        ]
        title = f"candidate {self.number} ({self.origin}): {counts_text(self.plan)}"
        step = "candidate.quantize(model), aq.export(candidate, model, path), candidate.plan"
        return Glance(title, ("measurement", "value", "standard error"), rows, step).html


class FrontierMembers(tuple[ResultCandidate, ...]):
    """A frontier's candidates, as a tuple that shows itself line by line."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "\n".join(map(repr, self))

    def _repr_html_(self) -> str:
        names = [
            name
            for name in ("accuracy", "accuracy_drop", "sqnr_db", "speedup", "size_bytes")
            if any(name in item.measurements for item in self)
        ]
        rows = [
            (
                str(item.number),
                *(
                    or_busy(item.measurements[name], f"{item.value(name):.4g}")
                    if name in item.measurements
                    else "-"
                    for name in names
                ),
                counts_text(item.plan),
            )
            for item in self
        ]
        return Glance(f"{len(self)} candidates", ("#", *names, "ops"), rows).html


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SearchResult(Glanced):
    """Everything that a search found."""

    findings: Findings
    context: BuildContext
    folder: Path

    @property
    def frontier(self) -> FrontierMembers:
        """The candidates worth choosing between, fastest (or smallest) first."""
        return FrontierMembers(
            ResultCandidate(item, self.context) for item in self.findings.frontier
        )

    @property
    def glance(self) -> Glance:
        """What came out, in a few lines: the frontier by the columns that matter most."""
        table = self.table().narrow
        title = " ".join([f"{self.findings.facts.name}:", *summarize(self.findings)[:2]])
        heads = tuple(column.title for column in table.columns)
        step = "result.best().quantize(model), result.plot(), result.to_dataframe()"
        return Glance(title, heads, table.rows, step)

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
    def stopped(self) -> StopReason | None:
        """Why the search ended; None where an older version searched."""
        return self.findings.facts.stopped

    @property
    def hypervolume(self) -> float:
        """Hypervolume of what was found, in the objectives' losses."""
        return self.findings.frontier.hypervolume

    def __iter__(self) -> Iterator[ResultCandidate]:
        return iter(self.frontier)

    def best(self, max_drop: float | None = None) -> ResultCandidate:
        """The cheapest frontier member within an accuracy drop.

        Of those that are as fast within noise, the most exact.

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
        picked = self.findings.frontier.pick(limit)
        if picked is not None:
            if is_no_faster(picked):
                _LOGGER.warning(NO_FASTER)
            return ResultCandidate(picked, self.context)
        nearest = min(item.value("accuracy_drop") for item in self.frontier)
        raise PlanError(
            f"no frontier member drops at most {limit}; the least drop is {nearest:.4g}",
            hint="allow a larger drop, widen the search space, or search for longer",
        )

    def table(self) -> CandidateTable:
        """The frontier as a table."""
        return candidate_table(
            self.findings.frontier.members,
            self.baseline,
            self.findings.facts.rival,
            self.findings.facts.metric,
            own_goals(self.findings.frontier.objectives),
        )

    def to_dataframe(self) -> pd.DataFrame:
        """All candidates as a data frame; see docs/result-folder.md for its columns."""
        from autoquant.results.frame import candidates_frame

        return candidates_frame(self.findings.candidates)

    def plot(self) -> go.Figure:
        """The Pareto plot."""
        from autoquant.results.plots.pareto import pareto_figure

        return pareto_figure(self.findings)


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


def keep_example(captured: Capture, batch: Batch) -> tuple[Tensor, ...]:
    """A few samples to capture with again; all where the model takes one number of them alone."""
    return tuple(item.detach().clone() for item in few_samples(captured, batch))


def example_arrays(example: tuple[Tensor, ...]) -> dict[str, Any]:
    """An example as arrays by position, for a file."""
    return {str(index): item.cpu().numpy() for index, item in enumerate(example)}


def example_from(arrays: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Read back what `example_arrays` gave."""
    return tuple(torch.from_numpy(arrays[str(index)]) for index in range(len(arrays)))
