"""The evaluator: one process's subject, backend and float reference, and what it measures."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from autoquant.backends.protocol import Backend, BuildRequest, Executable
from autoquant.backends.targets import load_target, reference_rounding
from autoquant.core.backends import find_rows
from autoquant.core.build import BuildSettings
from autoquant.core.evaluation import Evaluator, Outcome, Phase, Task
from autoquant.core.measurement import Failure, Kind, Measurement, fastest_float
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.quantities import SINGLE_FLOAT_SPEEDUP, SINGLE_LATENCY, SINGLE_SPEEDUP
from autoquant.core.secrets import masked
from autoquant.core.statistics import CalibrationStatistics
from autoquant.errors import AutoquantError, BackendError, MetricError, ModelError
from autoquant.model.data.batches import Batch, join_batches, repeat_to, take_samples
from autoquant.model.data.few_samples import few_samples
from autoquant.model.graph.captured import Capture
from autoquant.model.heap import free_large, keep_freed_memory
from autoquant.model.numerics.rounding import SchemeRounding
from autoquant.model.recipes import SubjectRecipe
from autoquant.model.subject import Subject
from autoquant.searching.measuring.clocks import Clocks
from autoquant.searching.measuring.engine_reference import run_on_engine
from autoquant.searching.measuring.own_costs import OwnCosts, exact_costs, own_baseline
from autoquant.searching.measuring.plan_timer import PlanTimer, Timing, float_plans
from autoquant.searching.measuring.quality import (
    FloatReference,
    NotFiniteError,
    measure_quality,
    run_reference,
)

_FEW = 4
_MOST_KEPT = 16
_KEPT_BYTES = 1 << 28
_COPIES = 3
"""Built plans are kept for the next phase up to so many, or so many bytes; a plan of floats holds
its weights as they are stored, as the engine reads them, and as it packs them."""


@dataclass(frozen=True, slots=True)
class MeasurementSettings:
    """How plans are built and measured.

    Attributes:
        build: What decides how a plan is built.
        quality_threads: Threads of a quality evaluation.
        latency_threads: Threads of a latency measurement.
        latency_batch: Samples of a latency batch; None: those of the first evaluation batch.
        latency_pairs: Interleaved pairs of a latency measurement, at most.
        reference: Scheme of the float plan that candidates are paired with; None: they are paired
            with the float model.
        own: Costs of the user's own objectives, by name.
    """

    build: BuildSettings
    quality_threads: int = 1
    latency_threads: int = 1
    latency_batch: int | None = None
    latency_pairs: int = 20
    reference: Scheme | None = None
    own: OwnCosts = field(default_factory=dict, hash=False, repr=False)

    def building(self, **changes: Any) -> MeasurementSettings:
        """The same measurements of plans that are built otherwise; names fields of `build`."""
        return replace(self, build=replace(self.build, **changes))


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A model that is captured and calibrated, and what plans of it are built and measured with.

    Attributes:
        subject: Model, data and metric.
        captured: The captured model.
        statistics: Of its tensors.
        settings: How plans are built and measured.
    """

    subject: Subject
    captured: Capture
    statistics: CalibrationStatistics
    settings: MeasurementSettings

    def request(self, settings: BuildSettings) -> BuildRequest:
        """What a backend with some settings is opened with."""
        keep_freed_memory()
        subject = self.subject
        return BuildRequest(
            model=subject.model,
            captured=self.captured,
            statistics=self.statistics,
            settings=settings,
            example=subject.example,
            timed=(
                latency_inputs(subject, self.settings.latency_batch)
                if subject.evaluation
                else subject.example
            ),
        )

    @cached_property
    def backend(self) -> Backend:
        """The backend of this process, opened when it is first needed.

        Raises:
            BackendError: Its extra is not installed, or the engine cannot take the model.
        """
        build = self.settings.build
        return load_target(build.backend).open_backend(self.request(build))

    @cached_property
    def evaluator(self) -> PlanEvaluator:
        """Measures plans in this process; what it knows of the float model is computed once."""
        return PlanEvaluator(self, self.backend)

    @property
    def rounding(self) -> SchemeRounding:
        """How the target rounds tensors under each scheme, by reference numerics."""
        return reference_rounding(self.captured, self.statistics, self.settings.build)


