"""What fine-tuning did for a plan: five models on the same samples, paired."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from autoquant.core.findings.finetuning import Recovery, Standing
from autoquant.core.measurement import Kind, Measurement
from autoquant.model.data.batches import Batch
from autoquant.model.subject import Metric
from autoquant.searching.measuring.quality import FloatReference, measure_quality, run_reference

Run = Callable[[tuple[Tensor, ...]], Any]

_NAME = "accuracy"


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """The models that are compared, each as a function of a batch's inputs.

    Attributes:
        float_model: As the user gave it.
        before: The plan, built before training.
        after: The plan, built after training.
        emulated: The fake-quantized model after training.
        trained_float: The float model with the trained weights.
        kind: Of what the engine gave: `emulated` where an op of the plan is.
    """

    float_model: Run
    before: Run
    after: Run
    emulated: Run
    trained_float: Run
    kind: Kind


def measure_recovery(runs: Runs, batches: Sequence[Batch], metric: Metric, data: str) -> Recovery:
    """Measure all of them on one data set.

    Raises:
        NotFiniteError: Outputs hold NaN or infinity; names the batch.
    """
    functions = {_NAME: metric}
    floats = run_reference(runs.float_model, batches, functions)

    def standing(run: Run, kind: Kind) -> Standing:
        found = _measure(run, floats, metric, kind)
        return Standing(found[_NAME], found[f"{_NAME}_drop"])

    before = run_reference(runs.before, batches, functions)
    gained = _measure(runs.after, before, metric, runs.kind)[f"{_NAME}_drop"]
    engine = run_reference(runs.after, batches, functions)
    apart = _measure(runs.emulated, engine, metric, Kind.EMULATED)
    return Recovery(
        data=data,
        float_score=_measure(runs.float_model, floats, metric, Kind.MEASURED)[_NAME],
        before=standing(runs.before, runs.kind),
        after=standing(runs.after, runs.kind),
        emulated=standing(runs.emulated, Kind.EMULATED),
        trained_float=standing(runs.trained_float, Kind.MEASURED),
        gain=replace(gained, value=-gained.value),
        gap=apart[f"{_NAME}_drop"],
        gap_sqnr_db=apart["sqnr_db"],
    )


def _measure(
    run: Run, reference: FloatReference, metric: Metric, kind: Kind
) -> dict[str, Measurement]:
    return measure_quality(run, reference, {_NAME: metric}, kind).measurements
