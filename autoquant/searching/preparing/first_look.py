"""What all int8 may lose, by reference numerics: the first that a search can say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from autoquant.core.measurement import Kind, Measurements
from autoquant.core.precision import Scheme
from autoquant.errors import MetricError
from autoquant.model.data.batches import take_samples
from autoquant.model.data.scoring import metric_title
from autoquant.model.graph.site_nodes import mark_sites
from autoquant.model.numerics.rounded_graph import RoundedGraph, choices_of
from autoquant.results.wording import ScoreUnit, drop_text, score_unit
from autoquant.searching.measuring.quality import (
    Functions,
    NotFiniteError,
    measure_quality,
    run_reference,
)
from autoquant.searching.measuring.workers.alarm import Overdue, overdue_after
from autoquant.searching.preparing.bench import SubjectBench, bind_setup

SAMPLES = 32


def tell_first_look(bench: SubjectBench, options: Mapping[str, Any]) -> None:
    """Compare all int8 with float on a few samples, before an engine is opened, and say it.

    Nothing is said where the space has no int8, or where the model was captured module by module,
    which leaves no reference numerics.

    Args:
        bench: The calibrated model, its data and what is asked of them.
        options: Of the backend, with nothing left open.

    Raises:
        ModelError: The float model's outputs hold NaN or infinity.
    """
    if bench.captured.how != "export":
        return
    bench = replace(bench, settings=bench.settings.building(options=options))
    build = bench.settings.build
    space = bind_setup(bench.setup, bench.captured, build).space
    plan = space.uniform(Scheme.INT8)
    if all(scheme is not Scheme.INT8 for _, scheme in plan.assignment):
        return
    rounded = RoundedGraph(mark_sites(bench.captured), bench.rounding, choices_of(plan))
    named = "all int8, equalised" if build.equalisation else "all int8"
    try:
        found = _compare(bench, rounded)
    except NotFiniteError:
        bench.progress.note(f"{named}, emulated: outputs hold NaN or infinity")
    else:
        samples = found["sqnr_db"].samples
        bench.progress.note(f"{named}, emulated on {samples} samples: {_losses(bench, found)}")


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
    title = metric_title(bench.subject.metric)
    unit = score_unit([found], title)
    score = f"{found['accuracy'].value * unit.factor:.4g}"
    drop = f"{drop_text(found['accuracy_drop'], unit)} {unit.drop_unit}"
    percent = "%" if unit is ScoreUnit.SHARE else ""
    return f"{title} {score}{percent}, drop {drop}, {noise}"
