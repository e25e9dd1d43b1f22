"""What all int8 may lose, by reference numerics: the first that a search can say."""

from __future__ import annotations

import torch

from autoquant.backends.targets import reference_rounding
from autoquant.core.build import BuildSettings
from autoquant.core.measurement import Kind, Measurements
from autoquant.core.precision import Scheme
from autoquant.errors import MetricError
from autoquant.model.data.batches import take_samples
from autoquant.model.data.scoring import metric_title
from autoquant.model.graph.site_nodes import mark_sites
from autoquant.model.numerics.rounded_graph import RoundedGraph, choices_of
from autoquant.results.wording import ScoreUnit, score_unit, with_spread
from autoquant.searching.measuring.quality import (
    Functions,
    NotFiniteError,
    measure_quality,
    run_reference,
)
from autoquant.searching.measuring.workers.alarm import Overdue, overdue_after
from autoquant.searching.preparing.bench import SubjectBench, bind_setup

SAMPLES = 32


def first_look(bench: SubjectBench, build: BuildSettings) -> str | None:
    """Compare all int8 with float on a few samples, before an engine is opened.

    Args:
        bench: The calibrated model, its data and what is asked of them.
        build: Settings of the target that leave nothing open.

    Returns:
        One line; None where the space has no int8, or the model was captured module by module,
        which leaves no reference numerics.

    Raises:
        ModelError: The float model's outputs hold NaN or infinity.
    """
    if bench.captured.how != "export":
        return None
    space = bind_setup(bench.setup, bench.captured, build).space
    plan = space.uniform(Scheme.INT8)
    if all(scheme is not Scheme.INT8 for _, scheme in plan.assignment):
        return None
    rounding = reference_rounding(bench.captured, bench.statistics, build)
    rounded = RoundedGraph(mark_sites(bench.captured), rounding, choices_of(plan))
    try:
        found = _compare(bench, rounded)
    except NotFiniteError:
        return "all int8, emulated: outputs hold NaN or infinity"
    return f"all int8, emulated on {found['sqnr_db'].samples} samples: {_losses(bench, found)}"


def _compare(bench: SubjectBench, rounded: RoundedGraph) -> Measurements:
    """Measure the rounded graph as a candidate is measured; a metric that fails is left out.

    It fails perhaps of so few samples alone: all of them will tell. So is one that hangs.
    """
    try:
        with overdue_after(bench.setup.execution.timeout):
            return _measure(bench, rounded, bench.subject.functions)
    except (MetricError, Overdue):
        return _measure(bench, rounded, {})


def _measure(bench: SubjectBench, rounded: RoundedGraph, functions: Functions) -> Measurements:
    batches = take_samples(bench.subject.evaluation, SAMPLES)
    graph = bench.captured.graph
    with torch.no_grad():
        reference = run_reference(
            lambda inputs: graph(*inputs), batches, functions, bench.subject.outputs
        )
        return measure_quality(
            lambda inputs: rounded.run(*inputs), reference, functions, Kind.EMULATED
        ).measurements


def _losses(bench: SubjectBench, found: Measurements) -> str:
    """The metric and its drop where they were measured, and SQNR."""
    noise = f"SQNR {found['sqnr_db'].value:.1f} dB"
    if "accuracy" not in found:
        return noise
    unit = score_unit([found])
    score = f"{found['accuracy'].value * unit.factor:.4g}"
    drop = f"{with_spread(found['accuracy_drop'], unit.factor)} {unit.drop_unit}"
    percent = "%" if unit is ScoreUnit.SHARE else ""
    return f"{metric_title(bench.subject.metric)} {score}{percent}, drop {drop}, {noise}"