class PlanEvaluator:
    """Measures plans against the float model. Keeps the last executables it built."""

    def __init__(self, calibrated: Calibrated, backend: Backend) -> None:
        subject, settings, clocks = calibrated.subject, calibrated.settings, Clocks()
        self._subject = subject
        self._functions = subject.functions
        self._captured = captured = calibrated.captured
        self._backend = backend
        self._settings = settings
        self._clock = clocks.wall
        self._references: dict[Phase, FloatReference] = {}
        self._built: OrderedDict[str, Executable] = OrderedDict()
        self._float = subject.flat
        self._rival = subject.timed
        self._sitting = 0
        self._fp32 = Plan.uniform((site.name for site in captured.sites), Scheme.FP32)
        self._timing = Timing(settings.latency_pairs, settings.latency_threads, clocks)
        self._timed_inputs: dict[Phase, tuple[Tensor, ...]] = {}
        self._timers: dict[Phase, PlanTimer] = {}
        self._reference_scheme = settings.reference

    def run(self, phase: Phase, task: Task) -> Outcome:
        """Do one phase of one plan; what fails becomes a `Failure`."""
        seconds: dict[str, float] = {}
        try:
            if task.sitting > self._sitting:
                self._sit_again(task.sitting)
            costs: dict[str, Measurement] = {}
            if phase is Phase.QUALITY:
                costs = exact_costs(self._captured, self._settings.own, task.plan)
            with self._timed("build", seconds):
                executable = self.build(task.plan)
            with self._timed(phase.value, seconds):
                found, stopped = self._measure(phase, executable, task)
        except (BackendError, ModelError, MetricError, NotFiniteError) as error:
            refused = error.sites if isinstance(error, BackendError) else None
            failure = Failure(_reason(error), refused=refused)
            return Outcome(task.number, failure=failure, seconds=seconds)
        found |= costs
        executed = dict(executable.executed)
        return Outcome(task.number, found, stopped=stopped, seconds=seconds, executed=executed)

    def forget(self) -> None:
        """Drop the executables that are kept, so that the next run builds again."""
        self._built.clear()

    def _sit_again(self, sitting: int) -> None:
        """Begin a sitting: what is timed in it is built anew, and so is its reference."""
        self._sitting = sitting
        self.forget()
        for timer in self._timers.values():
            timer.begin_sitting()

    def refer_to(self, scheme: Scheme | None) -> None:
        """Pair candidates with the float plan of a scheme, as an earlier process did."""
        self._reference_scheme = scheme
        for timer in self._timers.values():
            timer.scheme = scheme

    def baseline(self) -> dict[str, Measurement]:
        """Measure the float model as the user gave it: the rival of every candidate."""
        found = self.float_scores()
        found["size_bytes"] = Measurement(float(self._captured.float_bytes), Kind.ESTIMATED)
        found |= own_baseline(self._captured.sites, self._settings.own)
        if self._backend.rival_ms is not None:
            found["latency_ms"] = Measurement(self._backend.rival_ms, Kind.ESTIMATED)
            return found
        return found | self.rivals()

    def float_scores(self) -> dict[str, Measurement]:
        """Score the float model on the evaluation data, once in a process."""
        return self._reference(Phase.QUALITY).measurements()

    def heldout_baseline(self) -> dict[str, Measurement]:
        """Score the float model on held-out data, where there are any."""
        if self._subject.heldout is None:
            return {}
        return self._reference(Phase.HELDOUT).measurements("heldout_")

    def rivals(self, phase: Phase = Phase.LATENCY) -> dict[str, Measurement]:
        """Time the float model and the engine's float plans, and pair with the fastest."""
        with with_threads(self._settings.latency_threads):
            found = self._timer(phase).rivals()
        self.refer_to(fastest_float(found))
        return found

    def _measure(
        self, phase: Phase, executable: Executable, task: Task
    ) -> tuple[dict[str, Measurement], str | None]:
        if phase.is_timed:
            return self._latency(phase, executable, task), None
        prefix = "heldout_" if phase is Phase.HELDOUT else ""
        reference = self._reference(phase)
        known = reference.of_fp32_plan
        if known is not None and task.plan.digest == self._fp32.digest:
            return {prefix + name: item for name, item in known.items()}, None
        with with_threads(self._settings.quality_threads):
            quality = measure_quality(
                lambda inputs: self._backend.run(executable.module, inputs),
                reference,
                self._functions,
                executable.kind,
                prefix,
                task.threshold,
            )
        return quality.measurements, quality.stopped

    def _latency(self, phase: Phase, executable: Executable, task: Task) -> dict[str, Measurement]:
        rival_ms, estimate = self._backend.rival_ms, executable.estimated_ms
        if rival_ms is not None and estimate is not None:
            return {
                "latency_ms": Measurement(estimate, Kind.ESTIMATED),
                "speedup": Measurement(rival_ms / estimate, Kind.ESTIMATED),
            }
        with with_threads(self._settings.latency_threads):
            timer = self._timer(phase)
            call = self._timed_call(executable, phase)
            found = timer.time(task.plan, call, task.competing)
        if phase is Phase.LATENCY:
            return found
        names = {
            "speedup": SINGLE_SPEEDUP.name,
            "float_speedup": SINGLE_FLOAT_SPEEDUP.name,
            "latency_ms": SINGLE_LATENCY.name,
        }
        return {names[name]: item for name, item in found.items() if name in names}

    def _timer(self, phase: Phase) -> PlanTimer:
        """Times plans on the latency batch, or on one sample."""
        if phase not in self._timers:
            for other in self._timers.values():
                other.begin_sitting()  # which lets its reference go
            size = self._settings.latency_batch if phase is Phase.LATENCY else 1
            inputs = self._timed_inputs[phase] = latency_inputs(self._subject, size)
            timer = PlanTimer(
                lambda plan: self._timed_call(self.build(plan), phase),
                lambda: self._backend.run(self._rival, inputs),
                self._timing,
                float_plans(self._captured.sites, self._backend.support),
                partial(self._glance, inputs),
            )
            timer.scheme = self._reference_scheme
            self._timers[phase] = timer
        return self._timers[phase]

    def _timed_call(self, executable: Executable, phase: Phase) -> Callable[[], object]:
        """What runs a plan once on what a phase times."""
        if executable.kind is not Kind.MEASURED:
            slow = [site for site, ran in executable.executed.items() if ran.is_emulated]
            raise BackendError(
                f"the latency of a plan with emulated ops cannot be measured ({slow[0]} "
                f"and {len(slow) - 1} more)"
                if len(slow) > 1
                else f"the latency of a plan with emulated ops cannot be measured ({slow[0]})",
                hint="search with the objective bops or size, or drop the emulated schemes",
            )
        inputs = self._timed_inputs[phase]
        return lambda: self._backend.run(executable.module, inputs)

    def call(self, plan: Plan) -> Callable[[], object]:
        """Give what runs a plan once on the latency batch.

        Raises:
            BackendError: The engine refuses the plan, or emulates some of it.
        """
        self._timer(Phase.LATENCY)  # which knows the batch
        return self._timed_call(self.build(plan), Phase.LATENCY)

    def _glance(self, inputs: tuple[Tensor, ...], plan: Plan) -> Callable[[], object]:
        """Give what runs a plan once on a few samples of a batch."""
        few = few_samples(self._captured, Batch(inputs), _FEW)
        return partial(self._backend.run, self.build(plan).module, few)

    def build(self, plan: Plan) -> Executable:
        """Build a plan, or give what was built of it before."""
        executable = self._built.pop(plan.digest, None)
        if executable is None:
            self._make_room()
            executable = self._backend.build(plan)
        self._built[plan.digest] = executable
        return executable

    def _make_room(self) -> None:
        """Drop the plans that were built first, so that there is room for one more."""
        weight_bytes = max(self._captured.float_bytes, 1)
        most = max(1, min(_MOST_KEPT, _KEPT_BYTES // (_COPIES * weight_bytes)))
        while len(self._built) >= most:
            self._built.popitem(last=False)
        free_large(weight_bytes)

    def _reference(self, phase: Phase) -> FloatReference:
        if phase not in self._references:
            heldout = self._subject.heldout
            batches = heldout if phase is Phase.HELDOUT and heldout else self._subject.evaluation
            with with_threads(self._settings.quality_threads):
                self._references[phase] = self._on_engine(batches) or run_reference(
                    self._run_float, batches, self._functions, self._subject.outputs
                )
        return self._references[phase]

    def _on_engine(self, batches: Sequence[Batch]) -> FloatReference | None:
        """The reference by the engine's all-fp32 plan; None where the model itself must run."""
        if find_rows()[self._settings.build.backend].is_slow:
            return None
        try:
            executable = self.build(self._fp32)
        except BackendError:
            return None
        if executable.kind is not Kind.MEASURED:
            return None
        return run_on_engine(
            self._run_float,
            lambda inputs: self._backend.run(executable.module, inputs),
            batches,
            self._functions,
            self._subject.outputs,
        )

    def _run_float(self, inputs: tuple[Tensor, ...]) -> Any:
        return self._backend.run(self._float, inputs)

    @contextmanager
    def _timed(self, name: str, seconds: dict[str, float]) -> Iterator[None]:
        started = self._clock()
        try:
            yield
        finally:
            seconds[name] = self._clock() - started


@dataclass(frozen=True, slots=True)
class EvaluatorRecipe:
    """Picklable recipe of a `PlanEvaluator`: a worker calls it once."""

    subject: SubjectRecipe
    statistics: CalibrationStatistics
    settings: MeasurementSettings

    def __call__(self) -> Evaluator:
        """Load the subject, capture it and give the evaluator."""
        torch.set_num_threads(self.settings.quality_threads)
        subject = self.subject().equalised(self.settings.build.equalisation)
        return Calibrated(subject, subject.find_sites(), self.statistics, self.settings).evaluator


def latency_inputs(subject: Subject, batch_size: int | None) -> tuple[Tensor, ...]:
    """A batch of the wanted size, from the evaluation data, repeated where they are too few."""
    batches = subject.evaluation
    if batch_size is None:
        return batches[0].inputs
    return repeat_to(join_batches(take_samples(batches, batch_size)), batch_size).inputs


def _reason(error: Exception) -> str:
    """What failed and its mend, in one line."""
    if isinstance(error, AutoquantError) and error.hint:
        return masked(f"{error.message}; {error.hint}")
    return masked(str(error))


@contextmanager
def with_threads(count: int) -> Iterator[None]:
    """Run with `count` torch threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
