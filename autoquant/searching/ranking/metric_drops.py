"""How far the user's metric falls with one knob alone in one scheme, really built and run."""

from __future__ import annotations

from collections.abc import Mapping

from autoquant.core.evaluation import Phase, Task
from autoquant.core.measurement import Measurements
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.progress import Progress
from autoquant.core.sensitivity import Part, SensitivityTable
from autoquant.searching.preparing.preparation import Preparation


def measure_drops(
    prepared: Preparation, table: SensitivityTable, count: int, progress: Progress
) -> Mapping[tuple[str, Scheme], Measurements]:
    """Measure metric and drop, paired with fp32, of the noisiest rows on all evaluation samples."""
    rows = sorted((row for row in table.rows if row.part is Part.BOTH), key=lambda row: -row.noise)
    if count <= 0 or not rows:
        return {}
    float_plan = {site.name: Scheme.FP32 for site in prepared.captured.sites}
    evaluator = prepared.evaluator
    found: dict[tuple[str, Scheme], Measurements] = {}
    with progress.stage("measuring the metric of the noisiest rows", len(rows[:count])) as advance:
        for number, row in enumerate(rows[:count]):
            sites = prepared.space.by_name[row.knob].sites
            plan = Plan.of({**float_plan, **dict.fromkeys(sites, row.scheme)})
            outcome = evaluator.run(Phase.QUALITY, Task(number, plan))
            if outcome.failure is None:
                found[row.knob, row.scheme] = {
                    name: outcome.measurements[name] for name in ("accuracy", "accuracy_drop")
                }
            else:
                progress.note(f"{row.knob} in {row.scheme.value}: {outcome.failure.reason}")
            advance(1)
    return found
